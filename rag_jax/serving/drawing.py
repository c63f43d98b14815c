"""An answer as HTML: its tokens in the colours of the passages they came from, and the passages with bars."""

import html
import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rag_jax.api import Answer, Document, Token

HUES = (210, 30, 135, 285, 0, 180, 55, 320)  # of the passages in order; those behind them are grey
MOST_TITLE = 40
BROKEN = "\ufffd"  # what half a letter decodes to
CSS = """
.rag .said { font-size: 1.6em; margin: 0.2em 0; }
.rag .said span { border-radius: 4px; padding: 0.1em 0; }
.rag .about, .rag .problem { margin: 0.2em 0 0.8em 0; }
.rag .problem { color: var(--error-text-color); }
.rag table { border-collapse: collapse; margin: 0.4em 0 1em 0; font-size: 0.95em; }
.rag th, .rag td { padding: 0.25em 0.6em; text-align: left; vertical-align: top; border: none; }
.rag th { font-weight: 600; }
.rag .swatch { width: 0.9em; height: 0.9em; border-radius: 3px; margin-top: 0.3em; }
.rag .bar { width: 7em; height: 0.55em; border-radius: 3px; background: hsla(0, 0%, 50%, 0.2); }
.rag .bar div { height: 100%; border-radius: 3px; }
.rag .shares td { text-align: center; font-variant-numeric: tabular-nums; }
.rag .shares td.title { text-align: left; white-space: nowrap; }
.rag .wide { overflow-x: auto; }
"""


class Piece(NamedTuple):
    """A stretch of the answer's text, and the posterior of every document as far as it tells, in their order."""

    text: str
    posterior: tuple[float, ...]


def pieces(answer: Answer) -> list[Piece]:
    """The answer's text cut where its tokens end; a letter that several tokens spell is one piece with their mean.

    Without tokens it is one piece, with the posterior of the whole answer; none of a closed book.
    """
    whole = [Piece(answer.text, tuple(document.posterior for document in answer.documents))]
    if not answer.tokens:
        return whole
    groups = [
        group
        for broken, run in groupby(answer.tokens, key=lambda token: BROKEN in token.text)
        for group in ([list(run)] if broken else [[token] for token in run])
    ]
    found, at = [], 0
    for number, group in enumerate(groups):
        end = _end(answer.text, at, group, groups[number + 1 :])
        if end < 0:
            return whole  # a tokenizer whose tokens are no pieces of its text
        mean = tuple(sum(shares) / len(group) for shares in zip(*(token.posterior for token in group), strict=True))
        found.append(Piece(answer.text[at:end], mean))
        at = end
    return found if at == len(answer.text) else whole


def _end(text: str, at: int, group: Sequence[Token], later: Sequence[Sequence[Token]]) -> int:
    """Where a group of tokens that begins at `at` ends in the text; -1 where it is not there."""
    said = group[0].text
    if BROKEN not in said:
        said = said if at else said.lstrip()
        said = said if text.startswith(said, at) else said.rstrip()  # the end of a text is stripped
        return at + len(said) if text.startswith(said, at) else -1
    return text.find(later[0][0].text, at) if later else len(text)


def answer_html(answer: Answer, about: str) -> str:
    """The answer, the other ones if there are, what is said `about` it, and its passages."""
    parts, bound = pieces(answer), "at least " if answer.lower_bound else ""
    said = "".join(_coloured(part, answer.documents) for part in parts)
    rows = [f'<p class="said">{said if answer.text else "(an empty answer)"}</p>']
    rows += [f'<p class="about">probability {bound}{math.exp(answer.log_prob):.3f}{escape(about)}</p>']
    if answer.others:
        others = (f"{escape(other.text)} ({bound}{math.exp(other.log_prob):.3f})" for other in answer.others)
        rows.append(f'<p class="about">next: {", ".join(others)}</p>')
    rows += [_passages(answer.documents)] if answer.documents else []
    rows += [_shares(parts, answer.documents)] if answer.tokens and len(parts) > 1 else []
    return f'<div class="rag">{"".join(rows)}</div>'


def problem_html(problem: str) -> str:
    """Why there is no answer."""
    return f'<div class="rag"><p class="problem">{escape(problem)}</p></div>'


def escape(text: str) -> str:
    """Text that stays text, in HTML and in the template language of the page."""
    kept = html.escape(text)
    for letter in "${}`":
        kept = kept.replace(letter, f"&#{ord(letter)};")
    return kept


def _colour(place: int, strength: float = 1.0) -> str:
    hue, saturation = (HUES[place], 75) if place < len(HUES) else (0, 0)
    return f"hsla({hue}, {saturation}%, 50%, {strength:.3f})"


def _named(document: Document) -> str:
    return escape(document.title[:MOST_TITLE]) if document.id else "no document"


def _coloured(part: Piece, documents: Sequence[Document]) -> str:
    """A piece of the answer on the colour of the passage that most of it came from, as strong as its share."""
    if not documents:
        return escape(part.text)
    place = max(range(len(documents)), key=part.posterior.__getitem__)
    share = part.posterior[place]
    hint = f"{share:.3f} {_named(documents[place])}"
    return f'<span title="{hint}" style="background: {_colour(place, 0.6 * share)}">{escape(part.text)}</span>'


def _passages(documents: Sequence[Document]) -> str:
    rows = "".join(
        f'<tr><td><div class="swatch" style="background: {_colour(place)}"></div></td>'
        f"<td>{_bar(place, document.posterior)}</td><td>{_bar(place, document.prior)}</td>"
        f"<td><b>{_named(document)}</b> {escape(document.text)}</td></tr>"
        for place, document in enumerate(documents)
    )
    return f'<table class="passages"><tr><th></th><th>posterior</th><th>prior</th><th>passage</th></tr>{rows}</table>'


def _bar(place: int, share: float) -> str:
    width = f"width: {100 * share:.1f}%"
    return f'{share:.3f}<div class="bar"><div style="{width}; background: {_colour(place)}"></div></div>'


def _shares(parts: Sequence[Piece], documents: Sequence[Document]) -> str:
    """p(z|x,y_1..y_i) of every passage z and piece i (Lewis et al. 2020, figure 2)."""
    head = "".join(f"<th>{escape(part.text)}</th>" for part in parts)
    rows = "".join(
        f'<tr><td class="title">{_named(document)}</td>'
        + "".join(
            f'<td style="background: {_colour(place, 0.6 * part.posterior[place])}">{part.posterior[place]:.2f}</td>'
            for part in parts
        )
        + "</tr>"
        for place, document in enumerate(documents)
    )
    title = "which passage each token came from"
    return f'<div class="wide"><table class="shares"><tr><th>{title}</th>{head}</tr>{rows}</table></div>'
