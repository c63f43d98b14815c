"""Questions asked of one sentence: a few tokens to read, so that a small reader sees many questions in an hour."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rag_jax.data.corpus import Passage
from rag_jax.data.text import source_string
from rag_jax.data.tokenizer import Tokenizer

END = re.compile(r"(?<=[.!?])[\"”’)]* +(?=[\"“(A-Z0-9])")
Record = dict[str, Any]


def asked_of_sentences(
    records: Sequence[Record], passage_of: Mapping[str, Passage], tokenizer: Tokenizer, source: int, target: int
) -> Iterator[tuple[Record, Passage]]:
    """Each question with the sentence of its passage that answers it, where both fit in so many tokens."""
    for record in records:
        passage, answer = passage_of[record["passage_id"]], record["answer"][0]
        holding = [text for text in END.split(passage.text) if answer in text]
        if not holding or len(tokenizer.encode(answer)) > target - 2:
            continue
        text = max(holding, key=lambda text: len(words(text) & words(record["question"])))
        if len(tokenizer.encode(source_string(passage.title, text, record["question"]))) <= source - 2:
            sentence = Passage(f"{passage.id}:{passage.text.index(text)}", passage.title, text)
            yield record | {"passage_id": sentence.id}, sentence


def words(text: str) -> set[str]:
    """The words of a text, lower-cased."""
    return set(re.findall(r"\w+", text.lower()))
