"""The server in this process: what it says when it cannot listen, and how it stops."""

import os
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from rag_jax.errors import UserError
from rag_jax.serving import server

QUESTION = {"questions": ["who is mayor of Brimholt?"]}


def test_a_port_in_use_and_an_address_of_another_machine_are_one_line():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--port: found {port} in use on 127.0.0.1, expected a free one"):
            server.listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^--host: found '192.0.2.1' \(.*\), expected an address of this machine"):
        server.listen("192.0.2.1", 0)


@pytest.fixture
def go_on(views, monkeypatch):
    """While this event is cleared, no question is answered."""
    go_on, answer = threading.Event(), views.answer
    go_on.set()

    def held(*asked):
        assert go_on.wait(60)
        return answer(*asked)

    monkeypatch.setattr(views, "answer", held)
    return go_on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_all_that_was_asked_is_answered(views, go_on, capsys, number):
    listening = server.listen("127.0.0.1", 0)
    where, seen = server.address(listening), {}

    def ask():
        seen["answer"] = httpx.post(f"{where}/answer", json=QUESTION, timeout=60)

    def user():
        seen["page"] = httpx.get(where, timeout=60)
        asking = held_up(ask, go_on, where)
        os.kill(os.getpid(), number)
        while reachable(where):
            time.sleep(0.01)
        go_on.set()
        asking.join(60)

    using = threading.Thread(target=user)
    using.start()
    server.serve(views, listening, title="tiny")
    using.join(60)
    assert seen["page"].status_code == 200 and "tiny" in seen["page"].text
    assert seen["answer"].status_code == 200 and len(seen["answer"].json()["answers"]) == 1
    assert re.fullmatch(rf"page {where}  .*\nstopped; .*\n", capsys.readouterr().out)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was


def test_what_it_had_no_time_for_is_told(views, go_on, monkeypatch, capsys):
    async def served(*asked):
        left = await serve(*asked)
        go_on.set()
        return left

    serve = server._serve
    monkeypatch.setattr(server, "_serve", served)
    monkeypatch.setattr(server, "LONGEST_FAREWELL", 1)
    listening = server.listen("127.0.0.1", 0)
    where, seen = server.address(listening), {}

    def ask():
        try:
            seen["status"] = httpx.post(f"{where}/answer", json=QUESTION, timeout=60).status_code
        except httpx.HTTPError:
            seen["status"] = None

    def user():
        httpx.get(where, timeout=60)
        asking = held_up(ask, go_on, where)
        os.kill(os.getpid(), signal.SIGTERM)
        asking.join(60)  # it is told within a second

    using = threading.Thread(target=user)
    using.start()
    server.serve(views, listening, title="tiny")
    using.join(60)
    assert seen["status"] != 200
    assert capsys.readouterr().out.endswith("\nstopped; 1 questions were not answered in the time there was\n")


def held_up(ask, go_on, where):
    """The thread that asks, whose question waits for its answer."""
    go_on.clear()
    asking = threading.Thread(target=ask)
    asking.start()
    while httpx.get(f"{where}/healthz", timeout=60).json()["waiting"] == 0:
        time.sleep(0.01)
    return asking


def reachable(where):
    host, port = where.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
