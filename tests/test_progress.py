"""What a command says while it works: not too soon, not too often, and how long the rest will take."""

import re
import threading
import time

import pytest

from rag_jax import progress
from rag_jax.progress import Progress, blocks, counted, duration, metered, slow_at_first, waiting


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now, self.lines = 100.0, []
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_line_comes_when_the_last_one_is_old_enough(clock):
    one = Progress("here", lambda: 0.25, clock.lines.append, "things done")
    for seconds in (9, 2, 9, 1):  # at 9, 11, 20, 21
        clock.now += seconds
        one.show(1100)
    assert clock.lines == [
        "here: 1,100 things done, 100 a second, 33 seconds left",
        "here: 1,100 things done, 52 a second, 63 seconds left",
    ]
    one.show(1200, last=True)
    assert clock.lines[2:] == ["here: 1,200 things done, 57 a second"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (86400, "24.0 hours")]
)
def test_durations_have_their_units(seconds, said):
    assert duration(seconds) == said


def test_items_are_counted_by_their_size_when_they_are_done_with(clock):
    for item in counted(["aaa", "bb", "aaaaa"], 8, "here", "letters", size=len, log=clock.lines.append):
        clock.now += 15 if item == "bb" else 1
    assert clock.lines == ["here: 5 of 8 letters, 0.31 a second, 10 seconds left"]


def test_the_end_is_not_told(clock, capsys):
    starts = []
    for start in blocks(10, 4, "here", "rows"):
        starts.append(start)
        clock.now += 10
    assert starts == [0, 4, 8]
    assert capsys.readouterr().err.splitlines() == [
        "here: 4 of 10 rows, 0.40 a second, 15 seconds left",
        "here: 8 of 10 rows, 0.40 a second, 5 seconds left",
    ]


def test_items_without_a_number_are_told_with_their_share(clock):
    shares = iter([0.0, 0.5])
    for _ in metered(range(3), lambda: next(shares), "here", "lines read", clock.lines.append):
        clock.now += 10 if clock.now < 120 else 0
    assert clock.lines == ["here: 1 lines read, 0.10 a second", "here: 2 lines read, 0.10 a second, 20 seconds left"]


def test_waiting_is_told_where_it_takes_long_and_no_longer(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    monkeypatch.setattr(progress, "MINUTE", 0.05)
    lines, twice = [], threading.Event()

    def log(line):
        lines.append(line)
        if len(lines) == 2:
            twice.set()

    with pytest.raises(KeyError), waiting("this is compiled", log):
        assert twice.wait(30)
        raise KeyError
    count = len(lines)
    assert all(re.fullmatch(r"this is compiled, \d+ seconds so far", line) for line in lines)
    with waiting("that is quick", log):
        pass
    time.sleep(0.2)
    assert len(lines) == count


def test_a_function_is_slow_at_first_alone(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.02)
    lines, said = [], threading.Event()

    def slow(number, told):
        if told:
            assert said.wait(30)
        else:
            time.sleep(0.1)
        return number + 1

    def log(line):
        lines.append(line)
        said.set()

    function = slow_at_first(slow, "it is compiled", log)
    assert [function(1, True), function(2, False)] == [2, 3]
    assert len(lines) == 1 and lines[0].startswith("it is compiled, ")
