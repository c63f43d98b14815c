"""The page in a real browser: asks, clicks, reads, switches; talks to nobody but its server."""

import json
import math
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import httpx
import pytest

spec = spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
browser = module_from_spec(spec)
spec.loader.exec_module(browser)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(browser.chromium() is None, reason=f"no browser: found none of {', '.join(browser.NAMES)}"),
]
QUESTION = "who is mayor of Brimholt?"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{value}} `&"
NOBODY_ELSE = """
import socket
connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

def checked(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        assert address[0] in ("127.0.0.1", "::1"), f"asks {address}"
    return connect(self, address)

def looked_up(host, *rest, **more):
    assert host in (None, "127.0.0.1", "localhost"), f"looks up {host}"
    return getaddrinfo(host, *rest, **more)

socket.socket.connect, socket.getaddrinfo = checked, looked_up
"""


@pytest.fixture(scope="module")
def where(tiny_run):
    passages = [{"id": str(n), "title": f"{n} {HOSTILE}", "text": f"{HOSTILE} {QUESTION}"} for n in range(4)]
    (tiny_run.folder / "hostile.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    config = "--config=tiny.py", "--config.data.passages=hostile.jsonl"
    tiny_run.command("build_index", *config, "--workdir=run", "--index=hostile")
    indexes = {"before": "run/index", "after": "index_after", "hostile": "hostile"}
    flags = (f"--index={name}={folder}" for name, folder in indexes.items())
    with tiny_run.served(*flags, prelude=NOBODY_ELSE) as where:
        yield where


@pytest.fixture(scope="module")
def another():
    with browser.users() as another:
        yield another


def expected(where, **asked):
    [answer] = httpx.post(f"{where}/answer", json={"questions": [QUESTION], **asked}, timeout=300).json()["answers"]
    return answer


def check(user, answer, about):
    """The page shows the answer that the endpoint gives: text, probability, passages, bars, colours."""
    assert user.shown(".said") == (answer["text"] or "(an empty answer)")
    assert user.shown(".about") == f"probability {math.exp(answer['log_prob']):.3f} · {about}"
    rows = user.page.locator("#answer .passages tr").all()[1:]
    assert len(rows) == len(answer["documents"])
    for row, document in zip(rows, answer["documents"], strict=True):
        cells = [cell.inner_text().strip() for cell in row.locator("td").all()]
        shares = [f"{document[name]:.3f}" for name in ("posterior", "prior")]
        assert cells == ["", *shares, f"{document['title'][:40]} {document['text']}"]
        widths = [bar.get_attribute("style") for bar in row.locator(".bar div").all()]
        assert [re.match(r"width: ([\d.]+)%", style)[1] for style in widths] == [
            f"{100 * document[name]:.1f}" for name in ("posterior", "prior")
        ]


def test_a_user_asks_and_chooses_and_sees_the_answer_change(where, another, tmp_path):
    user, neighbour = another(where), another(where)
    neighbour.ask(QUESTION, "3 passages of index before")
    user.read(30)  # all there are, of which the mayors differ
    user.ask(QUESTION, "30 passages of index before")
    before = expected(where, k=30, tokens=True)
    check(user, before, "RAG-Token · search · 1 beam · 30 passages of index before")
    said = user.page.locator("#answer .said span").all()
    assert "".join(span.inner_text() for span in said).strip() == before["text"]
    for span in said:  # the colour of the passage that is named
        title = span.get_attribute("title").split(" ", 1)[1]
        hues = [
            re.search(r"hsla\((\d+)", row.locator(".swatch").get_attribute("style"))[1]
            for row in user.page.locator("#answer .passages tr").all()[1:]
            if title in row.inner_text()
        ]
        assert re.search(r"hsla\((\d+)", span.get_attribute("style"))[1] in hues

    user.choose("index", "after", "of index after")
    after = expected(where, index="after", k=30)
    assert {found["text"] for found in after["documents"]} != {found["text"] for found in before["documents"]}
    check(user, after, "RAG-Token · search · 1 beam · 30 passages of index after")

    user.read(3)
    user.choose("kind", "RAG-Sequence", "3 passages of index after · coloured")
    about = "RAG-Sequence · thorough · 1 beam · 3 passages of index after"
    whole = " · coloured as a whole: it has one posterior, not one a token"
    check(user, expected(where, index="after", kind="sequence"), about + whole)
    assert user.page.locator("#mode label").all_inner_texts() == ["thorough", "fast"]
    user.choose("mode", "fast", "· fast ·")
    assert user.shown(".about").startswith("probability at least ")
    user.read(2)
    user.ask(QUESTION, "2 passages of index after")
    assert len(user.all_shown(".passages tr")) == 1 + 2

    # The neighbour's page is as it was, and asks as it did.
    neighbour.read(4)
    neighbour.ask(QUESTION, "RAG-Token · search · 1 beam · 4 passages of index before")

    path = tmp_path / "page.png"
    user.page.screenshot(path=path, full_page=True)
    assert 5_000 < path.stat().st_size < 300_000
    for each in (user, neighbour):
        assert each.hosts == {where.removeprefix("http://")} and each.errors == []


def test_passages_are_text_whatever_they_say(where, another):
    user = another(where)
    title = user.page.title()
    user.ask(QUESTION, "of index before")
    user.choose("index", "hostile", "of index hostile")
    assert all(HOSTILE in row for row in user.all_shown(".passages tr")[1:])
    assert user.page.locator("#answer img").count() == 0
    assert user.page.title() == title and user.errors == []


def test_a_question_that_cannot_be_asked_is_told_why(where, another):
    user = another(where)
    user.ask("mayor " * 40, "question: found more tokens than the question encoder reads, expected at most 16")


def test_the_description_is_drawn_without_a_network(where, another):
    user = another(where)
    user.page.goto(f"{where}/docs")
    user.page.locator("text=/answer").first.wait_for()
    assert user.hosts == {where.removeprefix("http://")} and user.errors == []


def test_an_open_page_does_not_hold_the_server_up(tiny_run, another):
    with tiny_run.served() as where:
        another(where).ask(QUESTION, "of index index")
