"""Pictures: that they are there, whole, and show what they are given."""

import sys
from dataclasses import replace

import pytest

from rag_jax import Answer, Document
from rag_jax.api import Token
from rag_jax.errors import UserError
from rag_jax.evaluation import plots

PNG = b"\x89PNG\r\n\x1a\n"


def answer(first, second, tokens=("Ada", " Rook")):
    documents = tuple(Document(str(n), f"Title {n}", "text", 1.0, 0.5, 0.5) for n in range(2))
    said = tuple(Token(text, share) for text, share in zip(tokens, (first, second), strict=True))
    return Answer("who?", "Ada Rook", -1.0, documents, tokens=said)


def drawn(folder, name, draw, *what):
    pytest.importorskip("matplotlib")
    draw(folder / name, *what)
    content = (folder / name).read_bytes()
    assert content.startswith(PNG) and [path.name for path in folder.glob(".*")] == []
    return content


def test_two_posteriors_are_two_pictures(tmp_path):
    one = drawn(tmp_path, "a.png", plots.token_posterior, answer((0.9, 0.1), (0.2, 0.8)))
    other = drawn(tmp_path, "b.png", plots.token_posterior, answer((0.1, 0.9), (0.2, 0.8)))
    assert one != other
    assert one == drawn(tmp_path, "a.png", plots.token_posterior, answer((0.9, 0.1), (0.2, 0.8)))


def test_dollars_are_no_formula(tmp_path):
    said = answer((0.9, 0.1), (0.2, 0.8), tokens=("$x^{$", " Rook"))
    documents = tuple(replace(document, title="$x^{$") for document in said.documents)
    drawn(tmp_path, "a.png", plots.token_posterior, replace(said, question="$x^{$", documents=documents))


def test_measures_against_k(tmp_path):
    lines, other = {"EM": {1: 30, 5: 40, 10: 41}, "recall@k": {1: 50, 10: 70}}, {"EM": {1: 30, 5: 40, 10: 44}}
    one = drawn(tmp_path, "a.png", plots.against_k, {"percent": lines})
    assert one != drawn(tmp_path, "b.png", plots.against_k, {"percent": lines | other})
    assert one != drawn(tmp_path, "b.png", plots.against_k, {"percent": lines, "again": lines})


def test_an_empty_answer_has_nothing_to_draw(tmp_path):
    with pytest.raises(UserError, match=r"--plot: the answer to 'who\?' is empty, expected tokens to draw"):
        plots.token_posterior(tmp_path / "a.png", Answer("who?", "", -1.0, ()))
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_flag_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"--plot: found no package 'matplotlib', .* `pip install rag_jax\[plot\]`"):
        plots.check_installed("--plot")


def test_the_null_document_has_a_row_of_its_own(tmp_path):
    """Named, and not the empty title of a passage."""
    said = answer((0.9, 0.1), (0.2, 0.8))
    untitled = tuple(replace(document, title="") for document in said.documents)
    null = (untitled[0], replace(untitled[1], id=""))
    pictures = [
        drawn(tmp_path, name, plots.token_posterior, replace(said, documents=documents))
        for name, documents in (("a.png", untitled), ("b.png", null))
    ]
    assert pictures[0] != pictures[1]
