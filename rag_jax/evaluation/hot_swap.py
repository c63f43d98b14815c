"""The hot-swap square (Lewis et al. 2020, section 4.5): two editions of the index, two editions of the answers."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rag_jax.data.formats import Question
from rag_jax.errors import UserError
from rag_jax.evaluation.answers import read
from rag_jax.evaluation.sums import Rate
from rag_jax.evaluation.walks import Walks
from rag_jax.metrics.text import exact_match


def square(walks: Walks, indexes: Sequence[Path], editions: Sequence[Sequence[Question]]) -> Iterator[tuple[str, Rate]]:
    """Yields EM for every index against every edition of the answers, by group; the questions are the same in both.

    The questions of an edition whose answers did not change belong into neither. The first index is open afterwards.
    """
    for questions in editions[1:]:
        if [question.text for question in questions] != [question.text for question in editions[0]]:
            raise UserError("config.hot_swap.questions: found other questions in the second file, expected the same")
    rag, said = walks.rag, {}
    for number, index in reversed(list(enumerate(indexes, 1))):  # a second one that does not fit is found out at once
        rag.swap_index(index)
        readings = {"answers": partial(read, rag)}
        walked = walks.walk(f"hot_swap_{number}", editions[0], readings, about=rag.identity())
        said[number] = [prediction.text for prediction in walked.predictions("answers")]
    for number in sorted(said):
        for edition, questions in enumerate(editions, 1):
            for group in ("", *sorted({question.group for question in questions} - {""})):
                values = [
                    exact_match(text, question.answers)
                    for text, question in zip(said[number], questions, strict=True)
                    if group in ("", question.group)
                ]
                name = f"index {number}, answers {edition}" + (f", {group}" if group else "")
                yield name, Rate.of(values)
