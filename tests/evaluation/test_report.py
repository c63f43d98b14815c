"""What evaluate prints and writes, with the tiny model."""

import json

import pytest

from rag_jax.config import default_config
from rag_jax.errors import UserError
from rag_jax.evaluation.report import evaluate


@pytest.fixture
def config(tiny_run, monkeypatch):
    """A configuration whose paths start at the run's folder, as the commands were typed there."""
    monkeypatch.chdir(tiny_run.folder)
    config = default_config()
    config.data.test = "test.jsonl"
    config.evaluate.recall = (1, 2)
    config.hot_swap.questions = ("mayors_before.jsonl", "mayors_after.jsonl")
    return config


def written(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def test_a_part_is_printed_and_saved_with_its_predictions(tiny_rag, config, tmp_path, capsys):
    evaluate(tiny_rag, config, tmp_path, parts=["test"], swap_index=None)
    said = capsys.readouterr().out.splitlines()
    rates = written(tmp_path)["test"]
    assert said[0].startswith("test ") and len(said) == 1 + len(rates)
    for line, (name, rate) in zip(said[1:], rates.items(), strict=True):
        assert line.strip().startswith(name) and line.endswith(f"{rate['sum']:.0f} of {rate['count']}")
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == rates["EM"]["count"] == 10
    assert set(json.loads(lines[0])) == {
        "id", "question", "prediction", "answers", "exact_match", "log_prob", "passages",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "predictions.jsonl"]


def test_a_part_measured_again_replaces_its_own_numbers_alone(tiny_rag, config, tmp_path):
    (tmp_path / "evaluation.json").write_text('{"test": {}, "reading": {"EM": 1}}')
    evaluate(tiny_rag, config, tmp_path, parts=["test"], swap_index=None)
    assert written(tmp_path)["reading"] == {"EM": 1} and written(tmp_path)["test"]["EM"]["count"] == 10
    assert written(tmp_path)["of"] == {"test": tiny_rag.identity()}


def test_the_square_comes_first_and_the_test_keeps_its_index(tiny_rag, tiny_run, config, tmp_path):
    """The order of the parts must not matter: the square opens another index in between."""
    (before, after), first = (tmp_path / name for name in ("a", "b")), tiny_rag.retriever.index.folder
    evaluate(tiny_rag, config, before, parts=["test"], swap_index=None)
    evaluate(tiny_rag, config, after, parts=["hot_swap", "test"], swap_index=str(tiny_run.index_after))
    assert (before / "predictions.jsonl").read_bytes() == (after / "predictions.jsonl").read_bytes()
    assert tiny_rag.retriever.index.folder == first
    assert written(after)["hot_swap"]["index 1, answers 1"]["count"] == 8


@pytest.mark.parametrize(
    ("parts", "change", "message"),
    [
        (["test", "speed"], {}, "--parts: found speed, expected some of test, reading, hot_swap"),
        (["test", "hot_swap"], {}, "--parts=hot_swap: expected --swap_index"),
        (["reading"], {"data.test": ""}, r"config\.data\.test: empty"),
    ],
)
def test_all_is_checked_before_anything_is_measured(tiny_rag, config, tmp_path, parts, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        evaluate(tiny_rag, config, tmp_path, parts=parts, swap_index=None)
    assert not list(tmp_path.iterdir())


def test_a_square_needs_both_editions(tiny_rag, config, tmp_path):
    config.hot_swap.questions = ("mayors_before.jsonl", "")
    with pytest.raises(UserError, match=r"--parts=hot_swap: .* config\.hot_swap\.questions, two files"):
        evaluate(tiny_rag, config, tmp_path, parts=["hot_swap"], swap_index="somewhere")
