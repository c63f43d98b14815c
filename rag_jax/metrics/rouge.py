"""ROUGE-L, which two evaluators of this field define in two ways."""

from collections.abc import Iterable
from typing import Literal

from rag_jax.metrics.text import several
from rag_jax.metrics.tokenise import Tokenise

COCO_BETA = 1.2


def rouge_l(
    prediction: str, references: Iterable[str], *, definition: Literal["coco", "kilt"], tokenise: Tokenise
) -> float:
    """ROUGE-L (Lin 2004) of one prediction, in [0, 1]; a corpus's is the mean over its predictions.

    'coco' is coco-caption's and with it MS-MARCO's (Chen et al. 2015): the longest common subsequence's
    precision and recall, each the best over the references, be they different ones, joined with beta 1.2.

    'kilt' is KILT's (Petroni et al. 2021; the `rouge` package, 1.0, on `tokenise.whitespace`): the best reference's
    F1 at summary level. Stripped texts fall into sentences at '.'; a reference sentence is credited with the words of
    its longest common subsequence with each predicted sentence; all counts are of distinct words. A sentence of white
    space alone, as between the dots of '. .', is one empty word.

    Google's rouge-score is neither: it cuts words at all but a-z and 0-9, and takes one reference's F1 by all words.
    An empty prediction scores 0, and so does an empty reference, whatever the other side is.

    Raises:
        ValueError: no references, or an unknown definition.
    """
    if definition == "coco":
        return _coco(tokenise(prediction), [tokenise(reference) for reference in several(references)])
    if definition == "kilt":
        said = _sentences(prediction, tokenise)
        return max(_summary_f1(said, _sentences(reference, tokenise)) for reference in several(references))
    raise ValueError(f"definition is {definition!r}, expected 'coco' or 'kilt'")


def _coco(said: list[str], references: list[list[str]]) -> float:
    common = [len(_common_subsequence(reference, said)) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(said)
    recall = max(length / len(words) for length, words in zip(common, references, strict=True) if words)
    return (1 + COCO_BETA**2) * precision * recall / (recall + COCO_BETA**2 * precision)


def _summary_f1(said: list[list[str]], reference: list[list[str]]) -> float:
    common = {word for wanted in reference for sentence in said for word in _common_subsequence(wanted, sentence)}
    distinct = len({word for sentence in said for word in sentence}) + len(
        {word for words in reference for word in words}
    )
    return 2 * len(common) / distinct if distinct else 0.0


def _sentences(text: str, tokenise: Tokenise) -> list[list[str]]:
    return [tokenise(sentence) or [""] for sentence in text.strip().split(".") if sentence]


def _common_subsequence(a: list[str], b: list[str]) -> list[str]:
    """A longest common subsequence, last word first; of several, the one found by dropping words of b first."""
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, word in enumerate(a, 1):
        for j, other in enumerate(b, 1):
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if word == other else max(lengths[i - 1][j], lengths[i][j - 1])
    words, i, j = [], len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            words.append(a[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words
