"""Generator inputs put together on the device, as data.text puts them together on the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Frame(NamedTuple):
    """The token ids around the pieces of a source: `<s> title / text // question </s>`."""

    bos: int
    eos: int
    pad: int
    title_separator: tuple[int, ...]
    document_separator: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many tokens they are."""
        return 2 + len(self.title_separator) + len(self.document_separator)


def sources(
    document_BKP: jax.Array,
    title_BK: jax.Array,
    text_BK: jax.Array,
    question_BR: jax.Array,
    question_B: jax.Array,
    *,
    length: int,
    frame: Frame,
    keep_question: bool,
) -> jax.Array:
    """Every question with each of its documents, padded on the right: source_BKS int32 with S = `length`.

    Args:
        document_BKP: tokens of title and text, one behind the other, at least S of them or all.
        title_BK, text_BK: how many tokens title and text have.
        question_BR: tokens of the question; question_B: how many.
        keep_question: cut the text first, then the title, and the question only when it alone is too long; else cut on
            the right, as transformers does.
    """
    title_BK, text_BK = title_BK.astype(jnp.int32), text_BK.astype(jnp.int32)
    whole_BK, asked_BK = title_BK, jnp.broadcast_to(question_B[:, None], title_BK.shape).astype(jnp.int32)
    if keep_question:
        room = length - frame.size
        asked_BK = jnp.minimum(asked_BK, max(room, 0))
        title_BK = jnp.minimum(title_BK, jnp.maximum(room - asked_BK, 0))
        text_BK = jnp.minimum(text_BK, jnp.maximum(room - asked_BK - title_BK, 0))
    marks = [jnp.array(ids, jnp.int32) for ids in (frame.title_separator, frame.document_separator)]
    ends, end_BK = [], jnp.zeros_like(title_BK)
    for size in (title_BK, len(marks[0]), text_BK, len(marks[1]), asked_BK):
        end_BK = end_BK + size
        ends.append(end_BK[..., None])
    place_BKS = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, None] - 1, (*title_BK.shape, length))
    skipped_BK1 = (whole_BK - title_BK)[..., None]
    document_at = place_BKS - jnp.where(place_BKS < ends[0], 0, ends[1] - ends[0] - skipped_BK1)
    question_BKR = jnp.broadcast_to(question_BR[:, None], (*title_BK.shape, question_BR.shape[1]))
    token_BKS = jnp.select(
        [place_BKS < end for end in ends],
        [
            _at(document_BKP, document_at),
            _mark(marks[0], place_BKS - ends[0]),
            _at(document_BKP, document_at),
            _mark(marks[1], place_BKS - ends[2]),
            _at(question_BKR, place_BKS - ends[3]),
        ],
        frame.pad,
    )
    size_BK1 = jnp.minimum(ends[-1], length - 2)
    token_BKS = jnp.where(place_BKS < size_BK1, token_BKS, frame.pad)
    token_BKS = jnp.where(place_BKS == size_BK1, frame.eos, token_BKS)
    return jnp.where(place_BKS < 0, frame.bos, token_BKS)


def _at(token_BKP: jax.Array, place_BKS: jax.Array) -> jax.Array:
    return jnp.take_along_axis(token_BKP, jnp.clip(place_BKS, 0, token_BKP.shape[2] - 1), axis=2)


def _mark(ids: jax.Array, place_BKS: jax.Array) -> jax.Array:
    return ids[jnp.clip(place_BKS, 0, len(ids) - 1)]
