"""The measures of the paper's tasks by name: what one prediction adds to each of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from rag_jax.data.formats.evidence import page_title
from rag_jax.evaluation.answers import Holding, Prediction
from rag_jax.evaluation.sums import Bleu, Count, Diversity, Mean, Rate, Sum, added
from rag_jax.metrics import kilt, labels, msmarco, retrieval
from rag_jax.metrics.answers_in_passages import answer_hits_at, holding_answer, holding_match, passage_patterns
from rag_jax.metrics.bleu import bleu_sums
from rag_jax.metrics.patterns import compile_patterns, regex_match
from rag_jax.metrics.qbleu import q_bleu_1
from rag_jax.metrics.rouge import rouge_l
from rag_jax.metrics.text import exact_match, exact_match_orqa, f1
from rag_jax.metrics.tokenise import TOKENISERS

Named = Iterator[tuple[str, Sum]]
Measure = Callable[[Prediction, Sequence[int]], Named]  # of a prediction, at places k of what was retrieved

WORDS = "treebank"  # coco-caption's; MS-MARCO's evaluator has spaCy's
TOLD_APART = ("support", "group")
KILT_PLACES = 5  # KILT's board shows recall@5
KILT_RECALL = f"KILT recall@{KILT_PLACES}"


def holding(names: Iterable[str]) -> Holding | None:
    """DPR's rule for whether a passage holds the answer: patterns or words; None where answers are in no passage."""
    names = set(names)
    if names & PATTERNS:
        return _holding_match
    return holding_answer if names & (STRINGS | {"answer_recall"}) else None


def of_one(prediction: Prediction, names: Sequence[str], places: Sequence[int]) -> Iterator[tuple[str, str, Sum]]:
    """Yields (measure, label, part) of everything that a prediction adds to, by the table below.

    The first measure that calls a string right or wrong is also told apart by whether any retrieved passage holds the
    answer (Lewis et al. 2020, section 4.1: 11.8% of NQ are right where none does); the first of all by the question's
    group.
    """
    if not prediction.answers:  # a hidden test
        yield names[0], "questions without answers", Count(1)
        return
    parts = [(name, label, part) for name in names for label, part in MEASURES[name](prediction, places)]
    yield from parts
    held = [document.holds_answer for document in prediction.passages]
    judged = [(label, part) for name, label, part in parts if name in STRINGS | PATTERNS]
    if judged and held and None not in held:
        label, part = judged[0]
        yield "support", f"{label} where {'a' if any(held) else 'no'} passage holds the answer", part
    if prediction.question.group and parts:
        _, label, part = parts[0]
        yield "group", f"{label} {prediction.question.group}", part


class Totals:
    """What many predictions add up to."""

    def __init__(self, names: Sequence[str], places: Sequence[int]) -> None:
        self._names, self._places = names, places
        self._parts: dict[str, dict[str, list[Sum]]] = {name: {} for name in (*names, *TOLD_APART)}

    def add(self, prediction: Prediction) -> None:
        """Takes in one prediction."""
        for name, label, part in of_one(prediction, self._names, self._places):
            self._parts[name].setdefault(label, []).append(part)

    def sums(self) -> dict[str, dict[str, Sum]]:
        """The sums by measure and label: in the order of the names, then by support, then by group."""
        sums = {name: {label: added(parts) for label, parts in found.items()} for name, found in self._parts.items()}
        return sums | {name: dict(sorted(sums[name].items())) for name in TOLD_APART}


class Headline(NamedTuple):
    """The one number that training watches: what it is called, and its value in [0, 1]; nan where nothing is known."""

    label: str = "score"
    value: float = math.nan


def headline(predictions: Iterable[Prediction], names: Sequence[str]) -> Headline:
    """The first of a task's measures over some predictions."""
    totals = Totals(names[:1], ())
    for prediction in predictions:
        totals.add(prediction)
    for label, part in totals.sums()[names[0]].items():
        if hasattr(part, "percent"):
            return Headline(label, part.percent / 100)
    return Headline()


def page_id(passage_id: str) -> str:
    """The id of a passage's page: the passage's up to a '#', as the passages of a page are numbered."""
    return passage_id.partition("#")[0]


def of_closed_book(names: Iterable[str]) -> list[str]:
    """The measures among `names` that look at no passage."""
    return [name for name in names if name not in (*RETRIEVAL, "kilt")]


def of_retrieval(names: Iterable[str]) -> list[str]:
    """The measures among `names` that need no answer to be generated."""
    names = ["kilt_pages" if name == "kilt" else name for name in names]
    return [name for name in names if name in RETRIEVAL]


def _of_strings(
    label: str, kind: type[Rate | Mean], value: Callable[[str, Sequence[str]], float], prediction: Prediction, _
) -> Named:
    yield label, kind.of([value(prediction.text, prediction.answers)])


def _pattern(label: str, how: Literal["match", "search", "fullmatch"], prediction: Prediction, _) -> Named:
    patterns = compile_patterns(prediction.answers)
    if patterns.compiled:
        yield label, Rate.of([regex_match(prediction.text, patterns, how)])
    else:
        yield "questions left out, no pattern compiles", Count(1)
    if patterns.broken:
        yield "patterns that do not compile", Count(len(patterns.broken))


def _holding_match(texts_K: Sequence[str], answers: Sequence[str]) -> Sequence[bool]:
    patterns = passage_patterns(answers)
    return holding_match(texts_K, patterns) if patterns.compiled else ()


def _accuracy(prediction: Prediction, _) -> Named:
    yield "accuracy", Rate.of([labels.label_accuracy(prediction.text, prediction.answers[0], labels.THREE_WAY)])


def _accuracy_on_two(prediction: Prediction, _) -> Named:
    right = labels.three_way_on_two_way_rows(prediction.text, prediction.answers[0])
    if right is not None:
        yield "3-way accuracy on 2-way rows", Rate.of([right])


def _bleu(prediction: Prediction, _) -> Named:
    if pair := msmarco.compared(prediction.text, prediction.answers):
        yield f"BLEU-1 ({WORDS})", Bleu(bleu_sums(*pair, TOKENISERS[WORDS]), WORDS)


def _rouge_coco(prediction: Prediction, _) -> Named:
    if pair := msmarco.compared(prediction.text, prediction.answers):
        yield f"ROUGE-L (coco, {WORDS})", Mean.of([rouge_l(*pair, definition="coco", tokenise=TOKENISERS[WORDS])])


def _rouge_kilt(prediction: Prediction, _) -> Named:
    yield "ROUGE-L (kilt, whitespace)", Mean.of([_summary_rouge(prediction)])


def _summary_rouge(prediction: Prediction) -> float:
    return rouge_l(prediction.text, prediction.answers, definition="kilt", tokenise=TOKENISERS["whitespace"])


def _q_bleu(prediction: Prediction, _) -> Named:
    values = [q_bleu_1(prediction.text, answer, tokenise=TOKENISERS[WORDS]) for answer in prediction.answers]
    yield f"Q-BLEU-1 ({WORDS})", Mean.of([max(values)])


def _distinct(prediction: Prediction, _) -> Named:
    yield f"distinct tri-grams ({WORDS})", Diversity((prediction.text,), WORDS)


def _distinct_gold(prediction: Prediction, _) -> Named:
    yield f"distinct tri-grams of the first answers ({WORDS})", Diversity((prediction.answers[0],), WORDS)


def _answer_recall(prediction: Prediction, places: Sequence[int]) -> Named:
    held = [document.holds_answer for document in prediction.passages if document.holds_answer is not None]
    for k in places:
        if len(held) == len(prediction.passages):
            yield f"answer recall@{k}", Rate.of(answer_hits_at([held], k))


def _gold_recall(prediction: Prediction, places: Sequence[int]) -> Named:
    ids, gold = [document.id for document in prediction.passages], prediction.question.passage_ids
    for k in places:
        if gold:
            yield f"recall@{k}", Rate.of(retrieval.hits_at([ids], [gold], k))


def _page_precision(prediction: Prediction, places: Sequence[int]) -> Named:
    pages, evidence = _pages(prediction)
    gold = {name for names in evidence for name in names}
    for k in places:
        if gold:
            yield f"gold page@{k}", Rate.of(retrieval.hits_at([pages], [gold], k))
            yield f"page precision@{k}", Mean.of(retrieval.precision_at([pages], [gold], k))


def _kilt(prediction: Prediction, _) -> Named:
    pages, evidence = _pages(prediction)
    said = prediction.text, prediction.answers, pages, evidence
    yield "KILT-EM", Rate.of([kilt.kilt_exact_match(*said)])
    yield "KILT-F1", Mean.of([kilt.kilt_f1(*said)])
    yield "KILT-accuracy", Rate.of([kilt.grounded(kilt.accuracy(*said[:2]), pages, evidence)])
    yield "KILT-ROUGE-L", Mean.of([kilt.grounded(_summary_rouge(prediction), pages, evidence)])
    yield from _kilt_pages(prediction, _)


def _kilt_pages(prediction: Prediction, _) -> Named:
    pages, evidence = _pages(prediction)
    yield "R-precision", Mean.of([kilt.r_precision(pages, evidence)])
    yield KILT_RECALL, Mean.of([kilt.kilt_recall_at(pages, evidence, KILT_PLACES)])


def _pages(prediction: Prediction) -> tuple[list[str], tuple[tuple[str, ...], ...]]:
    """The passages' Wikipedia pages, by title where the evidence names titles, else by `page_id`; the evidence.

    FEVER's wiki-pages have names for ids and no titles.
    """
    evidence, ids = prediction.question.evidence, [page_id(document.id) for document in prediction.passages]
    gold = {name for names in evidence for name in names}
    named = [name if name in gold else page_title(name) for name in ids]
    titles = [document.title for document in prediction.passages]
    if gold.isdisjoint(titles):
        return named, evidence
    return [title or name for title, name in zip(titles, named, strict=True)], evidence


STRINGS = {"exact_match", "exact_match_orqa"}  # headlines that are right or wrong about an answer in a passage
PATTERNS = {"regex_match", "regex_search", "regex_fullmatch"}
RETRIEVAL: dict[str, Measure] = {
    "gold_recall": _gold_recall,
    "answer_recall": _answer_recall,
    "page_precision": _page_precision,
    "kilt_pages": _kilt_pages,
}
MEASURES: dict[str, Measure] = RETRIEVAL | {
    "exact_match": partial(_of_strings, "EM", Rate, exact_match),
    "exact_match_orqa": partial(_of_strings, "EM (ORQA)", Rate, exact_match_orqa),
    "f1": partial(_of_strings, "F1", Mean, f1),
    "regex_match": partial(_pattern, "regex match", "match"),
    "regex_search": partial(_pattern, "regex search", "search"),
    "regex_fullmatch": partial(_pattern, "regex full match", "fullmatch"),
    "accuracy": _accuracy,
    "accuracy_kilt": partial(_of_strings, "accuracy (kilt)", Rate, kilt.accuracy),
    "accuracy_2way_rows": _accuracy_on_two,
    "bleu_1": _bleu,
    "rouge_l_coco": _rouge_coco,
    "rouge_l_kilt": _rouge_kilt,
    "q_bleu_1": _q_bleu,
    "distinct_3": _distinct,
    "distinct_3_gold": _distinct_gold,
    "kilt": _kilt,
}
