"""What a run leaves behind, to be compared with what another leaves; and a process that holds something meanwhile."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager

import jax
import numpy as np
from orbax.checkpoint import v1

from rag_jax.checkpoint import Checkpoints
from rag_jax.parallel import Pmap

SPLITS = "from rag_jax import parallel\nparallel.SMALL = 64"  # the tiny model has no array that is worth it
TIMES = {"questions_per_second", "retrieval_wait", "eta_seconds", "crc"}


def begun(run, folder, *parts):
    """A workdir that has only come as far as these parts of the trained one."""
    for part in parts:
        shutil.copytree(run.workdir / part, folder / part)
    return folder


def numbers(path):
    """The lines of metrics.jsonl without what is measured by the clock."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def saved(folder):
    """Steps of the last and the best checkpoint, what was saved along with them, and all arrays as bytes."""
    checkpoints = Checkpoints(folder)
    steps = checkpoints.latest(), checkpoints.best()
    arrays = [jax.tree.leaves_with_path(whole(checkpoints, step)) for step in steps]
    content = {
        (step, jax.tree_util.keystr(path)): bits(leaf)
        for step, pairs in zip(steps, arrays, strict=True)
        for path, leaf in pairs
    }
    return steps, [checkpoints.extra(step) for step in steps], content


def whole(checkpoints, step):
    """All trees of a checkpoint, whatever is in them."""
    told = v1.checkpointables_metadata(checkpoints.folder / str(step)).metadata
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(told))
    return checkpoints.restore(step, **{name: Pmap().abstract_state(tree) for name, tree in shapes.items()})


def bits(leaf):
    """The type and the bytes of an array."""
    return str(leaf.dtype), np.asarray(leaf).tobytes()


@contextmanager
def holding(code, *arguments):
    """Another process that runs code which says "held", and may wait for the end of its standard input."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **pipes)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()
