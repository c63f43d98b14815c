"""What a run leaves behind, to be compared with what another leaves."""

import json
import shutil

import jax
import numpy as np
from orbax.checkpoint import v1

from rag_jax.checkpoint import Checkpoints

TIMES = {"questions_per_second", "retrieval_wait", "eta_seconds"}


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
    """Steps of the last and the best checkpoint; all that is in them, as bytes."""
    checkpoints = Checkpoints(folder)
    steps = checkpoints.latest(), checkpoints.best()
    trees = [v1.load_checkpointables(folder / str(step)) for step in steps]
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(trees)}
    told = [checkpoints.extra(step) for step in steps]
    return steps, told, {name: (str(leaf.dtype), np.asarray(leaf).tobytes()) for name, leaf in arrays.items()}
