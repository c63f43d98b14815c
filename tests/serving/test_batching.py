"""The queue: what goes together, what fails alone, and its end."""

import threading
import time

import pytest

from rag_jax.serving import batching
from rag_jax.serving.batching import Batcher, Busy


class Answering:
    """Says every question in upper case; remembers the batches, and can be held up."""

    def __init__(self):
        self.batches, self.go_on = [], threading.Event()
        self.go_on.set()

    def __call__(self, settings, questions):
        self.batches.append((settings, questions))
        assert self.go_on.wait(60)
        if "bad" in questions:
            raise ValueError("bad")
        return [question.upper() for question in questions]


def held_up(answering, batcher):
    """A first question that is being answered until `go_on` is set, so that others gather behind it."""
    answering.go_on.clear()
    first = batcher.submit("s", ["first"])
    while not answering.batches:
        time.sleep(0.001)
    return first


def test_what_agrees_in_its_settings_goes_together_in_order_and_up_to_the_most():
    answering = Answering()
    with Batcher(answering, most=4, gather=0) as batcher:
        first = held_up(answering, batcher)
        asked = [("s", ["a", "b"]), ("t", ["c"]), ("s", ["d", "e", "f"]), ("s", ["g"]), ("t", ["h"])]
        futures = [batcher.submit(*each) for each in asked]
        answering.go_on.set()
        assert [future.result(60) for future in futures] == [["A", "B"], ["C"], ["D", "E", "F"], ["G"], ["H"]]
        assert first.result() == ["FIRST"]
    assert answering.batches[1:] == [("s", ["a", "b", "g"]), ("t", ["c", "h"]), ("s", ["d", "e", "f"])]
    assert batcher.counts == (0, 9, 4)


def test_a_full_batch_does_not_wait():
    with Batcher(Answering(), most=2, gather=3600) as batcher:
        assert [future.result(60) for future in [batcher.submit("s", ["a"]), batcher.submit("s", ["b"])]] == [
            ["A"],
            ["B"],
        ]


def test_a_request_that_fails_fails_alone():
    answering = Answering()
    with Batcher(answering, most=4, gather=0) as batcher:
        held_up(answering, batcher)
        good, bad, other = (batcher.submit("s", [question]) for question in ("good", "bad", "other"))
        answering.go_on.set()
        assert (good.result(60), other.result(60)) == (["GOOD"], ["OTHER"])
        with pytest.raises(ValueError, match="bad"):
            bad.result(60)
        assert batcher.submit("s", ["again"]).result(60) == ["AGAIN"]


def test_a_request_that_was_given_up_is_not_answered():
    answering = Answering()
    with Batcher(answering, most=4, gather=0) as batcher:
        held_up(answering, batcher)
        given_up, kept = batcher.submit("s", ["given up"]), batcher.submit("s", ["kept"])
        assert given_up.cancel()
        answering.go_on.set()
        assert kept.result(60) == ["KEPT"]
    assert answering.batches[1:] == [("s", ["kept"])]


def test_the_end_finishes_what_was_asked_and_takes_nothing_more_on():
    answering = Answering()
    with Batcher(answering, most=1, gather=3600) as batcher:
        held_up(answering, batcher)
        futures = [batcher.submit("s", [question]) for question in ("a", "b", "c")]
        threading.Timer(0.05, answering.go_on.set).start()
    assert [future.result(0) for future in futures] == [["A"], ["B"], ["C"]]
    with pytest.raises(Busy, match="stopping"):
        batcher.submit("s", ["late"])


def test_too_many_that_wait_are_refused(monkeypatch):
    monkeypatch.setattr(batching, "MOST_WAITING", 3)
    answering = Answering()
    with Batcher(answering, most=1, gather=0) as batcher:
        held_up(answering, batcher)
        kept = batcher.submit("s", ["a", "b"])
        with pytest.raises(Busy, match="2 questions wait"):
            batcher.submit("s", ["c", "d"])
        answering.go_on.set()
        assert kept.result(60) == ["A", "B"]
