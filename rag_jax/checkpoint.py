"""Checkpoints of one run: parameters and optimizer by orbax, sealed by a manifest of ours; the newest and best stay."""

import os
import shutil
import sys
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1

from rag_jax.errors import PassingError, UserError, fail
from rag_jax.files import MANIFEST, flush, read_manifest, write_manifest, write_sealed
from rag_jax.progress import waiting
from rag_jax.storage import address, publish

KIND = "a checkpoint"
NEWEST = 2  # are kept: where the last is damaged, a run goes on from the one before
LONGEST_PATH = 4096  # bytes


class Checkpoints:
    """The checkpoints in a folder: one per saved step, of which the newest and the best stay.

    A checkpoint holds the trees 'params' and 'optimizer' (global, unstacked), a score and a small JSON `extra`. It is
    written in the background. Its manifest comes last: what has none was never finished and counts for nothing. Orbax
    does not notice a flipped bit in array data, so the manifest knows every file's checksum, which is compared before
    a restore; a difference raises UserError naming the file. Of a remote run each is published when it is whole; the
    files `along`, which a run that goes on from it needs, before.

    The best has the highest score among those of the newest's stage, where `extra` names one: what comes before it is
    preparation. As a context: when the block ends, however it ends, what was saved is whole.
    """

    def __init__(self, folder: str | Path, *, along: tuple[Path, ...] = ()):
        self.folder, self._along = Path(folder).resolve(), along
        self._verified: set[int] = set()
        self._writer = futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[int, futures.Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        with suppress(Exception):  # after close() there is nothing left; an error that ends a run is the one to tell
            self.wait()

    def save(self, step: int, params: Any, optimizer: Any, *, score: float, extra: dict) -> None:
        """Takes the trees as they are now and writes them in the background, whole or not at all.

        Raises UserError where this, or the save before, cannot be written.
        """
        self.wait()
        for path in filter(Path.exists, self._along):
            flush(path)
        publish(*self._along)
        self._verified.discard(step)
        told = {"kind": KIND, "step": step, "score": float(score), "extra": extra}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with jax.transfer_guard("allow"):  # of several processes orbax asks each for the folder's name
                place = self._named_by_first() / str(step)
                trees = {"params": params, "optimizer": optimizer}
                written = v1.save_checkpointables_async(place, trees, overwrite=True)
        except Exception as error:  # of orbax and what is below it
            self._failed(step, error)
        self._saving = step, self._writer.submit(self._finish, written, told)

    def rescore(self, step: int, score: float) -> None:
        """Gives a checkpoint that was saved as `unscored` its score; what it holds is not written again."""
        self.wait()
        if jax.process_index() == 0:
            told = self._told(step)
            told |= {"score": float(score), "extra": told["extra"] | {"unscored": False}}
            write_sealed(self.folder / str(step) / MANIFEST, told)
            self._tidy()
        publish(*self._along, self.folder)

    def wait(self) -> None:
        """Returns when what was saved is whole; UserError where it could not be written."""
        if self._saving is None:
            return
        step, finished = self._saving
        with waiting(f"{self.folder / str(step)}: being written"):
            futures.wait([finished])
        self._saving = None  # not before: interrupted, it is waited for again
        try:
            finished.result()
        except UserError:
            raise
        except Exception as error:
            self._failed(step, error)

    def latest(self) -> int | None:
        """The newest step, or None where nothing was saved."""
        self.wait()
        return max(self._steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest score of the newest's stage, the newest among equals."""
        self.wait()
        return _best({step: self._told(step) for step in self._steps()})

    def extra(self, step: int) -> dict:
        """The small JSON saved with a step."""
        return self._verify(step)["extra"]

    def restore(self, step: int, **abstract: Any) -> dict[str, Any]:
        """The trees asked for, by name, with the shapes, dtypes and shardings of the abstract ones given."""
        self._verify(step)
        folder = self.folder / str(step)
        try:
            saved = v1.checkpointables_metadata(folder).metadata
            problems = [line for name, tree in abstract.items() for line in _differences(name, saved[name], tree)]
            if problems:
                raise UserError(f"{folder}: made with another configuration:\n       " + "\n       ".join(problems))
            return v1.load_checkpointables(folder, abstract)
        finally:
            self._told(step)  # which says so where it was removed meanwhile, whatever was read of it

    def set_damaged_aside(self) -> None:
        """Hides the newest checkpoints where they are damaged, and names them: a run goes on from one that is whole.

        For the one process that writes here. Raises UserError where all are damaged.
        """
        damaged = []
        for step in sorted(self._steps(), reverse=True):
            try:
                self._verify(step)
                break
            except UserError as error:
                damaged.append((step, error))
        else:
            if damaged:
                raise damaged[0][1]
        for step, problem in damaged:
            self._set_aside(step, f"{problem}; the run goes on from the newest one that is whole")

    def close(self) -> None:
        """Waits for what is still being written; publishes what an earlier run could not."""
        self.wait()
        publish(*self._along, self.folder)

    def _named_by_first(self) -> Path:
        """The folder as all processes must name it to orbax: of disks of their own, process 0's alone is written to."""
        if jax.process_count() == 1 or not address(self.folder):
            return self.folder
        name = np.frombuffer(os.fsencode(self.folder).ljust(LONGEST_PATH, b"\0"), np.uint8)
        named = np.asarray(multihost_utils.broadcast_one_to_all(name), np.uint8).tobytes()
        return Path(os.fsdecode(named.rstrip(b"\0")))

    def _finish(self, written: Any, told: dict[str, Any]) -> None:
        """In the background: when orbax has written a checkpoint, its manifest; then the others are looked through."""
        written.result()
        if jax.process_index() == 0:
            write_manifest(self.folder / str(told["step"]), told)
            self._tidy()
        publish(self.folder)

    def _set_aside(self, step: int, problem: str) -> None:
        """Hides a damaged checkpoint, which may have been the best, and says so; nothing of it is deleted."""
        aside = self.folder / f".{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / str(step)).rename(aside)
        print(f"warning: {problem}; now {aside.name}", file=sys.stderr)

    def _tidy(self) -> None:
        """Removes what is neither among the newest nor the best, and what was never finished."""
        told = {}
        for step in self._steps():
            try:
                told[step] = self._told(step)
            except UserError as error:
                self._set_aside(step, str(error))
        kept = {*sorted(told)[-NEWEST:], _best(told)}
        for path in self.folder.iterdir():
            name, _, unfinished = path.name.partition(".")  # orbax writes beside, under a longer name
            if name.isdecimal() and (unfinished or int(name) not in kept):
                (path / MANIFEST).unlink(missing_ok=True)  # first: from here on it is unfinished
                shutil.rmtree(path, ignore_errors=True)

    def _steps(self) -> list[int]:
        """The finished ones."""
        return [int(path.parent.name) for path in self.folder.glob(f"*/{MANIFEST}") if path.parent.name.isdecimal()]

    def _told(self, step: int, *, verify: bool = False) -> dict[str, Any]:
        """A checkpoint's manifest; verify: once all its files are known to be as it says."""
        folder = self.folder / str(step)
        try:
            return read_manifest(folder, KIND, verify=verify)
        except (UserError, FileNotFoundError) as error:
            if not (folder / MANIFEST).exists():  # there when the step was found, and the first that is removed
                said = f"{folder}: gone; a run that goes on has saved newer ones: give the same command again"
                raise PassingError(said) from None
            what = str(error).partition(";")[0]
            raise UserError(f"{what}; damaged; delete the folder {folder} to go on without it") from None

    def _verify(self, step: int) -> dict[str, Any]:
        """A checkpoint's manifest; all files are compared with their checksums, once."""
        told = self._told(step, verify=step not in self._verified)
        self._verified.add(step)
        return told

    def _failed(self, step: int, error: Exception) -> NoReturn:
        what = (str(error) or type(error).__name__).splitlines()[0]
        fail(
            f"{self.folder / str(step)}: the checkpoint could not be written ({what}); those before it are whole: make "
            "room there, and give the same command again to go on from the last"
        )


def _best(told: dict[int, dict[str, Any]]) -> int | None:
    """The best step by the manifests, None of none."""

    def rank(step: int) -> tuple[bool, float, int]:
        stages = [told[each]["extra"].get("stage") for each in (step, max(told))]
        return stages[0] == stages[1], told[step]["score"], step

    return max(told, default=None, key=rank)


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
