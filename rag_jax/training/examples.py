"""The examples of a run: questions with the one answer to learn, as the task makes them.

Where a task looks for the answers in passages, the search runs once, with the retriever that training starts from;
what it gives is kept in the workdir.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.data.targets import Targets
from rag_jax.data.tasks import Task, checksum
from rag_jax.errors import UserError, fail
from rag_jax.files import read_sealed_line, sealed_line, write_atomically, writing
from rag_jax.models.fingerprint import model_fingerprint
from rag_jax.storage import publish
from rag_jax.training.logging import RunLog

STARTING = "question_encoder"  # of a run that goes on, it is another by now


def make_examples(
    task: Task, questions: Sequence[Question], rag: Rag, path: Path, *, resumed: bool, log: RunLog
) -> list[Question]:
    """Each question as often as it has answers to learn, with one of them; says how many, and of what kind.

    path: the file that keeps the answers found in passages. resumed: rag is no longer what training started from, and
    the file must be there. Raises UserError where nothing is left to learn.
    """
    index = rag.retriever.index
    if index is None:
        targets = [task.targets(question, None) for question in questions]
    elif task.depth:
        depth = min(task.depth, len(index.passages))
        targets = _searched(task, questions, rag, path, depth, resumed, log)
    else:
        targets = [task.targets(question, ()) for question in questions]
    pairs = zip(questions, targets, strict=True)
    examples = [replace(question, answers=(answer,)) for question, found in pairs for answer in found.answers]
    kinds = Counter(found.what if found.answers else f"{found.what}: dropped" for found in targets)
    said = ", ".join(f"{count:,} x {kind}" for kind, count in kinds.most_common())
    log.say(f"{task.name}: {len(examples):,} examples of {len(questions):,} questions ({said})")
    if not examples:
        fail(f"config.data.train: no question has an answer to learn with data.task = {task.name!r} ({said})")
    return examples


def _searched(
    task: Task, questions: Sequence[Question], rag: Rag, path: Path, depth: int, resumed: bool, log: RunLog
) -> list[Targets]:
    """The targets kept in the file, and those still to be made, which are appended batch by batch."""
    made_from = _made_from(task, questions, rag, depth)
    kept, old = _kept(path)
    for key in ("dtype", "vectors") if old else ():  # before they were told, they were of no account
        old.setdefault(key, made_from[key])
    differing = [key for key in made_from if old.get(key) != made_from[key] and not (resumed and key == STARTING)]
    if resumed and (differing or len(kept) < len(questions)):
        raise UserError(
            f"{path}: not the answers with which this run began ({', '.join(differing) or 'cut'}); restore the file, "
            "or train in another --workdir"
        )
    if differing:
        kept = []
    if len(kept) == len(questions):
        return kept
    write_atomically(path, "".join([sealed_line(made_from), *map(_line, kept)]))
    log.say(f"{task.name}: looking for answers in the {depth:,} passages that are found for each question")
    began, already = time.monotonic(), len(kept)
    with writing(path), path.open("a", encoding="utf-8") as file:
        for batch in _batches(task, questions[already:], rag, depth):
            kept += batch
            file.write("".join(map(_line, batch)))
            file.flush()
            rate = (len(kept) - already) / max(time.monotonic() - began, 1e-9)
            left = (len(questions) - len(kept)) / rate
            log.live(f"{len(kept):,} of {len(questions):,} questions, {rate:.0f} q/s, ETA {left:.0f} s")
    publish(path)
    return kept


def _batches(task: Task, questions: Sequence[Question], rag: Rag, depth: int) -> Iterator[list[Targets]]:
    passages = rag.retriever.open_book.passages
    for start in range(0, len(questions), rag.config.evaluate.batch):
        batch = questions[start : start + rag.config.evaluate.batch]
        ids_BK = rag.retrieve([question.text for question in batch], k=depth).ids_BK
        texts_B = ([passages[row].text for row in ids_K if row >= 0] for ids_K in ids_BK.tolist())
        yield [task.targets(question, texts) for question, texts in zip(batch, texts_B, strict=True)]


def _made_from(task: Task, questions: Sequence[Question], rag: Rag, depth: int) -> dict[str, Any]:
    """What the targets depend on."""
    index, encoder = rag.retriever.open_book, rag.params["question_encoder"]
    manifest = index.manifest
    return {
        "task": task.name,
        "questions": checksum(questions),
        "depth": depth,
        "passages": manifest.passages_checksum,
        "index": f"{manifest.kind} {manifest.encoder_fingerprint} {json.dumps(manifest.search)}",
        "dtype": manifest.dtype,
        "vectors": index.vectors_checksum(),
        STARTING: model_fingerprint(str(rag.model.question_encoder), rag.parallel.read(encoder)),
    }


def _kept(path: Path) -> tuple[list[Targets], dict[str, Any]]:
    """The targets at the beginning of a file, up to a line that is damaged or cut, and what they were made from."""
    if not path.is_file():
        return [], {}
    with path.open("rb") as file:
        whole = [line for line in takewhile(bool, map(read_sealed_line, file)) if line is not None]
    return [Targets(tuple(found["answers"]), found["what"]) for found in whole[1:]], (whole or [{}])[0]


def _line(found: Targets) -> str:
    return sealed_line(found._asdict())
