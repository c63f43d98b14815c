"""Passages and questions by name: 'demo:PART' is the embedded demo, everything else a file; and what tasks ask."""

import json

import pytest

from rag_jax.config import default_config
from rag_jax.data import demo, tasks
from rag_jax.data.formats import Passage, Question
from rag_jax.data.lines import Meter
from rag_jax.data.tasks import TASKS
from rag_jax.errors import UserError
from rag_jax.validation import CHOICES, LABELLED


@pytest.fixture
def data():
    return default_config().data


def test_a_demo_name_reads_the_demo(data):
    assert next(tasks.passages(data, "demo:2018")) == next(demo.passages("2018"))
    assert tasks.questions(data, "demo:valid") == demo.questions("valid")


def test_a_path_reads_the_file(data, tmp_path):
    passages, questions = tmp_path / "passages.jsonl", tmp_path / "questions.jsonl"
    passages.write_text(json.dumps({"id": "a", "title": "T", "text": "Some words."}) + "\n")
    questions.write_text(json.dumps({"question": "what?", "answer": "words", "passage_ids": ["a"]}) + "\n")
    data.passages = str(passages)
    assert list(tasks.passages(data)) == [Passage("a", "T", "Some words.")]
    assert tasks.files(data.passages)[0][:2] == [str(passages), passages.stat().st_size]
    assert tasks.questions(data, str(questions)) == [Question("0", "what?", ("words",), ("a",))]


@pytest.mark.parametrize("source", ["demo:1999", "demo:", "missing.jsonl", "questions.csv"])
def test_a_wrong_name_is_a_line_that_says_what_there_is(data, source):
    for read in (lambda name: list(tasks.passages(data, name)), lambda name: tasks.questions(data, name)):
        with pytest.raises(UserError) as caught:
            read(source)
        assert "\n" not in str(caught.value)
        assert ("2016" in str(caught.value)) == source.startswith("demo:") or "train" in str(caught.value)


def test_an_unknown_edition_of_the_offices_lists_the_splits(data):
    with pytest.raises(UserError, match="no split 'offices_1999', only train, valid, test, offices_2016, offices_2018"):
        tasks.questions(data, "demo:offices_1999")


def test_a_corpus_is_read_as_the_configuration_says(data, tmp_path):
    (tmp_path / "a.txt").write_text("one two three four five")
    (tmp_path / "b.txt").write_text("")
    data.update(passages=str(tmp_path), words=3, overlap=1, minimum=1, skip_bad=True)
    said = []
    assert [p.text for p in tasks.passages(data, log=said.append)] == ["one two three", "three four five"]
    assert said[-1].endswith("1 left out of 3: 1 x a file without words")


def test_facts_of_the_demo_that_are_taken_are_refused_too(data):
    known = [passage.id for passage in demo.passages("2016")]
    with pytest.raises(UserError, match="demo:2018: id in the index already"):
        list(tasks.passages(data, "demo:2018", known=known))


@pytest.fixture
def ask(tmp_path):
    """(task, records) -> its questions of a file of these lines, and what was said of them."""

    def ask(name, *records):
        path, said = tmp_path / "q.jsonl", []
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return TASKS[name].questions(path, log=said.append), [line.removeprefix(f"{path}: ") for line in said]

    return ask


def test_every_task_may_be_configured():
    assert CHOICES["data.task"] == tuple(TASKS)
    assert all(name == task.name and task.metrics for name, task in TASKS.items())
    assert TASKS["kilt"].metrics[0] == "exact_match", "KILT-EM is 0 wherever ids of passages are no page ids"


def test_a_configured_task_reads_the_questions(data, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"claim": "c", "label": "REFUTES"}) + "\n")
    data.task = "fever2"
    assert tasks.questions(data, str(path)) == [Question("0", "c", ("REFUTES",))]


def test_ms_marco_keeps_rows_with_a_well_formed_answer(ask):
    rows = [
        {"query": f"{n}?", "answers": ["x"], "wellFormedAnswers": found} for n, found in enumerate((["a"], "[]", []))
    ]
    assert ask("msmarco", *rows) == (
        [Question("0", "0?", ("a",))],
        ["kept 1 of 3 questions, dropped 2; 2 x no well-formed answer"],
    )
    hidden = [{"query": "0?"}, {"query": "1?"}]
    assert ask("msmarco", *hidden) == ([Question("0", "0?", ()), Question("1", "1?", ())], [])


def test_the_files_for_hidden_tests():
    answers = [("7", "yes"), ("8", "Öre")]
    name, text = TASKS["msmarco"].submission
    first = json.loads(text(answers).splitlines()[0])
    assert (name, first) == ("submission.jsonl", {"query_id": 7, "answers": ["yes"]})
    name, text = TASKS["triviaqa"].submission
    assert name == "submission.json" and json.loads(text(answers)) == dict(answers)
    assert [task.name for task in TASKS.values() if task.submission] == ["triviaqa", "msmarco"]


@pytest.mark.parametrize(
    ("name", "split", "source", "known"),
    [
        ("nq", "test", "nq-test.csv", True),
        ("nq", "test", "demo:nq/test", False),
        ("webquestions", "test", "q.csv", True),
        ("webquestions", "valid", "q.json", False),
        ("curatedtrec", "valid", "q.json", False),
        ("jeopardy", "train", "train.json", False),
        ("curatedtrec", "train", "q.json", False),
    ],
)
def test_the_paper_s_numbers_stand_beside_its_own_questions_alone(name, split, source, known):
    assert TASKS[name].comparable(split, source) == (TASKS[name].paper if known else {})


def test_squad_2_is_asked_without_what_has_no_answer(tmp_path):
    answers = ([], [{"text": "Ada"}])
    qas = [{"id": n, "question": "who?", "answers": a, "is_impossible": not a} for n, a in enumerate(answers)]
    path, said = tmp_path / "dev-v2.0.json", []
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [{"qas": qas}]}]}))
    assert [question.id for question in TASKS["squad"].questions(path, log=said.append)] == ["1"]
    assert said == [f"{path}: kept 1 of 2 questions, dropped 1; 1 x no answer"]


def test_fever_2_leaves_out_what_nobody_knows(ask):
    labels = "SUPPORTS", "NOT ENOUGH INFO", "REFUTES"
    rows = [{"claim": label.title(), "label": label} for label in labels]
    questions, said = ask("fever2", *rows)
    assert [question.answers for question in questions] == [("SUPPORTS",), ("REFUTES",)]
    assert said == ["kept 2 of 3 questions, dropped 1; 1 x not enough info"]
    assert len(ask("fever3", *rows)[0]) == 3 and ask("fever3", *rows)[1] == []
    with pytest.raises(UserError, match=r"no question is left for data\.task = 'fever2'"):
        ask("fever2", rows[1])


def test_an_answer_that_is_no_label_of_fevers_is_refused(ask):
    rows = {"claim": "c", "label": "REFUTES"}, {"id": 7, "question": "c", "answer": "yes"}
    for task in ("fever3", "fever2"):
        with pytest.raises(UserError, match=r"q\.jsonl: question '7': found the label 'yes', expected SUPPORTS, REF"):
            ask(task, *rows)


def test_the_labels_of_a_configuration(data):
    assert [name for name, task in TASKS.items() if task.labels] == list(LABELLED)
    assert (tasks.labels(data), tasks.classes(data), tasks.task(data)) == ((), 0, TASKS["qa"])
    data.task = "fever2"
    assert tasks.labels(data) == () and tasks.task(data) is TASKS["fever2"]
    for data.classify, classes in (("token", 0), ("head", 2)):
        assert tasks.labels(data) == ("SUPPORTS", "REFUTES") and tasks.classes(data) == classes
    question = Question("0", "c", ("REFUTES",))
    assert tasks.task(data).targets(question, ()).answers == ("REFUTES",)
    data.classify = "token"
    assert tasks.task(data).targets(question, ()) == (("false",), "the word for the label")


def test_a_model_tells_the_labels_that_it_was_trained_for(data):
    data.update(task="fever3", classify="token")
    trained = data.copy_and_resolve_references()
    tasks.check_labels("run", trained, data)
    for task, way in (("fever2", "token"), ("fever3", "head"), ("fever3", "")):
        data.update(task=task, classify=way)
        found = f"found classify = {way!r} with task = {task!r}, but run was trained for classify = 'token' with"
        with pytest.raises(UserError, match=found):
            tasks.check_labels("run", trained, data)


def test_patterns_that_do_not_compile_are_said_and_counted(ask):
    rows = [{"question": "q", "answers": [f"({n}"]} for n in range(7)]
    rows += [{"question": "q", "answers": ["a)", "b|c"]}, {"question": "q", "answer": "d"}]
    questions, said = ask("curatedtrec", *rows)
    assert [question.answers for question in questions] == [("b|c",), ("d",)]
    assert said[:5] == [f"question '{n}': a pattern that does not compile: ({n}" for n in range(5)]
    assert said[5:] == ["kept 2 of 9 questions, dropped 7; 8 x a pattern that does not compile"]
    with pytest.raises(UserError, match="no question is left"):
        ask("curatedtrec", rows[0])


def test_jeopardy_asks_for_the_clue(ask):
    row = {"id": 3, "question": "It glows.", "answer": "radium", "category": "C"}
    assert ask("jeopardy", row) == ([Question("3", "radium", ("It glows.",))], [])


def test_the_contexts_of_a_bi_encoder_file_are_a_corpus(data, tmp_path):
    context = {"title": "T", "text": "Some words.", "passage_id": "a"}
    rows = [
        {"question": "q", "answers": ["x"], "positive_ctxs": [context], "negative_ctxs": [context | {"psg_id": "b"}]},
        {"question": "r", "answers": ["x"], "hard_negative_ctxs": [context, context | {"passage_id": 7}]},
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows))
    data.passages = str(path)
    meter = Meter()
    assert list(tasks.passages(data, meter=meter)) == [
        Passage("a", "T", "Some words."), Passage("7", "T", "Some words."),
    ]  # fmt: skip
    assert meter.share() == 1  # so that the rest of the time can be told
    assert tasks.files(data.passages)[0][:2] == [str(path), path.stat().st_size]
    for rows, message in (([{"question": "q"}], "no contexts"), ([{"positive_ctxs": [{"title": "T"}]}], "bad id null")):
        path.write_text(json.dumps(rows))
        with pytest.raises(UserError, match=f"train.json: row 0: {message}"):
            list(tasks.passages(data))
