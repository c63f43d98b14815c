"""Q-BLEU-1 of generated questions (Nema and Khapra 2018): BLEU-1 joined with what makes a question answerable."""

from typing import NamedTuple

from rag_jax.metrics.bleu import bleu_sums
from rag_jax.metrics.tokenise import Tokenise

QUESTION_WORDS = frozenset("what which why who whom whose where when how".split())
FUNCTION_WORDS = frozenset(
    """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
    it its itself they them their theirs themselves
    this that these those
    am is are was were be been being have has had having do does did doing will can should
    a an the and but if or because as until while than so nor not no only own same too very s t don just now
    of at by for with about against between into through during before after above below to from up down in out on
    off over under again further then once here there all any both each few more most other some such""".split()
)


class Weights(NamedTuple):
    """What each part of a question weighs; the four parts add up to 1, and `answerability` is delta."""

    names: float
    content: float
    question_words: float
    function_words: float
    answerability: float


# Tuned on people's judgements of questions about SQuAD's passages (Nema and Khapra 2018).
SQUAD = Weights(names=0.41, content=0.36, question_words=0.20, function_words=0.03, answerability=0.66)


class Parts(NamedTuple):
    """A question's words by what they are for, in the order of `Weights`."""

    names: list[str]
    content: list[str]
    question_words: list[str]
    function_words: list[str]


def q_bleu_1(
    prediction: str, reference: str, *, tokenise: Tokenise, weights: Weights = SQUAD, empty: float = 1.0
) -> float:
    """Q-BLEU-1 of one question in [0, 1]; a corpus's is the mean over its questions.

    delta * answerability + (1 - delta) * BLEU-1 of this question. Answerability is the weighted sum, over the parts
    of a question (`parts`), of the harmonic mean of BLEU-1 both ways, prediction for reference and reference for
    prediction, brevity penalties included. So the authors' script has it (github.com/PrekshaNema25/
    Answerability-Metric, answerability_score.py at 41e3a23, whose word lists these are); their paper's formula weighs
    precision and recall first and takes one F1 of the two.

    Args:
        tokenise: cuts the whole question for BLEU, and each part's words.
        empty: what a part that neither side has is worth: 0 in all versions of the script that we have read, 41e3a23
            among them; 1, we are told, at the head of its repository, by a commit that we do not know. By the default
            weights a question that rightly names nobody differs by 0.27 under the two rules.

    Raises:
        ValueError: the four parts' weights do not add up to 1.
    """
    if abs(sum(weights[:4]) - 1) > 1e-6:
        raise ValueError(f"the weights of the four parts add up to {sum(weights[:4])}, expected 1")
    said, wanted = parts(prediction), parts(reference)
    scores = [_overlap(" ".join(a), " ".join(b), tokenise, empty) for a, b in zip(said, wanted, strict=True)]
    answerability = sum(weight * score for weight, score in zip(weights[:4], scores, strict=True))
    fluency = bleu_sums(prediction, [reference], tokenise).bleu(1)
    return weights.answerability * answerability + (1 - weights.answerability) * fluency


def parts(question: str) -> Parts:
    """Sorts a question's words, parted at spaces; a word may stand in two parts or, capitalised, be only a name.

    Names begin with a capital, a question word in any case at the start apart. Question words are `QUESTION_WORDS`,
    also with a capital, and the word after each 'what' and 'which', which tells what is asked for; neither is content.
    Function words are `FUNCTION_WORDS` in any case. Content is the rest of the words without a capital.
    """
    words = question.split()
    asking = [word[0].lower() + word[1:] in QUESTION_WORDS for word in words]
    asked = [False, *(yes and word.lower() in ("what", "which") for yes, word in zip(asking, words, strict=True))]
    about = [word for word, *either in zip(words, asking, asked[: len(words)], strict=True) if any(either)]
    names = words[1:] if words and words[0].lower() in QUESTION_WORDS else words
    return Parts(
        names=[word for word in names if word[0].isupper()],
        content=[w for w in words if w not in about and not w[0].isupper() and w not in FUNCTION_WORDS],
        question_words=[word.lower() for word in about],
        function_words=[word.lower() for word in words if word.lower() in FUNCTION_WORDS],
    )


def _overlap(said: str, wanted: str, tokenise: Tokenise, empty: float) -> float:
    if not tokenise(said) and not tokenise(wanted):
        return empty
    precision, recall = (bleu_sums(one, [other], tokenise).bleu(1) for one, other in ((said, wanted), (wanted, said)))
    return 2 * precision * recall / (precision + recall) if precision else 0.0
