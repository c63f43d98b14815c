"""An answer as HTML: tokens take their passage's colour, text stays text."""

import re
from html.parser import HTMLParser

import pytest

from rag_jax.api import Answer, Document, Token
from rag_jax.serving.drawing import answer_html, escape, pieces

TITLES = ("Peru", "Chile")


def answer(text, tokens, documents=TITLES, **more):
    found = tuple(Document(title, title, f"about {title}", 1.0, 0.25, 0.5) for title in documents)
    return Answer("?", text, -0.5, found, tokens=tuple(Token(*token) for token in tokens), **more)


def test_pieces_are_the_tokens():
    said = answer("Lima city", [(" Li", (0.9, 0.1)), ("ma", (0.8, 0.2)), (" city", (0.3, 0.7))])
    assert pieces(said) == [("Li", (0.9, 0.1)), ("ma", (0.8, 0.2)), (" city", (0.3, 0.7))]


def test_a_letter_of_several_tokens_is_one_piece():
    tokens = [(" Fran", (1.0, 0.0)), ("\ufffd", (0.6, 0.4)), ("\ufffd", (0.4, 0.6)), ("ois", (0.0, 1.0))]
    assert pieces(answer("François", tokens)) == [
        ("Fran", (1.0, 0.0)),
        ("ç", pytest.approx((0.5, 0.5))),
        ("ois", (0.0, 1.0)),
    ]
    last = pieces(answer("café", [(" caf", (1.0, 0.0)), ("\ufffd", (0.0, 1.0)), ("\ufffd", (0.0, 1.0))]))
    assert last == [("caf", (1.0, 0.0)), ("é", (0.0, 1.0))]


def test_what_does_not_fit_together_is_one_piece():
    assert pieces(answer("Lima", [(" Quito", (0.9, 0.1))])) == [("Lima", (0.5, 0.5))]
    assert pieces(answer("Lima", [])) == [("Lima", (0.5, 0.5))]
    assert pieces(answer("Lima", [], documents=())) == [("Lima", ())]


def test_a_piece_has_the_colour_of_the_passage_it_came_from():
    html = answer_html(answer("Lima city", [(" Lima", (0.9, 0.1)), (" city", (0.2, 0.8))]), "")
    swatches = re.findall(r'swatch" style="background: hsla\((\d+)', html)
    spans = re.findall(r'<span title="([^"]+)" style="background: hsla\((\d+), 75%, 50%, ([\d.]+)\)">([^<]+)', html)
    assert spans == [("0.900 Peru", swatches[0], "0.540", "Lima"), ("0.800 Chile", swatches[1], "0.480", " city")]


def test_bars_are_prior_and_posterior():
    html = answer_html(answer("Lima", []), "")
    assert re.findall(r'<td>([\d.]+)<div class="bar"><div style="width: ([\d.]+)%', html) == [
        ("0.500", "50.0"), ("0.250", "25.0")
    ] * 2  # fmt: skip


class Reader(HTMLParser):
    """The tags and the text that a browser finds."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_text_stays_text():
    nasty = "<script>alert(1)</script> ${alert(2)} {{value}} `\"'&"
    html = answer_html(answer(nasty, [], documents=(nasty, "Chile")), nasty)
    read = Reader(html)
    assert "script" not in read.tags and read.text.count(nasty) >= 3
    assert not re.search(r"[${}`]", html)  # the page's own template language finds nothing
    assert Reader(escape(nasty)).text == nasty


def test_an_empty_answer_and_the_null_document_have_words():
    html = answer_html(answer("", [], documents=("", "Peru")), "")
    assert "(an empty answer)" in html and "no document" in html


def test_other_answers_and_a_lower_bound_are_told():
    other = answer("Quito", [])
    html = answer_html(answer("Lima", [], lower_bound=True, others=(other,)), " · RAG-Sequence")
    assert "probability at least 0.607 · RAG-Sequence" in html and "next: Quito (at least 0.607)" in html
