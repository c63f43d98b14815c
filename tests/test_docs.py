"""What README and docs say is so: commands, flags, keys, names, links and files are there; what can run is run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from rag_jax.command import find_config, load_config
from rag_jax.config import default_config
from rag_jax.validation import unknown_keys, validate

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
PAGE = pytest.mark.parametrize("page", PAGES)
STEMS = {path.stem for path in (ROOT / "configs").glob("*.py")}
NAMES = {path.stem for path in (ROOT / "rag_jax").glob("*.py") if "run_main(" in path.read_text(encoding="utf-8")}
FLAG = re.compile(r"(?:DEFINE_\w+|add_argument)\(\s*\"(?:--)?(\w+)\"")
OWN_CONFIGURATIONS = "mine.py", "path/to/it.py"  # of the reader
# Parses every line in a process of its own, as the command would; runs none.
PARSES = """
import json, os, runpy, sys
from absl import flags
from rag_jax import command
from rag_jax.errors import UserError
from rag_jax.planning.chips import topology

def parse(module, *arguments):
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="documented")
    command.parse_flags(sys.argv)
    if flags.FLAGS.config is not None:
        command.checked(flags.FLAGS.config)
    if "topology" in flags.FLAGS and flags.FLAGS.topology:
        topology(flags.FLAGS.topology)

for line in json.load(sys.stdin):
    if os.fork():
        os.wait()
        continue
    try:
        parse(*line)
    except UserError as error:
        print(*line, "->", error, flush=True)
    os._exit(0)
"""


class Command(NamedTuple):
    """A line that the reader may type: `python -m MODULE ARGUMENTS`."""

    module: str
    arguments: tuple[str, ...]


def fenced(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text):
    return re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text):
    """Code inside sentences and tables."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def lines(text):
    """All that may be typed: fenced and indented lines, and code inside sentences."""
    typed = [line for block in fenced(text, "bash") for line in block.splitlines()]
    return [*typed, *re.findall(r"^    (\S.*)$", prose(text), re.MULTILINE), *spans(text)]


def words_of(line):
    """The words of a line; those of a command inside quotes too."""
    words = shlex.split(line.replace("--config=CONFIG", "--config=demo"), comments=True)
    for word in [word for word in words if "python -m " in word]:
        words += shlex.split(word)
    return words


def commands(text):
    """Every `python -m rag_jax.*` and `python -m tests.*`, in order; also as `answer --k=10`."""
    for line in lines(text):
        if line.split(" --")[0] in NAMES:
            line = f"python -m rag_jax.{line}"
        if "python -m" in line:
            words = words_of(line)
            starts = [n for n, word in enumerate(words[:-2]) if words[n : n + 2] == ["python", "-m"]]
            for start, end in pairwise([*starts, len(words)]):
                module, *arguments = words[start + 2 : end]
                if module.startswith(("rag_jax.", "tests.")):
                    yield Command(module, tuple(word for word in arguments if word != "..."))


def all_commands():
    return list(dict.fromkeys(command for text in PAGES.values() for command in commands(text)))


def anchors(text):
    """The names of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) < 250


def test_every_command_is_one_and_has_its_flags_keys_and_configurations(tmp_path):
    """The reader's own configuration is the one that the page on corpora shows."""
    [own] = [block for block in fenced(PAGES["docs/corpus.md"], "python") if "get_config" in block]
    for name in OWN_CONFIGURATIONS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(own)
    documented = [command for command in all_commands() if command.module.startswith("rag_jax.")]
    assert len(documented) >= 20
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{PARSES}"],
        input=json.dumps([[command.module, *command.arguments] for command in documented]),
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_every_command_of_the_tests_is_one_and_has_its_flags():
    documented = [command for command in all_commands() if command.module.startswith("tests.")]
    assert len(documented) >= 7
    for module, arguments in documented:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert "__main__" in source
        for flag in re.findall(r"^(--\w+)", "\n".join(arguments), re.MULTILINE):
            assert f'"{flag}"' in source, f"{module} {flag}"


@PAGE
def test_every_key_is_one(page):
    groups = "|".join(name for name, value in default_config().items() if hasattr(value, "items"))
    named = "\n".join(spans(PAGES[page]))
    keys = re.findall(rf"^(?:--)?config\.(?!py\b|json\b)([\w.]+)|^((?:{groups})\.\w[\w.]*)", named, re.MULTILINE)
    assert unknown_keys((whole or short).rstrip(".") for whole, short in keys) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/launch.md"])  # whose scripts have others
def test_every_flag_that_a_sentence_names_is_one(page):
    sources = (*(ROOT / "rag_jax").glob("*.py"), *(ROOT / "tests").rglob("*.py"))
    known = {flag for path in sources for flag in FLAG.findall(path.read_text(encoding="utf-8"))}
    known |= {f"no{flag}" for flag in known}
    named = re.findall(r"^--(?!config\.)(\w+)", "\n".join(spans(PAGES[page])), re.MULTILINE)
    assert set(named) <= known


@PAGE
def test_every_configuration_that_a_sentence_names_is_one(page):
    for span in spans(PAGES[page]):
        given = re.fullmatch(r"--config=([\w:,]+)", span)
        name = given[1] if given else span
        if given or name.partition(":")[0] in STEMS - {"demo"}:
            validate(load_config(find_config(name)))


@PAGE
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if not link.startswith("https://"):
            place, _, anchor = link.partition("#")
            path = ((ROOT / page).parent / place).resolve() if place else ROOT / page
            assert path.exists(), link
            assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


@PAGE
def test_every_file_of_the_repository_that_is_named_is_there(page):
    named = re.findall(r"(?<![\w/.])(?:rag_jax|configs|launch|tests)/[\w/]+\.\w+", PAGES[page])
    assert [name for name in named if not (ROOT / name).is_file()] == []


@PAGE
def test_every_launch_is_one(page):
    """The scripts say what they would run."""
    for line in lines(PAGES[page]):
        launched = re.match(
            r"bash (launch/(?:tpu_vm|tpu_pod)\.sh .*--.*)|(?:sbatch .*|bash )(launch/slurm\.sbatch.*)", line
        )
        if launched:
            words = ["bash", *shlex.split(launched[1] or launched[2]), "--dry_run"]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0 and done.stdout, f"{line}: {done.stderr}"


def test_every_configuration_in_python_is_right():
    blocks = [block for text in PAGES.values() for block in fenced(text, "python") if "config." in block]
    assert len(blocks) >= 2
    for block in blocks:
        names = {"config": default_config()}
        names["config"].data.passages = "passages.jsonl"
        exec(block, names)
        validate(names["get_config"]() if "get_config" in names else names["config"])


def test_all_that_users_ask_is_answered():
    asked = re.findall(r"^\*\*(\d+)\. ", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert asked == [str(number) for number in range(1, 26)]


def test_help_is_the_docstring_and_the_command_s_own_flags(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rag_jax.train", "--config=demo", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Trains question encoder and generator")
    told = re.findall(r"^  (--\w+)", done.stdout, re.MULTILINE)
    assert told == ["--config", "--workdir", "--coordinator", "--processes", "--process", "--profile_steps"]


@pytest.fixture(scope="module")
def reader(tiny_run, tmp_path_factory):
    """Where a reader types what the pages say: the tiny run as runs/demo, and as a configuration of one's own."""
    folder = tmp_path_factory.mktemp("reader") / "here"
    shutil.copytree(tiny_run.folder, folder)
    (folder / "runs").mkdir()
    (folder / "run").rename(folder / "runs" / "demo")
    (folder / "index_after").rename(folder / "runs" / "demo" / "index_2018")
    shutil.copy(folder / "tiny.py", folder / "mine.py")
    shutil.copy(folder / "passages_after.jsonl", folder / "mine.jsonl")
    (folder / "more.tsv").write_text("id\ttext\ttitle\nriver/Lostel\tThe river of Lostel is the Lostel.\tLostel\n")
    return type(tiny_run)(folder)


def on_the_tiny_run(command):
    """The same command on the tiny run, or None of a command that needs more than that."""
    tiny = [re.sub(r"^--config=(?:demo|mine\.py|nq)\b", "--config=tiny.py", word) for word in command.arguments]
    name = command.module.removeprefix("rag_jax.")
    if name == "plan":
        return (name, "--config=tiny.py", "--topology=cpu:8", "--passages=30")
    if name == "serve" or not {"--workdir=runs/demo", "--workdir=runs/mine"} & set(tiny):
        return None
    return (name, *tiny)


@pytest.mark.long
def test_every_command_that_can_runs(reader):
    """In the order of the pages."""
    documented = [command for command in all_commands() if command.module.startswith("rag_jax.")]
    typed = list(dict.fromkeys(filter(None, map(on_the_tiny_run, documented))))
    assert {name for name, *_ in typed} == {
        "train_retriever", "build_index", "train", "evaluate", "answer", "export", "plan",
    }  # fmt: skip
    for name, *arguments in typed:
        done = reader.command(name, *arguments)
        assert done.stdout or name == "train", f"{name} {arguments}"
    for made in ("runs/mine/checkpoints", "hf/demo/model.safetensors", "tokens.png", "runs/demo/sweep.png"):
        assert (reader.folder / made).exists(), made
    assert "31 passages" in reader.command("build_index", "--workdir=runs/mine", "--verify").stdout


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:1 of 1 questions exceed")  # the tiny run's tokens are short
def test_every_use_in_python_runs(reader, monkeypatch, capsys):
    monkeypatch.chdir(reader.folder)
    blocks = dict.fromkeys(block for text in PAGES.values() for block in fenced(text, "python") if "Rag.load" in block)
    assert blocks
    for block in blocks:
        exec(block, {})
        assert capsys.readouterr().out.strip()
