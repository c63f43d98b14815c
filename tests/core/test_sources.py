"""Generator inputs that the device puts together are those of the host, whatever has to be cut."""

from functools import partial
from itertools import product

import jax
import numpy as np
import pytest

from rag_jax.core.sources import Frame, sources
from rag_jax.data.text import Marks, fill_sources

MARKS = Marks(0, 2, 1, np.array([50, 51]), np.array([60]))
FRAME = Frame(0, 2, 1, (50, 51), (60,))
SIZES = (0, 1, 3, 8)


@pytest.mark.parametrize("policy", ["keep_question", "huggingface"])
def test_every_cut_is_that_of_the_host(policy):
    """All lengths of title, text and question from 0 to more than fits, in sources of 6 to 40 tokens."""
    pieces = {size: np.arange(size, dtype=np.int32) for size in SIZES}
    documents = [(100 + pieces[title], 200 + pieces[text]) for title, text in product(SIZES, SIZES)]
    questions = [300 + pieces[size] for size in SIZES]
    documents_BK = [documents] * len(questions)
    document_BKP = np.zeros((len(questions), len(documents), 16), np.int32)
    for row, (title, text) in enumerate(documents):
        document_BKP[:, row, : len(title) + len(text)] = np.concatenate([title, text])
    sizes = [[len(title), len(text)] for title, text in documents]
    title_BK, text_BK = np.broadcast_to(np.array(sizes).T[:, None], (2, len(questions), len(documents)))
    inner_BR = np.stack([np.pad(ids, (0, 8 - len(ids))) for ids in questions])
    join = jax.jit(partial(sources, frame=FRAME, keep_question=policy == "keep_question"), static_argnames="length")
    for length in (6, 9, 12, 40):
        found = join(document_BKP, title_BK, text_BK, inner_BR, np.array([len(q) for q in questions]), length=length)
        expected = fill_sources(documents_BK, questions, length=length, marks=MARKS, policy=policy)
        np.testing.assert_array_equal(found, expected)
