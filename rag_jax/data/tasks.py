"""Where passages and questions come from: one's own files, or the embedded demo by the name 'demo:PART'."""

from collections.abc import Callable, Iterable, Iterator

from ml_collections import ConfigDict

from rag_jax.data import corpus, demo, formats
from rag_jax.data.corpus import Cut
from rag_jax.data.formats import Passage, Question
from rag_jax.data.lines import Meter

DEMO = "demo:"


def passages(
    data: ConfigDict,
    source: str = "",
    *,
    known: Iterable[str] = (),
    meter: Meter | None = None,
    log: Callable[[str], None] = print,
) -> Iterator[Passage]:
    """The passages of data.passages, or of another `source`, read as config.data says (see corpus.read_passages).

    A source is a file, a folder, or an edition of the demo ('demo:2016').
    """
    source = source or data.passages
    if source.startswith(DEMO):
        facts = demo.passages(source.removeprefix(DEMO))
        return corpus.check(((source, fact) for fact in facts), source, known=known, skip_bad=data.skip_bad, log=log)
    cut = Cut(data.words, data.overlap, data.minimum)
    return corpus.read_passages(source, cut=cut, skip_bad=data.skip_bad, known=known, meter=meter, log=log)


def files(source: str) -> list[list]:
    """[path, bytes, time of the last change] of each file of a source of passages; of the demo, its name."""
    return [[source]] if source.startswith(DEMO) else corpus.files(source)


def questions(source: str) -> list[Question]:
    """The questions of a file, or of a split of the demo ('demo:train')."""
    return demo.questions(source.removeprefix(DEMO)) if source.startswith(DEMO) else formats.read_questions(source)
