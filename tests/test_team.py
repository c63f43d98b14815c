"""How a process of several is told from one that is gone; and how all of them begin and end."""

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from jax._src import distributed

from rag_jax import team
from rag_jax.team import Team, Watch

# One process of two: python -c MEMBER HOST:PORT NUMBER CODE, where the code is run within the team.
MEMBER = """
import ctypes, os, signal, sys, time
import jax
from rag_jax import team
from rag_jax.command import with_message
team.BEAT, team.SILENCE, team.GRACE = 0.2, 2, 1
begin = jax.distributed.initialize
jax.distributed.initialize = lambda *given, **limits: begin(*given, **limits, shutdown_timeout_seconds=2)

def main():
    with team.team(sys.argv[1], 2, int(sys.argv[2])) as joined:
        exec(sys.argv[3])
    print("left", flush=True)

with_message(main)
"""
HOLDS = "ctypes.PyDLL(None).sleep(5)"  # Python's lock, as ScaNN does while it opens a searcher
MET = "joined.wait('all are there')\n"


def members(*codes):
    """Exit code and what was said of each process of a team, which runs its code there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = "{}:{}".format(*free.getsockname())
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    words = [[sys.executable, "-c", MEMBER, place, str(number), code] for number, code in enumerate(codes)]
    started = [subprocess.Popen(line, text=True, **pipes) for line in words]
    said = ["".join(process.communicate(timeout=120)) for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


class Board:
    """Plays the service that keeps small texts."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, name, value, allow_overwrite):
        self.texts[name] = value

    def key_value_dir_get(self, name):
        return [(key, value) for key, value in self.texts.items() if key.startswith(name)]


@pytest.fixture
def board(monkeypatch):
    monkeypatch.setattr(distributed.global_state, "coordinator_address", "127.0.0.1:1")
    monkeypatch.setattr(Watch, "_run", lambda _: None)
    return Board()


@pytest.fixture
def after(board, monkeypatch):
    """after(seconds, said): what process 0 finds of process 1, one beat after the other, which has said this last."""
    now = [0.0]
    monkeypatch.setattr(team, "time", SimpleNamespace(monotonic=lambda: now[0]))
    watch = Watch(Team(0, 2, board))

    def after(seconds, said="", late=0):
        now[0] += late
        for _ in range(seconds // team.BEAT):
            now[0] += team.BEAT
            if found := watch._gone({0: str(now[0]), 1: said}):
                return found
        return None

    yield after
    watch._door.close()


@pytest.fixture
def other(board):
    """Process 1, which listens and takes no connection: that is the kernel's."""
    watch = Watch(Team(1, 2, board))
    yield watch
    watch._door.close()


def test_a_process_that_is_silent_but_there_is_waited_for(after, other):
    assert after(team.BUSY - 10) is None
    assert after(team.BUSY - 10, "a sign") is None
    assert after(60, "a sign") == (1, f"is there, but has given no sign of life for {team.BUSY} seconds")


def test_a_process_that_is_gone_is_missed_within_a_minute(after, other):
    gone = 1, f"has given no sign of life for {team.SILENCE} seconds"
    assert after(team.SILENCE + 4) is None
    other._door.close()
    assert after(team.SILENCE + 4) == gone
    assert after(team.SILENCE - 4, "a sign") is None and after(8, "a sign") == gone


def test_a_process_that_says_no_address_is_missed_as_well(after):
    assert after(team.SILENCE - 4) is None and after(8)[0] == 1


def test_a_process_that_stood_still_blames_nobody(after):
    for _ in range(3):
        assert after(4, "a sign", late=10 * team.SILENCE) is None
    assert after(team.SILENCE, "a sign")[0] == 1


def test_no_child_keeps_the_door_of_a_process_that_is_gone(other):
    door = other._door
    if (child := os.fork()) == 0:
        os._exit(door.fileno() == -1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.long
@pytest.mark.parametrize("codes", [(MET, MET + HOLDS), (MET + HOLDS, MET)])
def test_a_process_that_holds_pythons_lock_ends_nobody(codes):
    for code, said in members(*codes):
        assert code == 0 and said.endswith("left\n"), said


@pytest.mark.long
def test_a_process_that_is_killed_ends_the_others():
    (code, said), (killed, _) = members(MET + "time.sleep(60)", MET + "os.kill(os.getpid(), signal.SIGKILL)")
    assert (code, killed) == (75, -signal.SIGKILL), said
    assert "error: process 1 of 2 has given no sign of life for 2 seconds; its own output says why" in said


@pytest.mark.parametrize(("last", "expected"), [("0", 0), pytest.param("sys.exit(85)", 85, marks=pytest.mark.long)])
def test_all_wait_at_the_end_for_as_long_as_one_still_works(last, expected):
    """Longer than jax would; and also where all were told to end."""
    for code, said in members(MET + "time.sleep(4); " + last, MET + last):
        assert code == expected, said


@pytest.mark.long
def test_what_fails_at_the_end_is_told_to_those_who_wait():
    for code, said in members(MET + "time.sleep(4); raise team.UserError('the disk is full')", MET):
        assert code == 2 and "the disk is full" in said and "Traceback" not in said


def test_a_coordinators_port_that_is_taken_is_a_mistake():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = "{}:{}".format(*taken.getsockname())
        done = subprocess.run(
            [sys.executable, "-c", MEMBER, place, "0", ""], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 2 and done.stderr == (
        f"error: --coordinator={place}: process 0 cannot listen at port {place[10:]}: Address already in use; "
        "give all processes another one, or end the program that has it\n"
    )
