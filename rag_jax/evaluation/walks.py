"""Walks over all questions, by one process or several; what each batch brings is kept until all is measured.

Of P processes, which see the same folders, process p takes the batches p, p + P, ... A batch is what it is for one
process alone, and every figure comes from all predictions in the order of the questions: both are equal to the last bit
where each process has as many devices. What is kept goes by the questions' numbers, so that a walk that was killed goes
on with any number of processes.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.errors import fail
from rag_jax.evaluation.answers import Batch, Prediction, batches, read, retrieve
from rag_jax.evaluation.measures import holding
from rag_jax.evaluation.predictions import fingerprint, line, read_lines
from rag_jax.files import write_atomically
from rag_jax.progress import counted
from rag_jax.team import SINGLE, Team

Reading = Callable[[Batch], list[Prediction]]  # what is made of the questions and of what was retrieved for them


class Walked(NamedTuple):
    """A walk that is over, in one file for each reading of each batch."""

    folder: Path
    questions: Sequence[Question]
    batches: Sequence[range]

    def path(self, reading: str, numbers: range) -> Path:
        """The file of one batch."""
        return self.folder / f"{reading}_{numbers.start}-{numbers.stop}.jsonl"

    def kept(self, reading: str, numbers: range) -> list[Prediction]:
        """The predictions of one batch, none where they are not there whole."""
        found = read_lines(self.path(reading, numbers), self.questions[numbers.start : numbers.stop])
        return [prediction for prediction, _ in found] if len(found) == len(numbers) else []

    def predictions(self, reading: str) -> Iterator[Prediction]:
        """All predictions, in the order of the questions."""
        for numbers in self.batches:
            if not (found := self.kept(reading, numbers)):
                path, places = self.path(reading, numbers), f"{numbers.start + 1} to {numbers.stop}"
                fail(f"{path}: expected the answers to questions {places}; all processes must see the same folders")
            yield from found


class Walks:
    """The walks of one evaluation: its model, the processes that walk together, and the folder of what they keep."""

    def __init__(self, rag: Rag, folder: Path, identity: str, team: Team = SINGLE) -> None:
        """identity: whose answers these are, see Rag.identity. team: each calls the same methods, in the same order."""
        self.rag, self.identity, self.team = rag, identity, team
        self._folder, self._opened = folder, list[Path]()

    def walk(
        self,
        name: str,
        questions: Sequence[Question],
        readings: Mapping[str, Reading],
        *,
        k: int | None = None,
        start: int = 0,
        about: Any = (),
        written: Callable[[Prediction], str] = line,
    ) -> Walked:
        """Every reading of every batch, from one search of each; returns when all processes have done their share.

        Only what is not there from a walk that was killed is searched for and read. name: used once. start: the first
        question, at which a batch begins. about: what the readings depend on beside model, questions and k, such as
        the names of measures. written: a prediction as a line.
        """
        made_from = fingerprint(self.identity, questions, list(readings), k, about)
        folder = self._open(name, made_from, start)
        walked = Walked(folder, questions, batches(len(questions), self.rag.config.evaluate.batch, start))
        own = walked.batches[self.team.process :: self.team.processes]
        missing = {numbers: [reading for reading in readings if not walked.kept(reading, numbers)] for numbers in own}
        wanted = [numbers for numbers in own if missing[numbers]]
        read = retrieve(self.rag, questions, k=k, wanted=wanted)
        for batch in counted(read, sum(map(len, wanted)), name, "questions", size=lambda batch: len(batch.numbers)):
            for reading in missing[batch.numbers]:
                self.team.check()
                lines = "".join(map(written, readings[reading](batch)))
                write_atomically(walked.path(reading, batch.numbers), lines)
        self.team.wait(f"the last answers of {name}")
        return walked

    def predict(
        self, questions: Sequence[Question], path: Path, *, names: Sequence[str], places: Sequence[int], goes_on: bool
    ) -> Iterator[Prediction]:
        """Yields the predictions that the file holds, if it `goes_on`, then those of the other questions.

        It goes on with the batch that is not whole in the file, so that batches, and with them the bytes written, are
        those of a run that was never stopped. What follows a damaged line is answered again. The file is replaced when
        the last prediction was taken.
        """
        held, size = read_lines(path, questions) if goes_on else [], self.rag.config.evaluate.batch
        if len(held) < len(questions):
            held = held[: len(held) // size * size]
        if held and self.team.first:
            print(f"{path}: holds {len(held)} of {len(questions)} answers already", flush=True)
        walked = self.walk(
            "answers",
            questions,
            {"answers": partial(read, self.rag, holding=holding(names))},
            start=len(held),
            about=(names, places),
            written=partial(line, names=names, places=places),
        )
        yield from (prediction for prediction, _ in held)
        yield from walked.predictions("answers")
        if walked.batches and self.team.first:
            before = path.read_bytes()[: held[-1][1]] if held else b""
            new = (walked.path("answers", numbers).read_bytes() for numbers in walked.batches)
            write_atomically(path, b"".join([before, *new]))

    def clear(self) -> None:
        """Removes what the walks have kept, when all processes have measured."""
        self.team.wait("the last measure")
        if self.team.first:
            for folder in self._opened:
                shutil.rmtree(folder)
            with suppress(OSError):  # another evaluation's are there
                self._folder.rmdir()

    def _open(self, name: str, made_from: str, start: int) -> Path:
        """The folder of a walk; what one of another model or of other questions has left goes."""
        folder = self._folder / f"{name}-{made_from}"
        if self.team.first:
            for other in set(self._folder.glob(f"{name}-*")) - {folder}:
                shutil.rmtree(other)
            if done := len(list(folder.glob("*.jsonl"))):
                print(f"{folder}: going on, {done} batches are there", flush=True)
        self.team.share(folder, f"the start of {name}", f"{made_from} {start}")
        self._opened.append(folder)
        return folder
