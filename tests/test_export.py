"""The export command as a user types it, from a run to a folder that transformers answers from; and its refusals."""

import ast
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from rag_jax import remote
from rag_jax.errors import PassingError, UserError
from rag_jax.evaluation.report import whose
from rag_jax.hub.folder import ENCODERS
from rag_jax.storage import twin

from .stores import Flaky

QUESTIONS = ["who is mayor of Cladow?", "Jarrow: which year?", "what is the river of Hexwold?"]
DIES = """
import os
import rag_jax.hub.folder as folder

folder.card = lambda *_, **__: os._exit(9)
"""


@pytest.fixture(scope="module")
def measured(tiny_run, tiny_rag, tmp_path_factory):
    """A workdir with scores of the best checkpoint, which nobody measured."""
    workdir = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    scores = {"EM": {"percent": 25.0, "low": 7.15, "high": 59.07, "sum": 2.0, "count": 8}}
    of = whose(tiny_rag.identity(), tiny_rag.config.data, "test")
    (workdir / "metrics.json").write_text(json.dumps({"test": scores, "of": {"test": of}}))
    return workdir


def hidden(folder):
    """What an interrupted command left, under names that nobody opens."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_from_a_run_to_answers_elsewhere_and_here(tiny_run, tiny_rag, measured, tmp_path, monkeypatch, capsys):
    for package in ("transformers", "datasets", "faiss"):
        pytest.importorskip(package)
    from .hub.answers_elsewhere import run_card

    out = tmp_path / "hf" / "land"
    said = tiny_run.command("export", f"--workdir={measured}", f"--out={out}", "--with_index").stdout
    assert said == f"{out}: written; README.md says how to use it\n"
    card = (out / "README.md").read_text()
    assert "# land\n" in card and "| EM | 25.0 | 7.2 to 59.1 |" in card
    answers = [answer.text for answer in tiny_rag.answer(QUESTIONS)]
    monkeypatch.chdir(tmp_path)
    assert run_card(Path("hf/land"))["answer"](QUESTIONS) == answers
    (ours,) = (block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "rag_jax" in block)
    monkeypatch.chdir(out)
    ours = ours.replace("who discovered radium?", QUESTIONS[0])
    exec(compile(ours, "README.md", "exec"), names := {})
    assert capsys.readouterr().out.startswith(f"{answers[0]} ")
    assert [answer.text for answer in names["rag"].answer(QUESTIONS)] == answers


def test_others_scores_stay_away_and_an_upload_without_a_token_comes_after_writing(
    tiny_run, measured, tmp_path, monkeypatch
):
    monkeypatch.setitem(tiny_run.environment, "HF_HOME", str(tmp_path / "nobody"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delitem(tiny_run.environment, name, raising=False)
    out = tmp_path / "land"
    options = f"--index={tiny_run.index_after}", "--push_to_hub=ada/land"
    done = tiny_run.command("export", f"--workdir={measured}", f"--out={out}", *options, code=2)
    assert done.stderr == (
        "error: --push_to_hub: found no token for ada/land, expected one in HF_TOKEN or from `hf auth login`; "
        f"{out} is written; upload it later with `hf upload ada/land {out}`\n"
    )
    assert "its card has no scores" in done.stdout and "Scores" not in (out / "README.md").read_text()
    assert (out / "model.safetensors").is_file()


def test_a_kill_half_way_leaves_no_folder(tiny_run, measured, tmp_path):
    out = tmp_path / "land"
    tiny_run.command("export", f"--workdir={measured}", f"--out={out}", prelude=DIES, code=9)
    assert not out.exists() and len(hidden(tmp_path)) == 1


def test_an_upload_that_failed_goes_on_and_a_finished_one_is_kept(tiny_rag, tmp_path, monkeypatch):
    """A bare export of the tiny model, to a store that is away at first."""
    out, away = "flaky://bucket/land", [True]

    def refuse(operation, path):
        if away and operation == "put_file":
            raise OSError("the store is away")

    Flaky.fill({})
    monkeypatch.setattr(Flaky, "before", staticmethod(refuse))
    monkeypatch.setattr(remote, "PAUSES", ())
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path))
    with pytest.raises(PassingError, match="the store is away"):
        tiny_rag.save_pretrained(out)
    assert (twin(out) / "model.safetensors").is_file()
    away.clear()
    tiny_rag.save_pretrained(out)
    sent = Flaky.objects()
    assert sent["/bucket/land/model.safetensors"] == (twin(out) / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"^flaky://bucket/land: found files in it, expected a new or an empty"):
        tiny_rag.save_pretrained(out)
    assert Flaky.objects() == sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out: missing, expected the folder to write, as --out=hf/demo"),
        (["--out=full"], "full: found files in it, expected a new or an empty folder"),
        (["--out=new", "--push_to_hub=land"], "--push_to_hub: found 'land', expected owner/name"),
        (["--out=new", "--config=tiny.py", "--config.encoder.pooling=mean"], "encoder.pooling: found 'mean', but"),
        (["--out=new", "--index=index_of_another_encoder"], "made by passage encoder another, not by"),
    ],
)
def test_refusals_write_nothing(tiny_run, arguments, message):
    (tiny_run.folder / "full").mkdir(exist_ok=True)
    (tiny_run.folder / "full" / "notes.txt").write_text("mine")
    done = tiny_run.command("export", f"--workdir={tiny_run.workdir}", *arguments, code=2)
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tiny_run.folder / "new").exists() and not hidden(tiny_run.folder)
    assert [path.name for path in (tiny_run.folder / "full").iterdir()] == ["notes.txt"]


def test_the_command_says_which_encoders_it_refuses():
    source = Path(importlib.util.find_spec("rag_jax.export").origin).read_text(encoding="utf-8")
    told = ast.get_docstring(ast.parse(source))
    assert all(f"| encoder.{row.name}" in told for row in ENCODERS) and "| data.classify = 'head' | no |" in told
