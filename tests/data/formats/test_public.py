"""The publishers' own files, read with exact counts; skipped where they are not beside the repository."""

from pathlib import Path

import pytest

from rag_jax.data.corpus import read_passages
from rag_jax.data.expansion import expand
from rag_jax.data.formats import read_questions
from rag_jax.data.tasks import TASKS
from rag_jax.errors import UserError

DATA = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository")

KILT = {name: (f"kilt_tasks__{name}/{name}", 5) for name in ("eli5", "fever", "hotpotqa", "nq", "trex", "wow")}
KILT["structured_zeroshot"] = "kilt_tasks__structured_zeroshot/structured_zeroshot", 5
NATIVE = "native_formats"
FEVER, RC = f"{NATIVE}/fever_native/fever__v1.0", f"{NATIVE}/triviaqa_rc/trivia_qa__rc__1.2.0/triviaqa-rc.tar.gz/qa"
COUNTS = {  # questions, and those whose answer is hidden
    "nq/nq-dev.qa.tsv.gz": (8757, 0),
    "nq/NQ-open.efficientqa.dev.1.1.jsonl.gz": (1800, 0),
    "nq_mini/questions_dev.jsonl.gz": (1293, 0),
    "dpr_format/nq3_tiny.json.gz": (10, 0),
    "dpr_format/nq3_tiny.jsonl.gz": (10, 0),
    "triviaqa/trivia-dev.qa.tsv.gz": (8837, 0),
    "triviaqa/triviaqa_sample.json": (1, 0),
    "webquestions/trainmodel.json.gz": (2834, 0),
    "webquestions/val.json.gz": (755, 0),
    "webquestions/devtest.json.gz": (189, 0),
    "curatedtrec/large2180-train.tsv.gz": (1479, 0),
    "fever/paper_dev.half_a.jsonl.gz": (4951, 0),
    "fever/fever_symmetric.share.jsonl.gz": (500, 0),
    "squad_open/questions_valid.jsonl.gz": (5969, 0),
    f"{NATIVE}/webquestions_native/web_questions/blobtrain": (2, 0),
    f"{NATIVE}/webquestions_native/web_questions/blobtest": (1, 0),
    f"{NATIVE}/ms_marco_v1.1/ms_marco__v1.1__1.1.0/dev_v1.1.json": (1, 0),
    f"{NATIVE}/searchqa/search_qa__raw_jeopardy": (2, 0),
    **{f"{FEVER}/{name}.jsonl": (1, 0) for name in ("train", "paper_dev", "paper_test", "shared_task_dev")},
    **{f"{FEVER}/{name}.jsonl": (1, 1) for name in ("shared_task_dev_public", "shared_task_test")},
    **{f"{RC}/web-{part}.json": (3, 0) for part in ("train", "dev")},
    **{f"{RC}/wikipedia-{part}.json": (1, 0) for part in ("train", "dev")},
    f"{RC}/web-test-without-answers.json": (3, 3),
    f"{RC}/wikipedia-test-without-answers.json": (1, 1),
    **{f"{NATIVE}/kilt/{stem}-{part}-kilt.jsonl": (n, 0) for stem, n in KILT.values() for part in ("train", "dev")},
    **{f"{NATIVE}/kilt/{stem}-test_without_answers-kilt.jsonl": (n, n) for stem, n in KILT.values()},
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    questions = read_questions(DATA / name)
    assert (len(questions), sum(not question.answers for question in questions)) == COUNTS[name]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "count"),
    [("squad_native/train-v1.1.rebuilt.json.gz", 87_599), ("squad_open/questions_train.jsonl.gz", 81_618)],
)
def test_counts_of_the_larger_files(name, count):
    assert len(read_questions(DATA / name)) == count


def test_kilt_publishes_trivia_qa_without_questions():
    with pytest.raises(UserError, match=r'kilt\.jsonl:1: "input" is missing; KILT has TriviaQA without questions'):
        read_questions(DATA / f"{NATIVE}/kilt/kilt_tasks__triviaqa_support_only/triviaqa-dev_id-kilt.jsonl")


def test_fever_with_two_labels():
    said = []
    assert len(TASKS["fever2"].questions(DATA / "fever/paper_dev.half_a.jsonl.gz", log=said.append)) == 3279
    assert said[0].endswith("kept 3,279 of 4,951 questions, dropped 1,672; 1,672 x not enough info")


def test_every_pattern_of_curated_trec_compiles_and_nearly_all_are_finite():
    questions = TASKS["curatedtrec"].questions(DATA / "curatedtrec/large2180-train.tsv.gz", log=pytest.fail)
    expansions = [expand(question.answers[0]) for question in questions]
    assert len(questions) == 1479 and sum(not strings for strings in expansions) == 2


def test_the_contexts_of_a_bi_encoder_file_are_a_corpus_that_its_questions_know():
    path = DATA / "dpr_format/nq3_tiny.json.gz"
    ids = {passage.id for passage in read_passages(path)}
    for question in read_questions(path):
        assert question.passage_ids and ids.issuperset(question.passage_ids + question.hard_negatives)
    assert len(ids) == 1504
