"""Trust: what is read is never run, and nothing is written but where the user said."""

import ast
import json
import shutil
from pathlib import Path

import fsspec
import httpx
import pytest

from rag_jax import Rag, storage
from rag_jax.errors import UserError
from rag_jax.evaluation.report import Asked, evaluate
from rag_jax.files import MANIFEST, check_names, read_manifest, write_manifest, write_sealed
from rag_jax.hub.tensors import open_tensors
from rag_jax.remote import VERSION, Listing
from rag_jax.storage import pull, twin

ROOT = Path(__file__).parents[2] / "rag_jax"
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}

# What runs what it is given, and who may: a configuration is a file of Python, and that alone.
BUILTINS = ("eval", "exec", "compile", "__import__")
RUNS = {"exec_module": ("command.py",), "import_module": (), "load_searcher": ()}  # the last unpickles what it finds
# A reader of pickles that knows a few stand-ins and nothing else.
MODULES = {"pickle": ("unpickle.py",)} | dict.fromkeys(
    "torch marshal shelve dill joblib cloudpickle subprocess pty popen2 commands runpy code yaml tarfile".split(), ()
)
MODULES["zipfile"] = ("hub/torch_bin.py",)  # which reads parts of a file, and takes nothing out of it
OF_OS = ("system", "popen", "execv", "execve", "execl", "execvp", "spawnv", "spawnl", "posix_spawn", "startfile")


def calls(tree):
    """(call, the last part of what is called, what stands before it) of every call in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute):
                yield node, called.attr, ast.unparse(called.value)
            elif isinstance(called, ast.Name):
                yield node, called.id, ""


def given(call, name):
    """The argument of that name, as it is written; None where there is none."""
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


@pytest.mark.parametrize("name", TREES)
def test_a_file_runs_nothing_that_it_reads(name):
    for node in ast.walk(TREES[name]):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for module in found:
            assert name in MODULES.get(module.split(".")[0], (name,)), f"{name} imports {module}"
    for call, called, owner in calls(TREES[name]):
        where = f"{name}:{call.lineno}: {ast.unparse(call)}"
        assert not (called in BUILTINS and owner in ("", "builtins")), where
        assert name in RUNS.get(called, (name,)), where
        assert not (owner == "os" and called in OF_OS), where
        assert given(call, "shell") is None and given(call, "trust_remote_code") in (None, "False"), where
        assert given(call, "allow_pickle") in (None, "False"), where
        assert owner != "pickle", where
        assert called not in ("extract", "extractall", "unpack_archive"), where


@pytest.mark.parametrize("name", TREES)
def test_text_is_never_a_format_string(name):
    """Only constants are formatted: what a user or a passage says can name no attribute of anything.

    The demo's sentences are a table of its own.
    """
    for call, called, owner in calls(TREES[name]):
        if called in ("format", "format_map") and owner and name != "data/demo/__init__.py":
            assert isinstance(call.func.value, ast.Constant) or owner.isupper(), f"{name}: {ast.unparse(call)}"
        assert called != "Template", name


def test_the_rules_find_what_they_are_for():
    """A file that breaks them all."""
    tree = ast.parse(
        "import pickle, os\npickle.load(f)\nos.system(x)\neval(x)\nnp.load(f, allow_pickle=True)\nx.format(y)"
    )
    found = [(called, owner) for _, called, owner in calls(tree)]
    assert found == [("load", "pickle"), ("system", "os"), ("eval", ""), ("load", "np"), ("format", "x")]
    for rule in (test_a_file_runs_nothing_that_it_reads, test_text_is_never_a_format_string):
        TREES["broken.py"] = tree
        with pytest.raises(AssertionError):
            rule("broken.py")
        del TREES["broken.py"]


OUTSIDE = ["../outside", "/etc/outside", "a/../../outside", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    """Of a manifest, also one whose seal fits; and of a table of weights."""
    with pytest.raises(UserError, match="expected one inside its folder"):
        check_names("x", ["a/b", name])
    folder = tmp_path / "thing"
    folder.mkdir()
    (tmp_path / "outside").write_text("secret")
    write_manifest(folder, {"kind": "thing"})
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["seal"]
    write_sealed(folder / MANIFEST, manifest | {"files": {name: {"size": 6, "sha256": ""}}})
    with pytest.raises(UserError, match=r"manifest\.json: names the file '.*', expected one inside its folder"):
        read_manifest(folder, "thing")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"index\.json: names the file '.*', expected one inside its folder"):
        open_tensors(folder)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_bucket_cannot_write_outside_the_cache(tmp_path, monkeypatch, name):
    """Neither by a marker nor by the names of its objects."""
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    for files in ({name: {"size": 1, "sha256": "x"}}, None):
        store.store.clear()
        store.pipe_file("/trust/index/a", b"a")
        if files is None:
            monkeypatch.setattr(type(store), "find", lambda *_, **__: {f"/trust/index/{name}": {"size": 1}})
        else:
            listing = Listing(files, [])
            told = {"version": VERSION, **listing._asdict(), "seal": listing.seal}
            store.pipe_file("/trust/index.complete.json", json.dumps(told).encode())
        with pytest.raises(UserError, match=r"^memory://trust/index\S*: names the file '.*', expected one inside"):
            pull(twin("memory://trust/index"))
    store.store.clear()
    inside = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert inside <= {".index.lock"} and {path.name for path in tmp_path.iterdir()} == {"cache"}


class Surroundings:
    """Where a program might leave something unasked: the user's folder, those for caches, the current one."""

    def __init__(self, folder, setenv):
        self.folder = folder
        for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "RAG_JAX_CACHE", "HF_HOME", "cwd"):
            (folder / variable).mkdir(parents=True)
            setenv(variable, str(folder / variable))
        self.files = self.found()

    def found(self):
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(self.folder.rglob("*"))}

    def check(self, *written):
        """Fails for anything new or changed that does not lie below one of the places `written`."""
        changed = {path for path, content in self.found().items() if self.files.get(path, ...) != content}
        assert [path for path in changed if not any(path.is_relative_to(place) for place in written)] == []
        assert self.files.keys() <= self.found().keys()


def test_a_model_writes_where_it_is_told_to(tiny_run, tiny_rag, tmp_path, monkeypatch):
    around = Surroundings(tmp_path, monkeypatch.setenv)
    monkeypatch.setattr("tempfile.tempdir", None)
    for path in tiny_run.folder.glob("*.jsonl"):
        shutil.copy(path, tmp_path / "cwd")
    around.files = around.found()
    monkeypatch.chdir(tmp_path / "cwd")
    workdir, out = tmp_path / "measured", tmp_path / "hf"
    rag = Rag.load(tiny_run.workdir)
    workdir.mkdir()
    evaluate(tiny_rag, tiny_rag.config, workdir, Asked(limit=3))
    tiny_rag.save_pretrained(out)
    Rag.load(out, index=rag.retriever.index.folder)
    around.check(workdir, out)
    assert not [path for path in tiny_run.workdir.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.long
def test_every_command_writes_into_its_workdir_or_out_alone(tiny_run, tmp_path):
    """So does the cache of compiled programs, where JAX_COMPILATION_CACHE_DIR names no other folder."""
    changed = dict(tiny_run.environment)
    del changed["JAX_COMPILATION_CACHE_DIR"]
    around = Surroundings(tmp_path, changed.__setitem__)
    run = type(tiny_run)(tmp_path / "cwd")
    run.environment, run.workdir = changed, tmp_path / "run"
    for path in [*tiny_run.folder.glob("*.jsonl"), tiny_run.folder / "tiny.py"]:
        shutil.copy(path, run.folder)
    around.files = around.found()
    out, programs = tmp_path / "hf", set()
    common = "--config=tiny.py", f"--workdir={run.workdir}"
    for name in ("train_retriever", "build_index", "train", "evaluate"):
        run.command(name, *common[name == "evaluate" :])
        before, programs = programs, {*(run.workdir / "programs").iterdir()}
        assert programs - before, name
    run.command("answer", common[1], "what is the river of Cladow?")
    run.command("export", common[1], f"--out={out}")
    run.command("plan", *common, "--topology=cpu:8")
    with run.served() as where:
        assert httpx.get(where, timeout=300).status_code == 200
        asked = {"questions": ["what is the river of Cladow?"]}
        assert httpx.post(f"{where}/answer", json=asked, timeout=300).status_code == 200
    page = tmp_path / "TMPDIR" / "gradio"  # makes a folder as soon as it is imported
    assert not [path for path in page.rglob("*") if path.is_file()]
    around.check(run.workdir, out, page)


def test_a_remote_run_lives_in_the_cache_alone(tmp_path, monkeypatch):
    around = Surroundings(tmp_path, monkeypatch.setenv)
    store = fsspec.filesystem("memory")
    store.pipe_file("/trust/run/index/a", b"a")
    storage.local("memory://trust/run/index")
    store.store.clear()
    around.check(tmp_path / "RAG_JAX_CACHE")
