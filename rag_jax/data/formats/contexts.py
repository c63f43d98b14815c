"""The passages in DPR's bi-encoder files: a corpus for training a retriever without all of Wikipedia."""

from collections.abc import Iterator
from pathlib import Path

from rag_jax.data.formats.qa import context_id
from rag_jax.data.formats.records import Passage
from rag_jax.data.formats.rows import rows
from rag_jax.data.ids import IdSet
from rag_jax.data.lines import BadLine, Meter, objects, string

KINDS = ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")


def contexts(path: str | Path, meter: Meter | None = None) -> Iterator[tuple[str, Passage | BadLine]]:
    """Yields (place, passage) for every context of every question, each id once; a BadLine for a malformed row."""
    seen = IdSet()
    for place, _, record in rows(Path(path), meter):
        try:
            if isinstance(record, BadLine):
                raise record
            if not any(kind in record for kind in KINDS):
                raise BadLine("no contexts", f"; expected DPR's {', '.join(KINDS)}")
            found = [context for kind in KINDS for context in objects(record, kind)]
            passages = [Passage(context_id(item), string(item, "title"), string(item, "text")) for item in found]
        except BadLine as problem:
            yield place, problem
            continue
        is_new = seen.add([passage.id for passage in passages])
        yield from ((place, passage) for passage, new in zip(passages, is_new, strict=True) if new)
