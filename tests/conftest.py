"""Strict settings shared by every test: 8 virtual CPU devices, no rank promotion, no network; and one tiny run."""

import fcntl
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

jax.config.update("jax_numpy_rank_promotion", "raise")
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the long tests instead")


def pytest_configure(config):
    """Of every property so many cases are tried, the same in every run, and none of them is kept."""
    cases = 10_000 if config.getoption("--long") else 80
    slow = hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large  # the machine may be busy
    hypothesis.settings.register_profile(
        "house", max_examples=cases, derandomize=True, deadline=None, database=None, suppress_health_check=slow
    )
    hypothesis.settings.load_profile("house")
    set_hypothesis_home_dir(config.cache.mkdir("hypothesis"))  # for its tables


def pytest_collection_modifyitems(config, items):
    """The quick tests or the long ones; those that try more cases then are of both."""
    long = config.getoption("--long")
    asked = lambda item: item.get_closest_marker("more") or bool(item.get_closest_marker("long")) == long  # noqa: E731
    config.hook.pytest_deselected(items=[item for item in items if not asked(item)])
    items[:] = filter(asked, items)


@pytest.fixture(scope="module", autouse=True)
def programs_forgotten():
    """Linux gives a process 65,530 memory maps; a compiled program takes nine and more, and XLA dies without any."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def rng():
    return jax.random.key(0)


@pytest.fixture(scope="module")
def compiled_in_haste():
    """Programs are compiled to run once: optimising them would take most of the tests' time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def compiled():
    """The names of all programs compiled from now on."""
    names = []

    def note(event, _, fun_name="", **__):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


class Run:
    """A trained tiny run: files about an invented land, and the commands that a user would type."""

    def __init__(self, folder: Path):
        self.folder, self.workdir, self.index_after = folder, folder / "run", folder / "index_after"
        self.foreign_index = folder / "index_of_another_encoder"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            # The commands compile the same programs again and again, and run them for moments.
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def command(self, name, *arguments, stdin="", code=0, prelude=""):
        """Runs `python -m rag_jax.NAME`, after a prelude in Python where one is given; its exit code is this, or one of

        a set.
        """
        start = ["-m", f"rag_jax.{name}"]
        if prelude:
            run = f"import runpy\nrunpy.run_module('rag_jax.{name}', run_name='__main__', alter_sys=True)"
            start = ["-c", f"{prelude}\n{run}"]
        done = subprocess.run(
            [sys.executable, *start, *map(str, arguments)],
            input=stdin, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=1800,
        )  # fmt: skip
        said, codes = f"{done.stdout}{done.stderr}", code if isinstance(code, set) else {code}
        assert done.returncode in codes, f"{name} {arguments}: exit code {done.returncode}\n{said}"
        return done

    def together(self, name, *arguments, preludes=("", ""), code=0, second=()):
        """Runs two processes of one job on this machine, the second with more arguments; returns both when done.

        code: of both, or of each.
        """
        codes = code if isinstance(code, tuple) else (code, code)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"

        def process(number):
            own = coordinator, "--processes=2", f"--process={number}", *(second if number else ())
            return self.command(name, *arguments, *own, code=codes[number], prelude=preludes[number])

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(process, range(2)))

    @contextmanager
    def served(self, *flags, prelude=""):
        """The address that `python -m rag_jax.serve` listens at; afterwards a signal must end it, in silence."""
        run = "import runpy\nrunpy.run_module('rag_jax.serve', run_name='__main__', alter_sys=True)"
        words = [sys.executable, "-c", f"{prelude}\n{run}", f"--workdir={self.workdir}", "--port=0", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(words, cwd=self.folder, env=self.environment, **pipes) as serving:
            try:
                line = serving.stdout.readline()
                assert line.startswith("page http://127.0.0.1:"), line + serving.stderr.read()
                yield line.split()[1]
                serving.terminate()
                said, problems = serving.communicate(timeout=300)
                problems = re.sub(r".* so far\n", "", problems)  # a busy machine compiles for long
            finally:
                serving.kill()
        assert (serving.returncode, said, problems) == (0, "stopped; all that was asked is answered\n", "")

    def with_devices(self, monkeypatch, count):
        """The run itself, whose commands have so many devices until the test ends."""
        flags = f"{self.environment['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
        monkeypatch.setitem(self.environment, "XLA_FLAGS", flags)
        return self

    def records(self, path):
        """The objects of a .jsonl file in the run's folder."""
        return [json.loads(line) for line in (self.folder / path).read_text(encoding="utf-8").splitlines()]


TOWNS = ("Brimholt", "Cladow", "Dunmere", "Eskford", "Fallowby", "Gritsea", "Hexwold", "Ilverton", "Jarrow", "Kestrel")
GIVEN, FAMILY = ("Ada", "Bo", "Cyd", "Dov", "Eli", "Fay"), ("Quist", "Rook", "Stane", "Thrup", "Ulm", "Vane", "Wick")
FORMS = ("what is the {relation} of {town}?", "{town}: which {relation}?")
TINY = """
from rag_jax.config import default_config


def get_config(kind="token"):
    config = default_config()
    config.kind = kind
    config.data.update(passages="passages_before.jsonl", train="train.jsonl", valid="valid.jsonl", test="test.jsonl")
    config.length.update(question=16, passage=24, source=40, target=8)
    config.tokenizer.update(encoder_vocab=320, generator_vocab=340)
    tiny = dict(width=16, heads=2, ffn=32, positions=48, init_std=0.2)
    config.encoder.update(**tiny, layers=1)
    config.generator.update(**tiny, encoder_layers=1, decoder_layers=1)
    config.retriever.update(steps=4, batch=8, warmup=1, inverse_cloze=0.25)
    config.index.update(batch=16, kind="exact")
    config.retrieval.update(k=3)
    config.denoise.update(steps=2, batch=8, k=1, learning_rate=1e-3)
    config.reader.update(steps=4, batch=8, k=2, learning_rate=1e-3, substitution=0.5, train_question_encoder=False)
    config.joint.update(steps=4, batch=8, k=3, learning_rate=1e-3)
    config.decode.max_length = 8
    config.evaluate.update(batch=8, every=2, questions=6, recall=(1, 3))
    config.hot_swap.update(questions=("mayors_before.jsonl", "mayors_after.jsonl"))
    return config
"""
COUNT_TRACES = """
from rag_jax.training import sources
step = sources.train_step

def counted(*arguments, **settings):
    print("traced a training step")
    return step(*arguments, **settings)

sources.QuestionSource.step = sources.PassageSource.step = staticmethod(counted)
"""


def write_land(folder: Path) -> None:
    """30 passages in two editions, which differ in the mayors; 40 questions; 8 mayors asked for in both editions."""

    def write(name, records):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    facts = {}  # (relation, town) -> text and answer of each edition
    for n, town in enumerate(TOWNS):
        mayors = [f"{GIVEN[(n + edition) % 6]} {FAMILY[(n + 3 * edition) % 7]}" for edition in (0, 1)]
        facts["mayor", town] = [(f"{mayor} is the mayor of {town} and lives there.", mayor) for mayor in mayors]
        facts["river", town] = [(f"The river of {town} is the {town[:4]}el.", f"{town[:4]}el")] * 2
        facts["year", town] = [(f"{town} was founded in the year {1101 + 37 * n}.", str(1101 + 37 * n))] * 2
    for edition, name in enumerate(("passages_before", "passages_after")):
        write(name, ({"id": f"{r}/{t}", "title": t, "text": fact[edition][0]} for (r, t), fact in facts.items()))
    asked = [
        {"question": form.format(relation=r, town=t), "answer": fact[0][1], "passage_ids": [f"{r}/{t}"], "group": r}
        for form in FORMS
        for (r, t), fact in facts.items()
    ]
    asked = random.Random(0).sample(asked, 40)
    for name, part in (("train", asked[:24]), ("valid", asked[24:30]), ("test", asked[30:])):
        write(name, part)
    groups = list(zip(TOWNS[:8], ["trained", "never trained"] * 4, strict=True))
    for edition, name in enumerate(("mayors_before", "mayors_after")):
        answers = [facts["mayor", town][edition][1] for town, _ in groups]
        write(
            name,
            (
                {"question": f"who is mayor of {town}?", "answer": answer, "group": group}
                for (town, group), answer in zip(groups, answers, strict=True)
            ),
        )


def train_tiny(run: Run) -> None:
    """Every command once: retriever, an index per edition, training; and an index that says another encoder made it."""
    from rag_jax.index.base import read_index_manifest, write_index_manifest

    write_land(run.folder)
    (run.folder / "tiny.py").write_text(TINY)
    common = "--config=tiny.py", f"--workdir={run.workdir}"
    run.command("train_retriever", *common)
    run.command("build_index", *common)
    run.command("build_index", *common, "--config.data.passages=passages_after.jsonl", f"--index={run.index_after}")
    done = run.command("train", *common, prelude=COUNT_TRACES)
    (run.folder / "train.log").write_text(done.stdout)
    shutil.copytree(run.workdir / "index", run.foreign_index)
    manifest = read_index_manifest(run.foreign_index)
    write_index_manifest(run.foreign_index, replace(manifest, encoder_fingerprint="another"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A trained tiny run, made once for all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            train_tiny(Run(folder))
            (folder / "ready").touch()
    return Run(folder)


@pytest.fixture(scope="session")
def tiny_rag(tiny_run):
    """The trained tiny model in this process; leave its index as it was."""
    from rag_jax import Rag

    return Rag.load(tiny_run.workdir)


@pytest.fixture(scope="session")
def smaller_index(tiny_rag, tiny_run, tmp_path_factory):
    """An index of the tiny run's encoder, as it says, of 20 passages instead of 30, with vectors of its own."""
    from rag_jax.data.formats import Passage
    from rag_jax.data.passages import build_store
    from rag_jax.index.builder import build_index
    from rag_jax.index.encoding import Encoder

    folder, index = tmp_path_factory.mktemp("smaller"), tiny_rag.retriever.index
    vector_NE = np.random.default_rng(0).standard_normal((20, index.manifest.width), np.float32)
    passages = tiny_run.records("passages_after.jsonl")[5:25]
    passages = [Passage(f"new {n}", record["title"], record["text"]) for n, record in enumerate(passages)]
    store = build_store(passages, folder / "passages", tiny_rag.retriever.generator_tokenizer)
    rows = Encoder(lambda ids: vector_NE[ids[:, 0] - 1], lambda *_: np.arange(1, 21)[:, None], 0, 1, 20)
    fingerprint = index.manifest.encoder_fingerprint
    build_index(
        folder / "index", encoder=rows, store=store, fingerprint=fingerprint, score_scale=1.0, kind="exact", log=len
    )
    return folder / "index"


@pytest.fixture
def two_devices(tiny_run, monkeypatch):
    """The tiny run, whose commands have two devices."""
    return tiny_run.with_devices(monkeypatch, 2)


@pytest.fixture
def four_devices(tiny_run, monkeypatch):
    """The tiny run, whose commands have four devices."""
    return tiny_run.with_devices(monkeypatch, 4)
