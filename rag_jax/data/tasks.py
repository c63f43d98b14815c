"""Where passages and questions come from: one's own files, or the embedded demo by the name 'demo:PART'."""

from collections.abc import Iterator

from rag_jax.data import demo, formats
from rag_jax.data.formats import Passage, Question

DEMO = "demo:"


def passages(source: str) -> Iterator[Passage]:
    """The passages of a file, or of an edition of the demo ('demo:2016')."""
    return demo.passages(source.removeprefix(DEMO)) if source.startswith(DEMO) else formats.read_passages(source)


def questions(source: str) -> list[Question]:
    """The questions of a file, or of a split of the demo ('demo:train')."""
    return demo.questions(source.removeprefix(DEMO)) if source.startswith(DEMO) else formats.read_questions(source)
