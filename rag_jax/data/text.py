"""Generator inputs "title / text // question" and targets, put together from token ids.

Byte-level BPE never merges across the spaces of " / " and " // ", so pieces tokenised apart and joined are
the ids of the joined string. That holds for single-spaced text without spaces at its ends, which `one_spaced`
makes.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rag_jax.data.tokenizer import Tokenizer

TITLE_SEPARATOR = " /"  # of " / ": the second space belongs to the word that follows
DOCUMENT_SEPARATOR = " //"

# What transformers' clean_up_tokenization replaces, in its order.
CLEANED = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)

Policy = Literal["keep_question", "huggingface"]
Ids = np.ndarray
Document = tuple[Ids, Ids]


class Marks(NamedTuple):
    """The token ids that frame and separate the pieces."""

    bos: int
    eos: int
    pad: int
    title_separator: Ids
    document_separator: Ids

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Marks":
        """The marks in a generator tokenizer's ids."""
        title, document = (as_ids(ids) for ids in tokenizer.encode_batch([TITLE_SEPARATOR, DOCUMENT_SEPARATOR]))
        return cls(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, title, document)


def as_ids(ids: Sequence[int]) -> Ids:
    """Token ids as int32."""
    return np.asarray(ids, np.int32)


def one_spaced(text: str) -> str:
    """The text with every run of white space made one space, and none at its ends."""
    return " ".join(text.split())


def title_string(title: str) -> str:
    """The title as it stands in a source: one leading and one trailing quote dropped, as in transformers."""
    return one_spaced(title.removeprefix('"').removesuffix('"'))


def source_string(title: str, text: str, question: str) -> str:
    """The whole source as one string."""
    return f"{title_string(title)} / {one_spaced(text)} // {one_spaced(question)}"


def title_pieces(tokenizer: Tokenizer, titles: Sequence[str]) -> list[Ids]:
    """Generator ids of titles as they start a source."""
    return [as_ids(ids) for ids in tokenizer.encode_batch([title_string(title) for title in titles])]


def inner_pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """Generator ids of texts, questions or answers inside a sequence: single-spaced, after a space."""
    return [as_ids(ids) for ids in tokenizer.encode_batch([" " + one_spaced(text) for text in texts])]


def round_trip(tokenizer: Tokenizer, texts: Sequence[str], *, length: int, clean: bool) -> list[str]:
    """Each text as an encoder's tokens say it: lower-cased, cut to the `length` of the encoder's input, spaced apart.

    transformers' RagRetriever builds sources from such questions; clean: with contractions joined again, as version 4
    does ("who's") and version 5 does not ("who ' s"). Unknown words are left out.
    """
    said = [tokenizer.decode(ids[: length - 2]) for ids in tokenizer.encode_batch(texts)]
    for spaced, tight in CLEANED if clean else ():
        said = [text.replace(spaced, tight) for text in said]
    return said


def fill_sources(
    documents_BK: Sequence[Sequence[Document]],
    questions_B: Sequence[Ids],
    *,
    length: int,
    marks: Marks,
    policy: Policy = "keep_question",
) -> np.ndarray:
    """Every question with each of its documents, `<s> title / text // question </s>`: source_BKS int32, S = `length`.

    Padded on the right. A missing document (k larger than the corpus) is given as two empty pieces. 'keep_question'
    shortens the text, then the title, and the question only when it alone is too long; 'huggingface' cuts on the right,
    so that a long passage pushes the question out.
    """
    pieces: list[Ids] = []
    frame, lengths = Frame.of(marks), []
    bos, before_text, before_question, eos, around = frame
    for documents, question in zip(documents_BK, questions_B, strict=True):
        for title, text in documents:
            size = around + len(title) + len(text) + len(question)
            if size <= length:
                pieces += (bos, title, before_text, text, before_question, question, eos)
                lengths.append(size)
            else:
                row = _cut((title, text), question, length, frame, policy)
                pieces += row
                lengths.append(sum(map(len, row)))
    source_RS = np.full((len(lengths), length), marks.pad, np.int32)
    source_RS[np.arange(length)[None] < np.asarray(lengths)[:, None]] = np.concatenate(pieces)
    return source_RS.reshape(len(questions_B), -1, length)


def question_sources(tokenizer: Tokenizer, questions: Sequence[str], *, length: int) -> np.ndarray:
    """Every question alone, `<s> question </s>` as the tokenizer has it, padded on the right: source_B1S int32."""
    source_B1S = np.full((len(questions), 1, length), tokenizer.pad_id, np.int32)
    for source_S, ids in zip(source_B1S[:, 0], tokenizer.encode_batch(list(map(one_spaced, questions))), strict=True):
        ids = [tokenizer.bos_id, *ids[: length - 2], tokenizer.eos_id]
        source_S[: len(ids)] = ids
    return source_B1S


class Frame(NamedTuple):
    """The marks around the pieces of a source, as arrays, and how many tokens they are."""

    bos: Ids
    title_separator: Ids
    document_separator: Ids
    eos: Ids
    size: int

    @classmethod
    def of(cls, marks: Marks) -> "Frame":
        """The frame of a generator's marks."""
        separators = marks.title_separator, marks.document_separator
        return cls(as_ids([marks.bos]), *separators, as_ids([marks.eos]), 2 + sum(map(len, separators)))


def _cut(document: Document, question: Ids, length: int, frame: Frame, policy: Policy) -> list[Ids]:
    """The pieces of one source, cut so that their lengths sum to at most `length`."""
    title, text = document
    room = length - frame.size
    if len(title) + len(text) + len(question) > room and policy == "keep_question":
        question = question[: max(room, 0)]
        title = title[: max(room - len(question), 0)]
        text = text[: max(room - len(question) - len(title), 0)]
    pieces = [title, frame.title_separator, text, frame.document_separator, question]
    if len(title) + len(text) + len(question) > room:
        # Under 'huggingface', or when not even the separators fit.
        pieces = [np.concatenate(pieces)[: length - 2]]
    return [frame.bos, *pieces, frame.eos]


def targets(
    answers_B: Sequence[Ids], *, length: int, marks: Marks, compat: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decoder inputs and targets of answers (`inner_pieces`): token_BT, target_BT int32, T = `length`.

    By default the decoder reads `</s> <s> a b` and writes `<s> a b </s>`, the start that generation uses too.
    With compat='huggingface_finetune' it reads `<s> a b </s>` and writes `a b </s>`. A long answer is cut,
    `</s>` kept.
    """
    token_BT = np.full((len(answers_B), length), marks.pad, np.int32)
    target_BT = token_BT.copy()
    for token_T, target_T, answer in zip(token_BT, target_BT, answers_B, strict=True):
        answer = answer[: length - 2]
        label = np.concatenate([[marks.bos], answer, [marks.eos]])
        if compat == "huggingface_finetune":
            token_T[: len(label)] = label
            target_T[: len(label) - 1] = label[1:]
        else:
            token_T[0], token_T[1 : len(label)] = marks.eos, label[:-1]
            target_T[: len(label)] = label
    return token_BT, target_BT
