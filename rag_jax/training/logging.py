"""What a run tells: a live line on the terminal, an object a step in metrics.jsonl, TensorBoard where it is there."""

import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax

from rag_jax.errors import UserError


class RunLog:
    """Writes metrics of numbered steps; on resume the lines at and after the restored step are cut off first.

    silent: of a process beside the first, which tells for all.
    """

    def __init__(self, folder: Path, *, resume_at: int = 0, name: str = "metrics.jsonl", silent: bool = False):
        self._silent, self._shown = silent, ""
        if silent:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        kept = _lines_before(path, resume_at)
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._events = _event_writer(folder)

    def write(self, step: int, metrics: dict[str, float | str]) -> None:
        """One line of metrics.jsonl, and the numbers as TensorBoard events."""
        if self._silent:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in metrics.items():
                if not isinstance(value, str):
                    self._events.add_scalar(name, value, step)

    def live(self, line: str) -> None:
        """Shows the line in place of the one before it, on a terminal alone."""
        if sys.stderr.isatty() and not self._silent:
            print(f"\r{line:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
            self._shown = line

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        if self._silent:
            return
        if self._shown:
            print(file=sys.stderr)
            self._shown = ""
        print(line, flush=True)

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
    """Questions a second, the share of time spent waiting for retrieval, and the time left, since it was made."""

    def __init__(self, first: int, steps: int, batch: int):
        self._first, self._steps, self._batch = first, steps, batch
        self._began, self.waited = time.monotonic(), 0.0

    def metrics(self, step: int) -> dict[str, float]:
        """After `step` steps."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        done = max(step - self._first, 1)
        return {
            "questions_per_second": done * self._batch / seconds,
            "retrieval_wait": self.waited / seconds,
            "eta_seconds": seconds / done * (self._steps - step),
        }


class Profile:
    """A jax.profiler trace of `count` steps of a run from step `first` on, for TensorBoard or Perfetto."""

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._end = folder, first, first + count

    def at(self, step: int) -> None:
        """Called before every step of the run."""
        if step == self._first < self._end:
            jax.profiler.start_trace(self._folder)
        elif step == self._end > self._first:
            jax.profiler.stop_trace()
            print(f"{self._folder}: steps {self._first} to {self._end - 1} as jax.profiler saw them", flush=True)


NO_PROFILE = Profile(Path(), 0, 0)


def finite(name: str, step: int, metrics: Any) -> dict[str, float]:
    """A step's metrics as numbers; UserError that names the step when one of them is not finite."""
    numbers = {key: float(value) for key, value in jax.device_get(metrics).items()}
    if not all(map(math.isfinite, numbers.values())):
        raise UserError(
            f"{name} step {step}: the loss or its gradient is not finite ({numbers}); the last checkpoint is intact; "
            f"lower {name}.learning_rate or raise {name}.warmup"
        )
    return numbers


def _lines_before(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]


def _event_writer(folder: Path):
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "events"))
