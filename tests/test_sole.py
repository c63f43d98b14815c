"""One writer at a time."""

import errno
import os
import signal

import pytest

from rag_jax import sole
from rag_jax.errors import UserError
from rag_jax.sole import sole_writer

from .runs import holding

HOLDS = """
import sys
from pathlib import Path
from rag_jax.sole import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes tmp_path/new/part until its standard input ends."""
    with holding(HOLDS, tmp_path / "new" / "part") as process:
        yield process


def test_another_is_named_and_in_nobodys_way_once_it_has_ended(holder, tmp_path):
    part = tmp_path / "new" / "part"
    message = rf"part: process {holder.pid} on {os.uname().nodename} is writing it; wait until it has ended"
    with pytest.raises(UserError, match=message), sole_writer(part):
        pass
    with sole_writer(part.with_name("other")):
        pass
    with sole_writer(part, first=False):
        pass
    holder.communicate("")
    assert not (tmp_path / "new").exists()
    with sole_writer(part):
        assert part.with_name(".part.owner").read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    assert not (tmp_path / "new").exists()


def test_a_killed_one_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with sole_writer(tmp_path / "new" / "part"):
        (tmp_path / "new" / "part").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["part"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_left_as_it_was(number, tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sole.fcntl, "lockf", refuses)
    for cache, mend in (("cache", "name"), ("new", "set RAG_JAX_CACHE to")):
        monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / cache))
        message = rf"part: cannot be locked \({os.strerror(number)}\); {mend} a folder on a file system with locks$"
        with pytest.raises(UserError, match=message), sole_writer(tmp_path / "new" / "gs" / "part"):
            pass
    assert not list(tmp_path.iterdir())
    (tmp_path / ".part.owner").write_text("another, from before the locks ran out")
    with pytest.raises(UserError, match="cannot be locked"), sole_writer(tmp_path / "part"):
        pass
    assert (tmp_path / ".part.owner").exists()
