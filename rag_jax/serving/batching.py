"""A small queue: requests that come within a few milliseconds and agree in their settings are answered as one batch.

One thread answers, so that devices are never asked for two things at once. The oldest request goes first, and takes
along what fits to it; while a batch is being answered, the next one gathers.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, NamedTuple

GATHER = 0.005  # seconds that a request waits for company
MOST_WAITING = 1024  # questions


class Busy(Exception):
    """No more can be taken on now; its message says why."""


class Counts(NamedTuple):
    """Questions that are waiting or being answered; questions and batches that were answered."""

    waiting: int
    questions: int
    batches: int


class _Asked(NamedTuple):
    settings: Hashable
    questions: list[str]
    since: float
    future: Future


class Batcher:
    """Answers questions in batches, in a thread of its own, until it is closed; use it in a `with`."""

    def __init__(self, answer: Callable[[Any, list[str]], Sequence[Any]], most: int, gather: float = GATHER) -> None:
        """answer: (settings, questions) -> an answer each. most: questions in a batch. gather: in seconds."""
        self._function, self._most, self._gather = answer, most, gather
        self._waiting: deque[_Asked] = deque()
        self._changed, self._closed = Condition(), False
        self._running = self._questions = self._batches = 0
        self._thread = Thread(target=self._work, name="answers", daemon=True)

    def __enter__(self) -> "Batcher":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Takes nothing more on; returns when all that was asked is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def counts(self) -> Counts:
        """How much was done, and how much there is to do."""
        with self._changed:
            return Counts(self._there() + self._running, self._questions, self._batches)

    def submit(self, settings: Hashable, questions: Sequence[str]) -> Future:
        """The future answers to questions, in their order; Busy where too many wait, and after the end."""
        with self._changed:
            if self._closed:
                raise Busy("the server is stopping; ask again when it is back")
            if self._there() + len(questions) > MOST_WAITING:
                raise Busy(f"{self._there()} questions wait for an answer, expected at most {MOST_WAITING}; ask later")
            asked = _Asked(settings, list(questions), time.monotonic(), Future())
            self._waiting.append(asked)
            self._changed.notify_all()
        return asked.future

    def _there(self) -> int:
        return sum(len(asked.questions) for asked in self._waiting)

    def _work(self) -> None:
        while batch := self._next():
            self._answer([asked for asked in batch if asked.future.set_running_or_notify_cancel()])
            with self._changed:
                self._running = 0

    def _next(self) -> list[_Asked]:
        """The oldest request and its company, once they had the time to come; [] after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            end = self._waiting[0].since + self._gather
            self._changed.wait_for(self._complete, timeout=max(0.0, end - time.monotonic()))
            batch = self._together()
            taken = set(map(id, batch))
            self._waiting = deque(asked for asked in self._waiting if id(asked) not in taken)
            self._running = sum(len(asked.questions) for asked in batch)
            return batch

    def _complete(self) -> bool:
        return self._closed or sum(len(asked.questions) for asked in self._together()) >= self._most

    def _together(self) -> list[_Asked]:
        """The oldest request, and behind it those of the same settings that fit into its batch."""
        first, *later = self._waiting
        batch, room = [first], self._most - len(first.questions)
        for asked in later:
            if asked.settings == first.settings and len(asked.questions) <= room:
                batch.append(asked)
                room -= len(asked.questions)
        return batch

    def _answer(self, batch: Sequence[_Asked]) -> None:
        if not batch:
            return
        questions = [question for asked in batch for question in asked.questions]
        try:
            answers = iter(list(self._function(batch[0].settings, questions)))
        except Exception as error:  # whoever asked is told
            if len(batch) == 1:
                self._done(questions)
                batch[0].future.set_exception(error)
            else:  # each alone: nobody answers for his neighbours
                for asked in batch:
                    self._answer([asked])
            return
        self._done(questions, batches=1)
        for asked in batch:
            asked.future.set_result([next(answers) for _ in asked.questions])

    def _done(self, questions: Sequence[str], batches: int = 0) -> None:
        """Counts questions as answered, or as failed with no batch, before anybody hears of it."""
        with self._changed:
            self._running -= len(questions)
            self._questions, self._batches = self._questions + len(questions) * batches, self._batches + batches
