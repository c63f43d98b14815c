"""Readers that are easy to predict, in the place of Rag, for measurements whose results are counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from rag_jax.api import Reading, Retrieved
from rag_jax.data.formats import Passage, Question
from rag_jax.data.tokenizer import train_byte_bpe
from rag_jax.decode.generate import Generated
from rag_jax.evaluation.walks import Walks

MAYORS = {"Brimholt": "Ada Quist", "Cladow": "Bo Rook", "Dunmere": "Cyd Stane", "Eskford": "Dov Thrup"}


class Reader:
    """Finds the right passage, and says what `say(question, text of the first document)` says."""

    def __init__(self, tokenizer, editions, say):
        self.tokenizer, self.editions, self.say = tokenizer, editions, say
        self.config = SimpleNamespace(evaluate=SimpleNamespace(batch=3))
        self.swap_index("before")

    def swap_index(self, name):
        passages = [Passage(town, town, f"The mayor of {town} is {who}.") for town, who in self.editions[name].items()]
        tokens = [[np.array(ids, np.int32) for ids in self.tokenizer.encode_batch([p.title, p.text])] for p in passages]
        self.retriever = SimpleNamespace(
            index=SimpleNamespace(folder=name, passages=passages),
            generator_tokenizer=self.tokenizer,
            documents=lambda ids_BK: [[tuple(tokens[row]) for row in ids_K] for ids_K in ids_BK.tolist()],
        )

    def identity(self):
        return f"a reader of {self.retriever.index.folder}"

    def retrieve(self, texts, *, k=None):
        """The passage whose title the question names, then the one after it."""
        titles = [passage.title for passage in self.retriever.index.passages]
        rows = np.array([next(row for row, title in enumerate(titles) if title in text) for text in texts])
        ids_BK = np.stack([rows, (rows + 1) % len(titles)], axis=1)
        return Retrieved(ids_BK, np.zeros(ids_BK.shape, np.float32), np.full(ids_BK.shape, np.log(0.5), np.float32))

    def read(self, texts, documents_BK, prior_BK):
        firsts = [self.tokenizer.decode(documents_K[0][1]) for documents_K in documents_BK]
        said = [self.say(question, text) for question, text in zip(texts, firsts, strict=True)]
        one_BN = np.full((len(said), 1), -1.0)
        return Reading([[text] for text in said], Generated(None, one_BN, one_BN, np.exp(prior_BK)[:, None], None))


def copies(question, text):
    """Reads: what stands behind "is"."""
    return text.partition(" is ")[2].rstrip(".")


def remembers(question, text):
    """Knows the mayors of training by heart and looks at nothing."""
    return next(who for town, who in MAYORS.items() if town in question)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    texts = [f"The mayor of {town} is {who}." for town, who in MAYORS.items()]
    return train_byte_bpe(texts, 300, tmp_path_factory.mktemp("evaluation") / "generator")


@pytest.fixture
def questions():
    return [Question(town, f"who is mayor of {town}?", (who,), (town,)) for town, who in MAYORS.items()]


@pytest.fixture
def reader(tokenizer):
    """reader('copies' or 'remembers'), with two editions of the mayors: the last two change."""
    after = {**MAYORS, "Dunmere": "Eli Ulm", "Eskford": "Fay Vane"}
    editions = {"before": MAYORS, "after": after}
    return lambda how: Reader(tokenizer, editions, {"copies": copies, "remembers": remembers}[how])


@pytest.fixture
def walks(reader, tmp_path):
    """walks('copies'): the walks of such a reader."""
    return lambda how: Walks(reader(how), tmp_path / "kept", how)
