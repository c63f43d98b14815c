"""FEVER's labels where the model tells them apart instead of writing them out (Lewis et al. 2020, section 3.4)."""

from collections.abc import Sequence

import numpy as np

from rag_jax.data.text import Marks, inner_pieces, targets
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import fail
from rag_jax.metrics.labels import NOT_ENOUGH_INFO, REFUTES, SUPPORTS

# The word that stands for a label: one token of BART's vocabulary, after a space. The paper does not name its own.
WORDS = {SUPPORTS: "true", REFUTES: "false", NOT_ENOUGH_INFO: "unknown"}
START = 2  # tokens that the decoder reads before an answer: `</s> <s>`


def label_tokens(labels: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token of each label's word; UserError for a word of several."""
    words = [WORDS[label] for label in labels]
    pieces = inner_pieces(tokenizer, words)
    for word, ids in zip(words, pieces, strict=True):
        if len(ids) > 1:
            said = " ".join(repr(tokenizer.decode([token])) for token in ids)
            fail(
                f"config.data.classify: found 'token', but {tokenizer.folder} has {len(ids)} tokens for "
                f"{' ' + word!r}, {said}, expected one; give BART's tokenizer, or take 'head', or train "
                "tokenizers in another --workdir"
            )
    return tuple(int(ids[0]) for ids in pieces)


def decoder_inputs(tokenizer: Tokenizer, claims: Sequence[str], length: int) -> np.ndarray:
    """What the decoder reads before a label is told, token_BT with T = `length`: `</s> <s>`, then the claim again.

    A claim is cut on the right; where `length` is START there is none. Its state at the last token is BART's for
    classification: the one that would say `</s>`.
    """
    return targets(inner_pieces(tokenizer, claims), length=length, marks=Marks.of(tokenizer))[0]
