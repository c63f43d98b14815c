"""What evaluate prints and writes, with the tiny model."""

import json
from dataclasses import replace

import pytest

from rag_jax.config import default_config
from rag_jax.data.formats import Question
from rag_jax.data.published import paper
from rag_jax.data.tasks import Submission
from rag_jax.errors import UserError
from rag_jax.evaluation import report
from rag_jax.evaluation.answers import Found, Prediction
from rag_jax.evaluation.measures import Totals
from rag_jax.evaluation.report import Asked, evaluate, own_numbers
from rag_jax.files import read_sealed_line, sealed_line


@pytest.fixture
def config(tiny_run, monkeypatch):
    """A configuration whose paths start at the run's folder, as the commands were typed there."""
    monkeypatch.chdir(tiny_run.folder)
    config = default_config()
    config.data.update(test="test.jsonl", valid="valid.jsonl")
    config.evaluate.recall = (1, 2)
    config.hot_swap.questions = ("mayors_before.jsonl", "mayors_after.jsonl")
    return config


def doctored(path):
    """Whole lines that say something else."""
    records = map(read_sealed_line, path.read_bytes().splitlines(keepends=True))
    path.write_text("".join(sealed_line(record | {"score": -9.0}) for record in records))


def written(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_a_part_is_printed_and_saved_with_its_predictions(tiny_rag, config, tmp_path, capsys):
    evaluate(tiny_rag, config, tmp_path, Asked())
    said = capsys.readouterr().out.splitlines()
    sums = written(tmp_path)["test"]
    assert said[0].startswith("test ") and len(said) == 1 + len(sums)
    for line, (name, found) in zip(said[1:], sums.items(), strict=True):
        assert line.startswith(f"  {name} ") and f" {found['percent']:.1f}  [{found['low']:.1f}, " in line
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == sums["EM"]["count"] == sums["answer recall@2"]["count"] == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.jsonl"]


def test_a_part_measured_again_replaces_its_own_numbers_alone(tiny_rag, config, tmp_path):
    (tmp_path / "metrics.json").write_text('{"test": {}, "reading": {"EM": 1}}')
    evaluate(tiny_rag, config, tmp_path, Asked())
    assert written(tmp_path)["reading"] == {"EM": 1} and written(tmp_path)["test"]["EM"]["count"] == 10
    assert written(tmp_path)["of"]["test"] == f"{tiny_rag.identity()} qa {config.data.test}"


def test_the_square_comes_first_and_the_test_keeps_its_index(tiny_rag, tiny_run, config, tmp_path):
    """The order of the parts must not matter: the square opens another index in between."""
    (before, after), first = (tmp_path / name for name in ("a", "b")), tiny_rag.retriever.index.folder
    before.mkdir()
    evaluate(tiny_rag, config, before, Asked())
    evaluate(tiny_rag, config, after, Asked(parts=("hot_swap", "answers"), swap_index=str(tiny_run.index_after)))
    assert (before / "predictions.jsonl").read_bytes() == (after / "predictions.jsonl").read_bytes()
    assert tiny_rag.retriever.index.folder == first
    assert written(after)["hot_swap"]["index 1, answers 1"]["count"] == 8


@pytest.fixture
def no_generator(tiny_rag, monkeypatch):
    def read(*_):
        raise AssertionError("the generator ran")

    monkeypatch.setattr(tiny_rag, "read", read)


def test_answers_there_already_are_not_asked_for_again(tiny_rag, config, tmp_path, request, capsys):
    evaluate(tiny_rag, config, tmp_path, Asked())
    first, content = written(tmp_path), (tmp_path / "predictions.jsonl").read_bytes()
    capsys.readouterr()
    request.getfixturevalue("no_generator")
    evaluate(tiny_rag, config, tmp_path, Asked())
    assert written(tmp_path) == first and (tmp_path / "predictions.jsonl").read_bytes() == content
    assert "predictions.jsonl: holds 10 of 10 answers already" in capsys.readouterr().out
    evaluate(tiny_rag, config, tmp_path, Asked(limit=4))
    assert written(tmp_path)["test_first_4"]["EM"]["count"] == 4 and written(tmp_path)["test"] == first["test"]
    config.evaluate.recall = (1,)
    with pytest.raises(AssertionError, match="the generator ran"):
        evaluate(tiny_rag, config, tmp_path, Asked())


def test_answers_of_another_index_are_not_gone_on_from(tiny_rag, tiny_run, config, tmp_path, monkeypatch):
    """Nor are those of a file whose maker nobody wrote down."""
    evaluate(tiny_rag, config, tmp_path, Asked())
    content = (tmp_path / "predictions.jsonl").read_text()
    doctored(tmp_path / "predictions.jsonl")
    monkeypatch.setattr(tiny_rag, "identity", lambda: "another")
    evaluate(tiny_rag, config, tmp_path, Asked())
    assert (tmp_path / "predictions.jsonl").read_text() == content
    doctored(tmp_path / "predictions.jsonl")
    (tmp_path / "metrics.json").unlink()
    evaluate(tiny_rag, config, tmp_path, Asked())
    assert (tmp_path / "predictions.jsonl").read_text() == content


def test_a_file_of_which_nothing_is_written_down_yet_is_nobodys(tiny_rag, config, tmp_path, monkeypatch):
    """Stopped between another model's predictions and the line that says whose they are."""
    evaluate(tiny_rag, config, tmp_path, Asked())
    content = (tmp_path / "predictions.jsonl").read_text()

    def stopped(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tiny_rag, "identity", lambda: "another")
        patch.setattr(report, "publish", lambda path: path.name == "metrics.json" or stopped(path))
        evaluate(tiny_rag, config, tmp_path, Asked())
    doctored(tmp_path / "predictions.jsonl")
    evaluate(tiny_rag, config, tmp_path, Asked())
    assert (tmp_path / "predictions.jsonl").read_text() == content


def test_another_split_stands_beside_the_test(tiny_rag, config, tmp_path):
    for split in ("test", "valid"):
        evaluate(tiny_rag, config, tmp_path, Asked(split=split))
    assert [written(tmp_path)[split]["EM"]["count"] for split in ("test", "valid")] == [10, 6]
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 10
    assert len((tmp_path / "predictions_valid.jsonl").read_text().splitlines()) == 6


def test_retrieval_alone_runs_no_generator_and_looks_as_deep_as_asked(tiny_rag, config, tmp_path, no_generator):
    """The model reads 3 passages; all 30 hold every answer."""
    config.evaluate.recall = (1, 30)
    evaluate(tiny_rag, config, tmp_path, Asked(parts=("retrieval",)))
    sums = written(tmp_path)["retrieval"]
    assert sums["recall@30"]["sum"] == sums["answer recall@30"]["sum"] == 10 > sums["recall@1"]["sum"]
    assert not any(name.startswith(("EM", "F1")) for name in sums)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_recall_may_be_asked_for_nowhere(tiny_rag, config, tmp_path):
    config.evaluate.recall = ()
    evaluate(tiny_rag, config, tmp_path, Asked(parts=("retrieval",), limit=2, names=("gold_recall", "kilt")))
    assert {name for name in written(tmp_path)["retrieval_first_2"] if "@" in name} == {"KILT recall@5"}


def test_places_past_the_passages_that_are_read_are_left_out(tiny_rag, config, tmp_path):
    config.evaluate.recall = (1, 20)
    evaluate(tiny_rag, config, tmp_path, Asked())
    assert {name for name in written(tmp_path)["test"] if "@" in name} == {"recall@1", "answer recall@1"}


def test_the_paper_s_gold_answers_and_answers_without_a_passage_stand_beside_ours():
    numbers = own_numbers(paper("jeopardy"), "closed book", "test") | own_numbers(paper("nq"), "token", "test")
    asked = Asked(names=("exact_match", "distinct_3", "distinct_3_gold"), paper=numbers)
    totals, missed = Totals(asked.names, ()), (Found("1", "T", 0.0, 1.0, 1.0, holds_answer=False),)
    totals.add(Prediction(Question("q", "who?", ("Ada",)), "Ada", -1.0, ("Ada",), missed))
    assert {label: number for label, _, number in report._lines(totals, asked)} == {
        "EM": 44.1,
        "distinct tri-grams (treebank)": 32.4,
        "distinct tri-grams of the first answers (treebank)": 90.0,
        "EM where no passage holds the answer": 11.8,
    }


def test_the_papers_own_number_stands_beside_a_measures_first_line(tiny_rag, config, tmp_path, capsys):
    asked = Asked(paper={"exact_match": 44.1, "recall@2": 90.0}, kilt_out=str(tmp_path / "kilt" / "out.jsonl"))
    evaluate(tiny_rag, config, tmp_path, asked)
    marked = [line.split("  ")[1].strip() for line in capsys.readouterr().out.splitlines() if "paper" in line]
    assert marked == ["EM", "recall@2"] and written(tmp_path)["test"]["EM"]["paper"] == 44.1
    assert "paper" not in written(tmp_path)["test"]["recall@1"]
    assert len((tmp_path / "kilt" / "out.jsonl").read_text().splitlines()) == 10


def test_a_hidden_tests_answers_are_written_as_they_are_handed_in(tiny_rag, tiny_run, config, tmp_path):
    asked = Asked(submission=Submission("handed_in.txt", lambda pairs: str(list(pairs))), limit=2)
    evaluate(tiny_rag, config, tmp_path, asked)
    texts = [answer.text for answer in tiny_rag.answer([q["question"] for q in tiny_run.records("test.jsonl")[:2]])]
    assert (tmp_path / "handed_in_first_2.txt").read_text() == str(list(zip("01", texts, strict=True)))


def test_a_beginning_leaves_what_is_whole_as_it_is(tiny_rag, config, tmp_path):
    whole = Asked(n_docs=(1,), submission=Submission("handed_in.txt", lambda pairs: str(list(pairs))))
    evaluate(tiny_rag, config, tmp_path, whole)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "metrics.json"}
    for split in ("test", "valid"):
        evaluate(tiny_rag, config, tmp_path, replace(whole, limit=2, split=split))
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert (tmp_path / "handed_in_first_2.txt").is_file()
    assert json.loads((tmp_path / "sweep_valid_first_2.json").read_text())["questions"] == 2


@pytest.mark.parametrize("wanted", [{"parts": ("reading",)}, {"parts": (), "n_docs": (1, 2)}])
def test_of_a_hidden_test_nothing_is_measured(tiny_rag, config, tmp_path, monkeypatch, wanted, no_generator):
    monkeypatch.setattr(report, "_questions", lambda *_: [Question("seven", "who?", ())])
    flag = "--sweep" if "n_docs" in wanted else "--parts=reading"
    with pytest.raises(
        UserError, match=f"{flag}: question 'seven' has no answer, as in a hidden test; expected another"
    ):
        evaluate(tiny_rag, config, tmp_path, Asked(**wanted))
    assert not list(tmp_path.iterdir())


def test_pages_that_cannot_be_wikipedias_are_told_where_kilt_asks_for_them(tiny_rag, config, tmp_path, capsys):
    """A town of the tiny corpus has several passages, and the id of none begins with a page's."""
    out, scored = str(tmp_path / "out.jsonl"), ("exact_match", "kilt")
    for asked in (Asked(limit=1), Asked(limit=1, kilt_out=out), Asked(("retrieval",), limit=1, names=scored)):
        evaluate(tiny_rag, config, tmp_path, asked)
        told = "note: KILT's pages: found 'Brimholt' as 'mayor/Brimholt' and" in capsys.readouterr().err
        assert told == bool(asked.kilt_out or asked.names == scored)


PUBLISHED = {
    "test": {"RAG-Token": {"exact_match": 44.1}, "RAG-Sequence": {"exact_match": 44.5}, "DPR": {"exact_match": 41.5}},
    "unstated": {"RAG": {"gold_page@1": 71.0}, "RAG-Token": {"distinct_3": 77.8}, "BART": {"distinct_3": 70.7}},
}


@pytest.mark.parametrize(
    ("kind", "split", "ablation", "numbers"),
    [
        ("sequence", "valid", "bm25", {"exact_match": 31.8}),
        ("token", "valid", "frozen", {"exact_match": 37.8}),
        ("token", "valid", "", {"exact_match": 43.5, "EM_where_no_passage_holds_the_answer": 11.8}),
        ("token", "test", "frozen", {}),  # of which the paper tells nothing
    ],
)
def test_an_ablation_has_its_own_numbers(kind, split, ablation, numbers):
    assert own_numbers(paper("nq"), kind, split, ablation) == numbers


@pytest.mark.parametrize(
    ("kind", "split", "numbers"),
    [
        ("token", "test", {"gold_page@1": 71.0, "distinct_3": 77.8, "exact_match": 44.1}),
        ("sequence", "test", {"gold_page@1": 71.0, "exact_match": 44.5}),
        ("sequence", "train", {"gold_page@1": 71.0}),
        ("closed book", "unstated", {"distinct_3": 70.7}),
    ],
)
def test_the_papers_numbers_of_a_kind_and_a_split(kind, split, numbers):
    assert own_numbers(PUBLISHED, kind, split) == numbers and own_numbers({}, kind, split) == {}


@pytest.mark.parametrize(
    ("asked", "change", "message"),
    [
        (
            {"parts": ("answers", "speed")},
            {},
            "--parts: found speed, expected some of answers, retrieval, reading, hot",
        ),
        ({"parts": ()}, {}, "--parts: found none, expected some of answers, retrieval"),
        ({"parts": ("answers", "hot_swap")}, {}, "--parts=hot_swap: expected --swap_index"),
        ({"parts": ("reading",)}, {"data.test": ""}, r"config\.data\.test: empty, so there is no split 'test'"),
        ({"split": "train"}, {}, r"config\.data\.train: empty, so there is no split 'train'"),
        ({"parts": (), "n_docs": (1,)}, {"data.test": ""}, r"config\.data\.test: empty"),
        ({"limit": 0}, {}, "--limit: found 0, expected 1 or more questions"),
        ({"parts": ("reading",), "kilt_out": "out"}, {}, "--kilt_out: found --parts=reading, expected answers among"),
        ({"kilt_out": "run"}, {}, "--kilt_out: found the folder run, expected a file to write"),
        ({"parts": ("reading",), "names": ("regex_match",)}, {}, "--parts=reading: the answers of this task are patt"),
        (
            {"parts": ("hot_swap",), "names": ("regex_match",), "swap_index": "a"},
            {},
            "--parts=hot_swap: the answers of this task are patterns, expected words; leave that part out",
        ),
        ({"beside": ("run",)}, {}, "--beside: found no --sweep, expected one, as --sweep=n_docs=1,5,10"),
        ({"parts": ("hot_swap",), "swap_index": "a", "limit": 3}, {}, "--limit: found --parts=hot_swap"),
        (
            {"parts": ("retrieval",), "names": ("bleu_1",)},
            {},
            "--parts=retrieval: the task has no measure of retrieval",
        ),
    ],
)
def test_all_is_checked_before_anything_is_measured(tiny_rag, config, tmp_path, no_generator, asked, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        evaluate(tiny_rag, config, tmp_path, replace(Asked(), **asked))
    assert not list(tmp_path.iterdir())


def test_a_square_needs_both_editions(tiny_rag, config, tmp_path):
    config.hot_swap.questions = ("mayors_before.jsonl", "")
    with pytest.raises(UserError, match=r"--parts=hot_swap: .* config\.hot_swap\.questions, two files"):
        evaluate(tiny_rag, config, tmp_path, Asked(parts=("hot_swap",), swap_index="somewhere"))
