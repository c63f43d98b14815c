"""What a run tells: a live line on the terminal, in a log one now and then, TensorBoard where it is there.

metrics.jsonl has an object a step, validation.jsonl an object an evaluation.
"""

import importlib.util
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from rag_jax.errors import UserError
from rag_jax.files import read_sealed_line, sealed_line, write_atomically, writing
from rag_jax.progress import MINUTE, duration
from rag_jax.storage import publish, shown

METRICS, SCORES = "metrics.jsonl", "validation.jsonl"
RETRIEVER = "retriever_"  # stands before the names of what train_retriever tells


class RunLog:
    """Writes metrics of numbered steps; on resume the lines at and after the restored step are cut off first.

    unscored: what is restored will be evaluated, and its score written, again. silent: of a process beside the first,
    which tells for all. kind: stands before the names of the files.
    """

    def __init__(
        self, folder: Path, *, resume_at: int = 0, unscored: bool = False, silent: bool = False, kind: str = ""
    ):
        self.folder, self._silent, self._shown = folder, silent, ""
        self._said = time.monotonic()
        if silent:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._scores = folder / f"{kind}{METRICS}", folder / f"{kind}{SCORES}"
        if self._path.exists() or resume_at:
            write_atomically(self._path, b"".join(_lines_before(self._path, resume_at)))
        if self._scores.exists():
            write_atomically(self._scores, b"".join(_scores_until(self._scores, resume_at - unscored)))
        self._file = self._path.open("a", encoding="utf-8")
        self._events = _event_writer(folder / f"{kind}events", resume_at)

    def write(self, step: int, metrics: dict[str, float | str]) -> None:
        """One line of metrics.jsonl, and the numbers as TensorBoard events."""
        if self._silent:
            return
        with writing(self._path):
            self._file.write(sealed_line({"step": step, **metrics}))
            self._file.flush()
        if self._events:
            for name, value in metrics.items():
                if not isinstance(value, str):
                    self._events.add_scalar(name, value, step)

    def score(self, step: int, stage: str, measure: str, value: float) -> None:
        """One line of validation.jsonl, what the parameters after `step` steps of the run are worth, and an event."""
        if self._silent:
            return
        with writing(self._scores), self._scores.open("a", encoding="utf-8") as file:
            file.write(sealed_line({"step": step, "stage": stage, "measure": measure, "value": value}))
        if self._events:
            self._events.add_scalar(f"validation {measure}", value, step)

    def live(self, line: str) -> None:
        """Shows the line in place of the one before it; elsewhere than on a terminal, where nothing was said lately."""
        if self._silent:
            return
        if sys.stderr.isatty():
            print(f"\r{line:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
            self._shown = line
        elif time.monotonic() - self._said >= MINUTE:
            self.say(line)

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        if self._silent:
            return
        if self._shown:
            print(file=sys.stderr)
            self._shown = ""
        print(line, flush=True)
        self._said = time.monotonic()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._silent:
            return
        self.say("") if self._shown else None
        self._file.close()
        if self._events:
            self._events.close()


class Pace:
    """Questions a second, the share of time in which no step ran, and the time left, since it was made.

    Between a step that is over and the next one the devices wait for the host: for retrieval, and for the batch.
    """

    def __init__(self, first: int, steps: int, batch: int):
        self._first, self._steps, self._batch = first, steps, batch
        self._began, self.waited = time.monotonic(), 0.0
        self._watcher = ThreadPoolExecutor(1, "pace")

    def dispatched(self, outcome: Any) -> None:
        """A step was given to the devices; outcome: an array of it."""
        self._over = self._watcher.submit(lambda: (jax.block_until_ready(outcome), time.monotonic())[1])

    def prepared(self) -> None:
        """The next batch is on its way to the devices, which have waited since the step was over."""
        if self._over.done():
            self.waited += time.monotonic() - self._over.result()

    def metrics(self, step: int) -> dict[str, float]:
        """After `step` steps."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        done = max(step - self._first, 1)
        return {
            "questions_per_second": done * self._batch / seconds,
            "retrieval_wait": self.waited / seconds,
            "eta_seconds": seconds / done * (self._steps - step),
        }


def speed(metrics: dict[str, float]) -> str:
    """What Pace tells, in words."""
    rate = metrics["questions_per_second"]
    return f"{rate:.{0 if rate >= 10 else 1}f} q/s ETA {duration(metrics['eta_seconds'])}"


class Profile:
    """A jax.profiler trace of `count` steps of a run from step `first` on, for TensorBoard or Perfetto.

    A run that ends before the last of them ends the trace too.
    """

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._end, self._running = folder, first, first + count, False

    def at(self, step: int) -> None:
        """Called before every step of the run."""
        if step == self._first < self._end:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif step == self._end:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            print(f"{self._folder}: steps {self._first} to {self._end - 1} as jax.profiler saw them", flush=True)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()


NO_PROFILE = Profile(Path(), 0, 0)


def finite(
    name: str, step: int, metrics: Any, folder: Path, told: Callable[[int], list[dict[str, Any]]]
) -> dict[str, float]:
    """A step's metrics as numbers; UserError that names the step when one of them is not finite.

    told: the records of what a step learned from, which are then written to the folder, for whoever looks into it.
    """
    numbers = {key: float(value) for key, value in jax.device_get(metrics).items()}
    if not all(map(math.isfinite, numbers.values())):
        path = folder / "not_finite.jsonl"
        records = _with_own_ids(told(step))
        write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        publish(path)
        raise UserError(
            f"{name} step {step}: the loss or its gradient is not finite ({numbers}); what the step learned from is in "
            f"{shown(path)}, the last checkpoint is intact; lower {name}.learning_rate or raise {name}.warmup"
        )
    return numbers


def _with_own_ids(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records, of which a second with the same id, as of an answer more, is numbered: no file may repeat one."""
    seen = Counter[str]()
    for record in records:
        seen[record["id"]] += 1
        number = seen[record["id"]]
        yield {**record, "id": f"{record['id']} ({number})"} if number > 1 else record


def _lines_before(path: Path, end: int) -> list[bytes]:
    """The lines of the steps before `end`, one each; says which are damaged, and which steps have none."""
    kept, step = [], 0
    for number, line in enumerate(_lines(path) if path.exists() else [], 1):
        record = read_sealed_line(line)
        if record is None and step < end:
            print(f"warning: {path}:{number}: damaged; expected the numbers of step {step}", file=sys.stderr)
        found = step if record is None else record["step"]
        if step <= found < end:
            _tell_missing(path, step, found)
            kept.append(line)
            step = found + 1
    _tell_missing(path, step, end)
    return kept


def _lines(path: Path) -> list[bytes]:
    """The lines of a file, each with its end, also a last one that was cut: others are written after it."""
    return [line + b"\n" for line in path.read_bytes().splitlines()]


def _tell_missing(path: Path, first: int, end: int) -> None:
    if first < end:
        print(f"warning: {path}: the numbers of {end - first} steps from {first} on are missing", file=sys.stderr)


def _scores_until(path: Path, step: int) -> list[bytes]:
    """The lines of the evaluations up to a step; a damaged one is named and left out."""
    kept = []
    for number, line in enumerate(_lines(path), 1):
        if (record := read_sealed_line(line)) is None:
            print(f"warning: {path}:{number}: damaged; left out", file=sys.stderr)
        elif record["step"] <= step:
            kept.append(line)
    return kept


def _event_writer(folder: Path, resume_at: int):
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=resume_at + 1)  # at resume_at is a score that is not made again
