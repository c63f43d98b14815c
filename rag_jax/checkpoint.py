"""Checkpoints of one run: parameters and optimizer by orbax, checksums of our own, the newest and the best are kept."""

import json
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1

from rag_jax.errors import UserError
from rag_jax.files import checksum, inside, read_object, write_json
from rag_jax.storage import publish

CHECKSUMS = "checksums.json"
READ_AT_OPENING = ("_CHECKPOINT_METADATA", "metrics/metrics")  # by Orbax, of every checkpoint, to list them


class Checkpoints:
    """The checkpoints in a folder: one per saved step, of which the newest and the one with the highest score stay.

    A checkpoint holds the trees 'params' and 'optimizer' (global, unstacked), a score and a small JSON `extra`. Orbax
    does not notice a flipped bit in array data, so every file's checksum is written after a save and compared before
    a restore; a difference raises UserError naming the file. Of a remote run they are published at once, after the
    files `along` that a run which goes on from them needs.
    """

    def __init__(self, folder: str | Path, *, along: tuple[Path, ...] = ()):
        self.folder, self._along = Path(folder).resolve(), along
        self._verified: set[int] = set()
        for saved in self.folder.glob("[0-9]*/" + CHECKSUMS):
            _verify(saved.parent, [name for name in READ_AT_OPENING if (saved.parent / name).exists()])
        policies = v1.training.preservation_policies
        self._orbax = v1.training.Checkpointer(
            self.folder,
            save_decision_policy=v1.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(1), policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)]
            ),
        )

    def save(self, step: int, params: Any, optimizer: Any, *, score: float, extra: dict) -> None:
        """Saves whole or not at all."""
        self._verified.discard(step)
        self._orbax.save_checkpointables(
            step,
            {"params": params, "optimizer": optimizer},
            metrics={"score": float(score)},
            custom_metadata=json.loads(json.dumps(extra)),
            overwrite=True,
        )
        if jax.process_index() == 0:
            _write_checksums(self.folder / str(step))
        publish(*self._along, self.folder)

    def latest(self) -> int | None:
        """The newest step, or None where nothing was saved."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def best(self) -> int | None:
        """The step with the highest score, the newest among equals."""
        saved = [(found.metrics["score"], found.step) for found in self._orbax.checkpoints if found.metrics]
        return max(saved)[1] if saved else self.latest()

    def extra(self, step: int) -> dict:
        """The small JSON saved with a step."""
        self._verify(step)
        return self._orbax.checkpointables_metadata(step).custom_metadata or {}

    def restore(self, step: int, **abstract: Any) -> dict[str, Any]:
        """The trees asked for, by name, with the shapes, dtypes and shardings of the abstract ones given."""
        self._verify(step)
        saved = self._orbax.checkpointables_metadata(step).metadata
        problems = [line for name, tree in abstract.items() for line in _differences(name, saved[name], tree)]
        if problems:
            folder = self.folder / str(step)
            raise UserError(f"{folder}: made with another configuration:\n       " + "\n       ".join(problems))
        return self._orbax.load_checkpointables(step, abstract)

    def close(self) -> None:
        """Waits for what is still being written; publishes what an earlier run could not."""
        self._orbax.close()
        publish(*self._along, self.folder)

    def _verify(self, step: int) -> None:
        """Compares all files of a step with their checksums, once."""
        folder = self.folder / str(step)
        if step not in self._verified and folder.is_dir():
            if not (folder / CHECKSUMS).exists():  # killed after Orbax's commit, before ours: whole
                _write_checksums(folder)
            _verify(folder)
            self._verified.add(step)


def _write_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {str(path.relative_to(folder)): checksum(path) for path in files})


def _verify(folder: Path, names: list[str] | None = None) -> None:
    """UserError that names the first file (of all, or of some) that differs from its checksum."""
    for name, expected in read_object(folder / CHECKSUMS).items():
        path = inside(folder, name, folder / CHECKSUMS)
        if (names is None or name in names) and not (path.is_file() and checksum(path) == expected):
            raise UserError(
                f"{path}: damaged, it differs from {CHECKSUMS}; delete the folder {folder} to go on without it"
            )


def _differences(name: str, saved: Any, wanted: Any) -> list[str]:
    def shapes(tree: Any) -> dict[str, tuple]:
        # Orbax tells of a named tuple as of a dict: plain names of the fields are the same for both.
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
            for path, leaf in jax.tree.leaves_with_path(tree)
        }

    found, expected = shapes(saved), shapes(wanted)
    return [
        f"{name}/{path}: found {found.get(path, 'nothing')}, expected {expected.get(path, 'nothing')}"
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    ]
