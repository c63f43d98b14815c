"""Rot: a byte flipped anywhere in what a run has written is named when it is read, or changes nothing.

What changes nothing gives the same bits: those that a command takes from the files (parameters, tokens, vectors,
passages, examples), or those that it writes. Events, profiles, pictures, cards and submissions are read by none.
"""

import contextlib
import io
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

from rag_jax import Rag
from rag_jax.api import rag_config
from rag_jax.checkpoint import Checkpoints
from rag_jax.data import tasks
from rag_jax.data.vocabulary import load_both
from rag_jax.errors import UserError
from rag_jax.evaluation.report import Asked, evaluate
from rag_jax.index.base import Queries, verify_index
from rag_jax.index.split import open_part
from rag_jax.index.vectors import Vectors
from rag_jax.parallel import MODES, keep_programs
from rag_jax.training import encoders, init
from rag_jax.training.examples import make_examples
from rag_jax.training.logging import METRICS, RETRIEVER, SCORES, RunLog
from rag_jax.training.loop import trained
from rag_jax.training.optim import optimizer
from rag_jax.workdir import Workdir

FLIPS = 200
TEXTS = ["who is the mayor of Dunmere?", "Bo Rook lives in Kestrel."]


def bits(tree):
    """Everything in a tree, arrays by their bytes."""
    return [
        (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) if hasattr(leaf, "dtype") else leaf
        for leaf in jax.tree.leaves(tree)
    ]


def of_index(index):
    """All that a reader of an index takes from it, and what it finds."""
    rows = range(len(index.passages))
    query_BE = index.vectors.gather(np.arange(2))
    found = bits([index.vectors.gather(np.array(rows)), index.passages.tokens_of(rows)])
    return found, list(index.passages), bits(index.search(Queries(TEXTS, query_BE), 3))


def opened(folder, rag):
    """What evaluate, answer, export and serve open."""
    rag = Rag.load(folder)
    both = rag.retriever.encoder_tokenizer, rag.retriever.generator_tokenizer
    tokens = [(tokenizer.tokens(), tokenizer.encode_batch(TEXTS)) for tokenizer in both]
    return rag.identity(), rag.config.to_json_best_effort(), bits(rag.params), tokens, of_index(rag.retriever.index)


def model_of(folder):
    place = Workdir(folder)
    config = place.load_config()
    model = rag_config(config, *load_both(config, place.tokenizers / "encoder", place.tokenizers / "generator"))
    return place, config, model, MODES[config.parallel]()


def resumed(folder, rag):
    """Where train goes on."""
    place, config, model, parallel = model_of(folder)
    stages = {name: config[name] for name in ("denoise", "reader", "joint")}
    optimizers = {name: optimizer(stage, trained(config, name)) for name, stage in stages.items()}
    saved = Checkpoints(place.checkpoints)
    return bits(tuple(init.start(config, place, saved, model, optimizers, parallel)))


def retrievers(folder, rag):
    """What build_index and train take from train_retriever."""
    place, config, model, parallel = model_of(folder)
    return bits(encoders.retriever_params(config, place, model, parallel))


def verified(folder, rag):
    """build_index --verify."""
    return verify_index(folder / "index")


def measured(folder, rag):
    """What evaluate leaves behind when it goes on."""
    evaluate(rag, rag.config, folder, Asked())
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def beside(folder, rag):
    """What another run is drawn beside."""
    evaluate(rag, rag.config, folder / "again", Asked(parts=(), n_docs=(3,), beside=(str(folder),)))
    return (folder / "again" / "sweep_beside.png").read_bytes()


def exported(folder, rag):
    """An export opened again."""
    again = Rag.load(folder, index=rag.retriever.index.folder)
    return bits(again.params), again.config.to_json_best_effort(), again.retriever.generator_tokenizer.tokens()


def examples(folder, rag, resumed=True):
    """What a run that goes on learns from."""
    task, questions = tasks.TASKS["triviaqa"], tasks.questions(rag.config.data, rag.config.data.train)
    with RunLog(folder / "log") as log:
        found = make_examples(task, questions, rag, folder / "targets.jsonl", resumed=resumed, log=log)
    return [(question.id, question.answers) for question in found]


def logged(folder, rag):
    """The numbers of the steps and of the evaluations that a run which goes on has made, and its retriever."""
    for kind in ("", RETRIEVER):
        with RunLog(folder, resume_at=10, kind=kind):
            pass
    return [path.read_bytes() for path in sorted(folder.glob("*.jsonl"))]


def part(folder, rag):
    """What a process of a split index searches."""
    index = rag.retriever.index
    manifest = index.manifest
    vectors = Vectors(index.folder, manifest.count, manifest.width, manifest.dtype, manifest.shard_size)
    searcher, first = open_part(index.folder, folder / "index_parts", "scann", {}, vectors, (1, 2))
    return first, bits(searcher.search(vectors.gather(np.arange(2)), 5))


def compiled(folder, rag):
    """What a program of the run's folder computes."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches"
    names += "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes"
    before, file_cache = {name: getattr(jax.config, name) for name in names}, compilation_cache.get_file_cache
    try:
        for name, value in zip(names, (None, "none", 0, -1), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        keep_programs(folder / "programs")
        return bits(jax.jit(lambda x: jnp.sin(x) @ x.T)(np.ones((3, 4), np.float32)))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.get_file_cache = file_cache
        compilation_cache.reset_cache()


class Kind(NamedTuple):
    """Files of one kind: where they lie, and what reads them; either: see `Rot.named`."""

    folder: str
    files: str
    readers: tuple[Callable, ...]
    either: bool = False


KINDS = {
    "configuration": Kind("run", "config.json", (opened, resumed)),
    "tokenizers": Kind("run", "tokenizers/*/*", (opened,)),
    "checkpoints": Kind("run", "checkpoints/**/*", (opened, resumed)),
    "numbers of the steps": Kind("run", "*.jsonl", (logged,)),
    "retriever": Kind("run", "retriever/[0-9]*/**/*", (retrievers,)),
    "index": Kind("run", "index/**/*", (opened,), either=True),
    "index, verified": Kind("run", "index/**/*", (verified,)),
    "measures and predictions": Kind("measured", "*", (measured,)),
    "a stopped evaluation": Kind("stopped", "**/*.jsonl", (measured,)),
    "a sweep": Kind("swept", "sweep.json", (beside,)),
    "export": Kind("export", "**/*", (exported,)),
    "targets": Kind("targets", "targets.jsonl", (examples,)),
    "part of an index": Kind("split", "index_parts/*/*", (part,)),
    "programs": Kind("programs", "programs/*", (compiled,)),
}


class Once:
    """Calls a function once; then the process is stopped."""

    def __init__(self, function):
        self.function, self.called = function, False

    def __call__(self, *given):
        if self.called:
            raise KeyboardInterrupt
        self.called = True
        return self.function(*given)


class Rot:
    """A whole run, and a copy in which one byte at a time is flipped."""

    def __init__(self, whole: Path, rag: Rag):
        self.whole, self.copy, self.rag, self.expected = whole, whole.with_name("copy"), rag, {}

    def files(self, kind):
        folder = self.whole / KINDS[kind].folder
        found = (path for path in folder.glob(KINDS[kind].files) if path.is_file() and path.stat().st_size)
        return sorted(path.relative_to(folder).as_posix() for path in found)

    def read(self, kind, reader):
        """What a reader takes from a fresh copy, which `damage` has changed, and all that was said."""
        out = io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            try:
                taken = reader(self.copy / KINDS[kind].folder, self.rag)
            except UserError as error:
                return None, f"{out.getvalue()}{error}"
        return taken, out.getvalue() + "".join(str(one.message) for one in told)

    def flip(self, kind, random):
        """What becomes of a random byte of a random file: 'named', 'no effect', or what was lost."""
        name = self.files(kind)[random.integers(len(self.files(kind)))]
        content = bytearray((self.whole / KINDS[kind].folder / name).read_bytes())
        place, bit = int(random.integers(len(content))), int(random.integers(1, 256))
        content[place] ^= bit
        outcomes = set()
        for reader in KINDS[kind].readers:
            if (kind, reader) not in self.expected:  # and what is said of a whole copy names no damage
                self.renew(kind)
                self.expected[kind, reader] = self.read(kind, reader)
            self.renew(kind)
            path = self.copy / KINDS[kind].folder / name
            path.write_bytes(content)
            try:
                taken, said = self.read(kind, reader)
            except Exception as error:
                outcomes.add(f"{name} byte {place} ^ {bit}: {reader.__name__} fails: {type(error).__name__}: {error}")
                continue
            expected, always_said = self.expected[kind, reader]
            new = "\n".join(line for line in said.splitlines() if line not in always_said.splitlines())
            if self.named(path, new, either=KINDS[kind].either):
                outcomes.add("named")
            elif taken == expected:
                outcomes.add("no effect")
            else:
                outcomes.add(f"{name} byte {place} ^ {bit}: {reader.__name__} takes something else, and says {said!r}")
        lost = outcomes - {"named", "no effect"}
        return lost.pop() if lost else "named" if "named" in outcomes else "no effect"

    def named(self, path, said, either):
        """Whether a file is named; either: or the one whose blocks' CRCs it holds, as one differs from the other."""
        if either:
            about = {"rows.crc32": "passages.arrow"}.get(path.name, path.name.replace(".crc.npy", ".npy"))
            return str(path) in said or str(path.with_name(about)) in said
        return path.name in said and str(path.parent) in said

    def renew(self, kind):
        """Makes the copy whole again, with files of its own."""
        folder = KINDS[kind].folder
        shutil.rmtree(self.copy / folder, ignore_errors=True)
        shutil.copytree(self.whole / folder, self.copy / folder)


@pytest.fixture(scope="module")
def rot(tiny_run, tmp_path_factory):
    """The tiny run, evaluated, stopped in the middle of that, and exported; with the files of other ways to run."""
    folder, cwd = tmp_path_factory.mktemp("rot") / "whole", pytest.MonkeyPatch()
    cwd.chdir(tiny_run.folder)
    parts = "config.json", "tokenizers", "retriever", "index", "checkpoints", METRICS, SCORES, f"{RETRIEVER}{METRICS}"
    for name in parts:
        copy = shutil.copytree if (tiny_run.workdir / name).is_dir() else shutil.copy
        (folder / "run").mkdir(parents=True, exist_ok=True)
        copy(tiny_run.workdir / name, folder / "run" / name)
    rag = Rag.load(folder / "run")
    for name in ("measured", "stopped", "swept", "targets"):
        (folder / name).mkdir()
    measured(folder / "measured", rag)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rag, "read", Once(rag.read))
        measured(folder / "stopped", rag)
    evaluate(rag, rag.config, folder / "swept", Asked(parts=(), n_docs=(3,)))
    rag.save_pretrained(folder / "export")
    examples(folder / "targets", rag, resumed=False)
    compiled(folder / "programs", rag)
    part(folder / "split", rag)
    yield Rot(folder, rag)
    cwd.undo()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_named_or_changes_nothing(rot, kind):
    random = np.random.default_rng(len(kind))
    assert {rot.flip(kind, random) for _ in range(2)} <= {"named", "no effect"}


@pytest.mark.long
def test_no_flip_of_200_is_lost(rot, capsys):
    random, counts = np.random.default_rng(0), {kind: Counter() for kind in KINDS}
    for number in range(FLIPS):
        kind = list(KINDS)[number % len(KINDS)]
        counts[kind][rot.flip(kind, random)] += 1
    with capsys.disabled():
        print(f"\n{'one byte flipped in':<28}{'files':>6}{'named':>7}{'no effect':>11}{'lost':>6}")
        for kind, found in counts.items():
            lost = found.total() - found["named"] - found["no effect"]
            print(f"{kind:<28}{len(rot.files(kind)):>6}{found['named']:>7}{found['no effect']:>11}{lost:>6}")
    assert not [outcome for found in counts.values() for outcome in found if outcome not in ("named", "no effect")]
    assert sum(found["named"] for found in counts.values()) > FLIPS / 2
