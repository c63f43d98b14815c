"""Command lines of any words: flags are read and checked, or one line names the flag."""

import json
import runpy
from contextlib import nullcontext

import pytest
from absl import flags
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from rag_jax import command
from rag_jax.config import default_config
from rag_jax.errors import UserError
from rag_jax.planning.chips import topology
from rag_jax.team import _check_team
from rag_jax.validation import _items, validate
from rag_jax.variants import WAYS, Variant
from rag_jax.workdir import Workdir, configuration

from .inputs import TEXT, VALUES, nearly, told

# ml_collections loads configurations in a way that Python will take away.
pytestmark = [pytest.mark.more, pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")]
COMMANDS = ("train", "train_retriever", "build_index", "evaluate", "answer", "export", "plan", "serve")
KEYS = [key for key, value in _items(default_config())]
WORD = TEXT.map(lambda text: text.replace("\0", ""))  # no command line holds a NUL
NUMBERS = (
    "0",
    "-1",
    "1",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "9" * 30,
    "9" * 5000,
    "１２",
    "²",
    "1_0",
    "0x1",
    "1.5",
    " 1",
    "",
)
TUPLES = (
    "()",
    "(1, 2)",
    "('a',)",
    "(",
    "[1, [2]]",
    "{[]}",
    "(1,) * 9",
    "-" * 3000 + "1",
    "(" * 150,
    "__import__('os')",
    "1 2",
)
VALUE = (
    st.sampled_from(
        (
            *NUMBERS,
            *TUPLES,
            "True",
            "no",
            "demo",
            "demo:train",
            "v5e:2x4",
            "cpu:" + "9" * 5000,
            "n_docs=" + "9" * 5000,
            "1:" + "9" * 5000,
            "h:" + "9" * 5000,
            "n_docs=1,5",
            "20:5",
        )
    )
    | WORD
)


@pytest.fixture(scope="module", params=COMMANDS)
def defined(request):
    """One command's own readers of flags, its flags being all that there are."""
    before = set(flags.FLAGS)
    for name in before & {"config", "workdir"}:  # of a command that another test has imported
        delattr(flags.FLAGS, name)
    names = runpy.run_module(f"rag_jax.{request.param}", run_name=f"flags_of_{request.param}")
    yield {name: names[name] for name in ("profiled", "swept", "named") if name in names}
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def parsed(words):
    """The flags after a command line of these words, as a dictionary, and the words that are no flags."""
    given = flags.FLAGS
    before = set(given)
    try:
        rest = command.parse_flags(["command", *words])
        return {name: given[name].value for name in before}, rest[1:]
    finally:
        for name in set(given) - before:
            delattr(given, name)
        for name in before:
            given[name].unparse()
        given.unparse_flags()


@st.composite
def command_lines(draw):
    names = (
        st.sampled_from(sorted(set(flags.FLAGS) - {"flagfile"})) | st.sampled_from(KEYS).map("config.{}".format) | WORD
    )
    words = draw(st.lists(st.tuples(names, VALUE), max_size=4))
    shapes = ("--{0}={1}", "--{0}", "-{0}={1}", "--no{0}", "{1}", "--{0}\n{1}")
    line = [draw(st.sampled_from(shapes)).format(*pair) for pair in words]
    return draw(st.sampled_from(([], ["--config=demo"], ["--config", "demo:sequence"], ["-config=demo"]))) + line


@pytest.mark.parametrize(
    "words", [["--config="], ["--config", "--workdir=x"], ["--config"], ["--config=\n"], ["-config="]]
)
def test_a_configuration_that_is_not_named(defined, words):
    with pytest.raises(UserError, match=r"(?i)config"):
        parsed(words)


@settings(max_examples=settings.default.max_examples // len(COMMANDS))
@given(data=st.data())
def test_command_lines(defined, data):
    words = data.draw(command_lines())
    found = told(lambda: parsed(words), "--", "command line", "config.", ".py:")
    if found is None:
        return
    values, _ = found
    checks = {
        "config": command.checked,
        "profile_steps": defined.get("profiled"),
        "sweep": lambda sweep: sweep is None or defined["swept"](sweep),
        "index": lambda names: not isinstance(names, list) or defined["named"](names),
        "workdir": lambda name: Workdir(name),
        "topology": lambda name: name is None or topology(name),
    }
    for name, check in checks.items():
        if name in values:
            given = str(values[name])[:40], repr(values[name])[1:40]
            told(lambda check=check, name=name: check(values[name]), f"--{name}", "config.", *given)
    if "coordinator" in values:
        team = values["coordinator"], values["processes"], values["process"]
        told(lambda: _check_team(*team), "--coordinator", "--process")


@pytest.mark.parametrize(
    "name", ["a" * 5000, "\ud800", "README.md", "tests", ".", "demo:", "demo:nothing", "nq:frozen,bm25"]
)
def test_configurations_of_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(UserError) if name != "demo:" else nullcontext():
        command.load_config(command.find_config(name))


@given(st.one_of(WORD, st.binary(max_size=40).map(lambda data: data.decode("latin-1"))), st.sampled_from(("token", "")))
@example("def get_config():\n    return 5\n", "")
@example("# coding: nothing\n", "")
def test_a_configuration_of_any_text(place, text, argument):
    """Any text but a program that does harm: these are far too short for one."""
    path = place / "config.py"
    path.write_bytes(text.encode(errors="surrogatepass"))
    told(lambda: command.load_config(f"{path}:{argument}"), path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("flags")


def numbers(config):
    for _, value in _items(config):
        yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int | float))


@given(nearly((json.loads(default_config().to_json_best_effort()),)))
@example(5)
@example({"joint": {"learning_rate": float("nan")}})
@example({"seed": {"": None}})
@example({"unknown": None})
def test_saved_configurations(saved):
    """A run's config.json with values of any kind in it: taken whole, or every line names a key."""
    config = told(lambda: configuration(saved, "config.json"), "config.", "config.json")
    if config is not None:
        assert all(abs(number) < 2**31 for number in numbers(config)) and isinstance(config, ConfigDict)


@given(
    st.sampled_from(KEYS), VALUES | st.sampled_from((1, 2.5, float("nan"), float("inf"), -1, 10**20, (), (1,), ("a",)))
)
def test_values_of_a_configuration(key, value):
    group, _, name = key.rpartition(".")
    config = default_config()
    config.data.passages = "p.jsonl"
    within = config
    for part in filter(None, group.split(".")):
        within = within[part]
    with within.ignore_type():
        within[name] = value
    told(lambda: validate(config), "config.")


@given(st.lists(st.sampled_from(("token", "sequence", "frozen", "bm25", "runlocal", "head", "")) | WORD).map(",".join))
def test_variants(words):
    told(lambda: Variant.read("nq", words, "token", WAYS), f"--config=nq:{words}")
