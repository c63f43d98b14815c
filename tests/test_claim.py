"""One machine at a time writes a part of a store."""

import json
import os
import signal
from threading import Event, Thread

import pytest

from rag_jax import claim
from rag_jax.claim import claimed
from rag_jax.errors import UserError
from rag_jax.remote import Remote
from rag_jax.sole import sole_writer
from rag_jax.storage import publish, twin

from .runs import holding
from .stores import Flaky

URL, ON_FLAKY = "folder://bucket/run/index", "flaky://bucket/index"
HOLDS = """
import os, signal, sys
import tests.stores
from rag_jax import claim
is_ours, looks = claim._Claim._is_ours, []

def stopped(held):
    looks.append(held)
    if len(looks) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGSTOP)
    return is_ours(held)

claim._Claim._is_ours = stopped
claim.BEAT, claim.SILENCE, claim.POLL = 0.1, 2, 0.1
with claim.claimed(sys.argv[1], "process 7 on another"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def short_times(monkeypatch, tmp_path):
    for name, seconds in {"BEAT": 0.1, "SILENCE": 2, "POLL": 0.1}.items():
        monkeypatch.setattr(claim, name, seconds)
    monkeypatch.setattr("rag_jax.remote.PAUSES", (0, 0))
    monkeypatch.setenv("FOLDER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def on_flaky(monkeypatch):
    Flaky.fill({})
    yield lambda **hooks: [monkeypatch.setattr(Flaky, name, staticmethod(hook)) for name, hook in hooks.items()]
    Flaky.fill({})


@pytest.fixture
def holder(request):
    """Another process that has claimed URL until its standard input ends, or is stopped before a renewal."""
    with holding(HOLDS, URL, getattr(request, "param", 0)) as process:
        yield process


def test_who_renews_it_is_named_and_in_nobodys_way_once_they_have_ended(holder, tmp_path):
    message = f"{URL}: process 7 on another is writing it; wait until it has ended, stop it, or give another place"
    with pytest.raises(UserError, match=message), claimed(URL, "us"):
        pass
    with pytest.raises(UserError, match=message), sole_writer(twin(URL)):
        pass
    with claimed(f"{URL}_2018", "us"):
        pass
    with sole_writer(twin(URL), first=False):
        pass
    holder.communicate("")
    assert holder.returncode == 0 and not any((tmp_path / "store").rglob("*.owner.*"))
    with claimed(URL, "us"):
        assert json.loads((tmp_path / "store/bucket/run/index.owner.json").read_text())["owner"] == "us"
    assert not any((tmp_path / "store").rglob("*.owner.*"))


def test_what_a_killed_one_leaves_behind_is_taken_over(holder, capsys):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed(URL, "us"):
        pass
    said = f"{URL}: process 7 on another has claimed it; waiting 2 seconds for a sign of life\n"
    assert capsys.readouterr().err == said


def test_of_two_who_waited_for_a_dead_one_a_single_one_has_it(monkeypatch):
    """The slower one removes what it takes for the dead one's claim: the faster one's, who has made it meanwhile."""
    claim._Claim(Remote(URL), "a dead one").take()
    lasts, slower, leaving = claim._Claim._lasts, claim._Claim(Remote(URL), "the slower one"), Event()
    alive = Thread(target=slower.live, args=(leaving,))

    def taken_over(faster):
        monkeypatch.setattr(claim._Claim, "_lasts", lasts)
        Remote(URL).remove(claim.OWNER)
        slower.take()
        alive.start()
        return lasts(faster)

    monkeypatch.setattr(claim._Claim, "_lasts", taken_over)
    with pytest.raises(UserError, match="the slower one is writing it"), claimed(URL, "the faster one"):
        pass
    leaving.set()
    alive.join()


@pytest.mark.parametrize("holder", [3], indirect=True)
def test_who_was_silent_for_too_long_ends_when_another_has_it(holder):
    os.waitpid(holder.pid, os.WUNTRACED)
    with claimed(URL, "us"):
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(60) == 75
        assert holder.stderr.read() == (
            f"error: {URL}: us has taken it over, as this process gave no sign of life for 2 seconds; "
            "wait until that one has ended\n"
        )


def test_it_is_renewed_through_failures_and_a_lost_answer_is_no_other_owner(on_flaky):
    answers, renewed = iter([None, OSError("the answer is lost")]), Event()

    def fails(operation, path):
        if operation == "pipe_file" and (error := next(answers, None)):
            raise error

    def told(operation, path):
        if operation == "pipe_file" and Flaky.objects()[path] == b"4":
            renewed.set()

    on_flaky(after=fails)
    with claimed(ON_FLAKY, "us"):
        assert json.loads(Flaky.objects()["/bucket/index.owner.json"])["owner"] == "us"
        answers = iter([OSError("unreachable")] * 5)
        on_flaky(before=fails, after=told)
        assert renewed.wait(60)
    assert not Flaky.objects()


def test_a_claim_is_gone_while_one_waits_and_another_is_damaged(on_flaky):
    Remote(ON_FLAKY).write(".owner.json", b"no json")
    with claimed(ON_FLAKY, "us"):
        assert b'"owner": "us"' in Flaky.objects()["/bucket/index.owner.json"]
    Remote(ON_FLAKY).write(".owner.json", b"{}")
    looks = []

    def ends(operation, path):
        looks.append(operation)
        if operation == "cat_file" and looks.count(operation) == 5:
            Flaky.store.pop("/bucket/index.owner.json")

    on_flaky(before=ends)
    with claimed(ON_FLAKY, "us"):
        pass


def test_what_the_last_owner_published_is_here(tmp_path, monkeypatch):
    part = twin(URL)
    part.parent.mkdir(parents=True)
    part.write_text("first")
    publish(part)
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "another"))
    elsewhere = twin(URL)
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text("second")
    publish(elsewhere)
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "cache"))
    with sole_writer(part):
        assert part.read_text() == "second"
