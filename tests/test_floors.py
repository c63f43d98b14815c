"""The house's rules, read off the source: who may import whom, who owns a heavy guest, how long things may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rag_jax"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
FLOORS = (
    (
        "core", "metrics", "errors", "progress", "files", "folders", "compiled", "remote", "storage", "preemption",
        "unpickle",
    ),
    (
        "models", "data", "checkpoint", "parallel", "team", "claim", "sole",
        "config", "validation", "command", "workdir", "variants",
    ),
    ("index", "decode", "hub"),
    ("retrieve", "api"),
    ("evaluation",),
    ("training", "planning", "serving"),
    # "" is rag_jax itself, the way in.
    ("train", "train_retriever", "build_index", "evaluate", "answer", "export", "plan", "serve", ""),
)  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NEIGHBOURS = {
    ("files", "errors"),
    ("files", "progress"),
    ("folders", "errors"),
    ("folders", "files"),
    ("folders", "progress"),
    ("compiled", "files"),
    ("remote", "errors"),
    ("remote", "files"),
    ("storage", "errors"),
    ("storage", "files"),
    ("storage", "remote"),
    ("storage", "progress"),
    ("sole", "claim"),
    ("command", "validation"),
    ("workdir", "config"),
    ("workdir", "validation"),
    ("validation", "config"),
    ("variants", "command"),
    ("variants", "config"),
    ("api", "retrieve"),
    ("planning", "training"),  # what is planned is what is trained
}  # importer first
OWNERS = {
    "torch": None,
    "transformers": None,
    "scann": "index/scann.py",
    "bm25s": "index/bm25.py",
    "Stemmer": "index/bm25.py",
    "orbax": "checkpoint.py",
    "grain": "data/pipeline.py",
    "pyarrow": ("data/passages.py", "data/tables.py"),  # the store; other people's tables
    "tensorboardX": "training/logging.py",
    "tokenizers": "data/tokenizer.py",
    "safetensors": "hub/tensors.py",
    "huggingface_hub": "hub/source.py",
    "datasets": "hub/knowledge.py",
    "faiss": "hub/knowledge.py",
    "pickle": "unpickle.py",  # a reader that runs nothing
    "matplotlib": "evaluation/plots.py",
    "fsspec": "remote.py",
    "gradio": "serving/page.py",
    "fastapi": ("serving/endpoint.py", "serving/page.py"),  # the endpoint; the application that the page is put into
    "fastapi_offline": "serving/endpoint.py",
    "pydantic": "serving/endpoint.py",
    "starlette": ("serving/endpoint.py", "serving/problems.py"),
    "uvicorn": "serving/server.py",
}
# Of an extra: imported where it is used, so that nobody else needs it.
LAZY = {"datasets", "faiss", "bm25s", "Stemmer", "matplotlib"}
# All of an extra: who imports the room, and only where it is used.
OF_AN_EXTRA = {"serving": "serve.py"}
MOST_LINES, MOST_FUNCTION_LINES = 350, 60
TABLES = {"data/demo/relations.py"}  # sentences, not statements
VISIBLE_LOOPS = {
    ("training/loop.py", "train"),
    ("training/loop.py", "train_stage"),
    ("training/retriever_loop.py", "train_retriever"),
}
MOST_LOOP_LINES = 120
MESH_WORDS = {"pmap", "psum", "pmean", "all_gather", "axis_index", "shard_map", "Mesh", "PartitionSpec"}


def parse(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imports(tree):
    """Full names of everything imported anywhere in a file, lazy imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(dotted):
    """'data' for rag_jax.data.text.Document or data/text.py, 'api' for api.py, '' for rag_jax itself."""
    return dotted.removesuffix(".py").replace("/", ".").removeprefix("rag_jax.").split(".")[0].replace("__init__", "")


def test_every_file_has_a_floor():
    assert {room(name) for name in FILES} == set(FLOOR)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_from_floors_below_or_its_own_folder(name):
    own = room(name)
    for imported in imports(parse(name)):
        if imported.split(".")[0] != "rag_jax":
            continue
        other = room(imported)
        below = FLOOR[other] < FLOOR[own]
        own_folder = own == other and "/" in name
        assert below or own_folder or (own, other) in NEIGHBOURS, f"{name} imports {imported}"


def owners(guest):
    found = OWNERS[guest] or ()
    return [found] if isinstance(found, str) else list(found)


@pytest.mark.parametrize("guest", OWNERS)
def test_a_heavy_guest_has_its_owner(guest):
    hosts = [name for name in FILES if any(found.split(".")[0] == guest for found in imports(parse(name)))]
    assert hosts == owners(guest)


@pytest.mark.parametrize("guest", sorted(LAZY))
def test_an_extra_is_imported_where_it_is_used(guest):
    for owner in owners(guest):
        top = [node for node in parse(owner).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert guest not in {found.split(".")[0] for node in top for found in imports(node)}


@pytest.mark.parametrize("extra", OF_AN_EXTRA)
def test_a_room_of_an_extra_is_imported_where_it_is_used(extra):
    def inside(nodes):
        return any(f"{found}.".startswith(f"rag_jax.{extra}.") for node in nodes for found in imports(node))

    assert [name for name in FILES if room(name) != extra and inside([parse(name)])] == [OF_AN_EXTRA[extra]]
    top = [node for node in parse(OF_AN_EXTRA[extra]).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not inside(top)


@pytest.mark.parametrize("name", [f"{command}.py" for command in FLOORS[-1] if command])
def test_a_command_loads_jax_only_after_its_flags_are_read(name):
    light = {"absl", "dataclasses", "importlib.util", "json", "math", "os", "pathlib", "shutil", "sys", "textwrap"}
    light |= {"rag_jax", "rag_jax.errors", "rag_jax.workdir"}
    top = [node for node in parse(name).body if isinstance(node, ast.Import | ast.ImportFrom)]
    loaded = {getattr(node, "module", None) or node.names[0].name for node in top}
    assert loaded <= light


def test_only_parallel_names_a_mesh_axis():
    for name in set(FILES) - {"parallel.py"}:
        words = {node.attr for node in ast.walk(parse(name)) if isinstance(node, ast.Attribute)}
        words |= {found.rpartition(".")[2] for found in imports(parse(name))}
        assert not words & MESH_WORDS, name


def test_floor_0_knows_no_model_library():
    for name in FILES:
        if FLOOR[room(name)] == 0:
            assert not {found.split(".")[0] for found in imports(parse(name))} & {"flax", "optax", "ml_collections"}


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES or name in TABLES
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            most = MOST_LOOP_LINES if (name, node.name) in VISIBLE_LOOPS else MOST_FUNCTION_LINES
            assert node.end_lineno - node.lineno + 1 <= most, f"{name}: {node.name}"


@pytest.mark.parametrize("name", FILES)
def test_files_and_public_names_have_docstrings(name):
    tree = parse(name)
    if tree.body:
        assert ast.get_docstring(tree), f"{name} does not say what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            bases = {base.id for base in getattr(node, "bases", []) if isinstance(base, ast.Name)}
            assert ast.get_docstring(node) or "Protocol" in bases, f"{name}: {node.name}"
