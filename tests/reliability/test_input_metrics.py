"""Every metric on any text: a number in its range, never an error; and the time of long texts."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.data.formats import Question
from rag_jax.data.formats.msmarco import submission
from rag_jax.data.tasks import patterns
from rag_jax.metrics import kilt, retrieval
from rag_jax.metrics.answers_in_passages import answer_hits_at, holding_answer, holding_match, passage_patterns
from rag_jax.metrics.bleu import BleuSums, bleu_sums
from rag_jax.metrics.distinct import distinct_ngrams
from rag_jax.metrics.labels import THREE_WAY, TWO_WAY, label_accuracy, three_way_on_two_way_rows
from rag_jax.metrics.msmarco import NO_ANSWER, compared
from rag_jax.metrics.patterns import compile_patterns, regex_match
from rag_jax.metrics.qbleu import parts, q_bleu_1
from rag_jax.metrics.rouge import rouge_l
from rag_jax.metrics.text import exact_match, exact_match_orqa, f1, normalise
from rag_jax.metrics.tokenise import TOKENISERS

from .inputs import TEXT
from .test_input_text import KINDS, LETTERS, grows_evenly, letters

pytestmark = pytest.mark.more
SEVERAL = st.lists(TEXT, min_size=1, max_size=3)
TOKENISE = st.sampled_from(sorted(TOKENISERS)).map(TOKENISERS.get)
# What regular expressions are made of, and what they are spoilt with.
PIECES = (
    "a", "Jes\\ús", "(", ")", "(?:", "(?P<a>", "(?i)", "(?a)", "(?L)", "(?u)", "(?a:", "[", "]", "[^", "{", "}",
    "{2,3}", "*", "+", "?", "|", "\\", "\\d", "\\1", "\\x4", "\\N{DASH}", "\\8", "(?<=", "(?!", "(?(1)", "(?#", "^",
    "$", ".", "-", ",", "\ud800", "\0", "{" + "9" * 30 + "}", "{" + "9" * 5000 + "}", "(" * 150, "(?P=x)", "(?i-i:x)",
    "[[", "&&", "~~", "||", "\n", "é",
)  # fmt: skip
PATTERN = st.lists(st.sampled_from(PIECES) | TEXT, max_size=6).map("".join)


def share(*values):
    assert all(0 <= value <= 1 + 1e-9 for value in values), values


@given(TEXT, SEVERAL, TOKENISE)
@example("", [""], TOKENISERS["simple"])
@example("the", ["a an"], TOKENISERS["treebank"])
def test_scores_of_answers(said, answers, tokenise):
    share(f1(said, answers), exact_match(said, answers), exact_match_orqa(said, answers))
    same = said, [*answers, said]
    assert exact_match(*same) == exact_match_orqa(*same) == f1(*same) == 1 >= f1(said, answers)
    assert normalise(normalise(said)).split() == normalise(said).split() or re.search(
        r"\b(a|an|the)\b", normalise(said)
    )
    sums = bleu_sums(said, answers, tokenise)
    whole = BleuSums.total([sums, bleu_sums(said, [said], tokenise)])
    share(*(found.bleu(n) for found in (sums, whole) for n in (1, 2, 3, 4)))
    share(*(rouge_l(said, answers, definition=name, tokenise=tokenise) for name in ("coco", "kilt")))
    share(q_bleu_1(said, answers[0], tokenise=tokenise), q_bleu_1(said, said, tokenise=tokenise))
    assert sum(map(len, parts(said))) >= 0
    found = distinct_ngrams([said, *answers], 2, tokenise)
    assert math.isnan(found.ratio) if not found.total else 0 < found.ratio <= 1


@given(TEXT, SEVERAL)
def test_words(said, answers):
    for name, tokenise in TOKENISERS.items():
        words = tokenise(said)
        assert all(words) and (name != "whitespace" or words == said.split())
        assert not any(word.isspace() for word in words)
    assert holding_answer([f"{said} {answer}" for answer in answers], [*answers, "x"]).count(True) <= len(answers)
    if TOKENISERS["simple"](answers[0]):
        assert holding_answer([f"a {answers[0]} b"], answers) == [True]


@given(st.lists(PATTERN, min_size=1, max_size=3), TEXT)
@example(["(?a)x"], "x")
@example(["a{" + "9" * 5000 + "}"], "a")
def test_patterns(answers, said):
    """What compiles is counted with what does not; what the task keeps compiles."""
    compiled, broken = compile_patterns(answers)
    assert len(compiled) + len(broken) == len(answers)
    kept, _ = patterns(Question("0", said, tuple(answers)))
    assert (kept is None) == (not compiled)
    if kept:
        assert len(compile_patterns(kept.answers).compiled) == len(kept.answers)
    passage_patterns(answers)


@given(st.lists(TEXT.map(re.escape), min_size=1, max_size=3), TEXT)
def test_matches(answers, said):
    found = compile_patterns(answers)
    for how in ("match", "search", "fullmatch"):
        assert regex_match(said, found, how) in (0.0, 1.0)
        assert regex_match(re.sub(r"\\(.)", r"\1", answers[0], flags=re.DOTALL), found, how) == 1.0
    share(*holding_match([said], passage_patterns(answers)))


PAGES = st.lists(st.sampled_from("abcdef") | TEXT, max_size=6)


@given(PAGES, st.lists(PAGES, max_size=3), st.integers(1, 8), TEXT, SEVERAL)
def test_scores_of_pages(pages, evidence, k, said, answers):
    share(kilt.r_precision(pages, evidence), kilt.kilt_recall_at(pages, evidence, k))
    share(kilt.kilt_exact_match(said, answers, pages, evidence), kilt.kilt_f1(said, answers, pages, evidence))
    if any(evidence):
        gold = [next(filter(None, evidence))]
        share(*retrieval.precision_at([pages], gold, k))
        assert answer_hits_at([[page in gold[0] for page in pages]], k) == retrieval.hits_at([pages], gold, k)


@given(TEXT, st.sampled_from(THREE_WAY), st.lists(TEXT | st.just(NO_ANSWER), max_size=3))
def test_labels_and_rows_left_out(said, gold, references):
    assert label_accuracy(said, gold, THREE_WAY) == float(said == gold)
    assert (three_way_on_two_way_rows(said, gold) is None) == (gold not in TWO_WAY)
    kept = compared(said, references)
    assert (kept is None) == (not references or NO_ANSWER in references)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_intervals(n, part):
    low, high = retrieval.interval(round(n * part), n)
    assert 0 <= low <= (round(n * part) / n if n else 0.5) <= high <= 1


@given(TEXT | st.integers(0).map(str) | st.just("9" * 5000), TEXT)
@example("9" * 5000, "")
@example("٣", "")
def test_lines_that_are_handed_in(query, answer):
    said = submission([(query, answer)])
    assert said.endswith("}\n") and said.count("\n") == 1


def test_a_million_letters_are_compared_in_the_time_of_their_number():
    def score(text):
        for said in ("a short answer.", text):
            f1(said, [text])
            holding_answer([text], [said])

    grows_evenly(score, "words")


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_million_letters_are_scored_in_the_time_of_their_number(kind):
    """A short prediction, as all are, against a long answer, and long words, which no tokeniser may look at twice."""

    def score(text):
        exact_match_orqa(text, [text])
        holding_answer([text], ["a short answer", text])
        bleu_sums("a short answer", [text], TOKENISERS["treebank"])
        rouge_l("a short answer", [text], definition="coco", tokenise=TOKENISERS["simple"])
        q_bleu_1("who is it?", text, tokenise=TOKENISERS["whitespace"])

    assert len(letters(kind, LETTERS)) == LETTERS
    grows_evenly(score, kind)
