"""Wikipedia's pages as KILT has them (Petroni et al. 2021), a corpus whose passages are paragraphs."""

from pathlib import Path
from typing import Any

from rag_jax.data.formats.records import Passage
from rag_jax.data.lines import BadLine, first_line, identity, string, strings

KEY = "wikipedia_title"
SECTION = "Section::::"  # how a heading begins


def is_knowledge_source(path: str | Path) -> bool:
    """Whether a file is KILT's, which is lines though it is called kilt_knowledgesource.json."""
    head = first_line(path)
    return head.startswith("{") and f'"{KEY}"' in head


def paragraphs(record: dict[str, Any]) -> list[Passage | BadLine]:
    """The paragraphs of {"wikipedia_id", "wikipedia_title", "text": [..]}; each id is the page's, '#' and its place.

    Without the first, which is the title, and headings, as KILT's own passages are; with what is wrong with a row.
    """
    try:
        page, title = identity(record.get("wikipedia_id")), string(record, KEY)
        texts = [text.strip() for text in strings(record, "text")]
    except BadLine as bad:
        return [bad]
    kept = ((place, text) for place, text in enumerate(texts) if place and text and not text.startswith(SECTION))
    return [Passage(f"{page}#{place}", title, text) for place, text in kept]
