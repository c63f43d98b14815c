"""One writer at a time: a lock beside what is written, which says whose it is; in a store, a claim (claim.py)."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from rag_jax.claim import claimed
from rag_jax.errors import fail
from rag_jax.files import writing
from rag_jax.storage import address, pull


@contextmanager
def sole_writer(path: Path, first: bool = True) -> Iterator[None]:
    """Nobody else writes this file or folder until the block ends; a process that dies leaves no lock behind.

    first: of several processes that write together, one holds the lock. A url's twin is brought up to date: its last
    writer may have ended a moment ago. Raises UserError naming the host and the process that is writing it.
    """
    if not first:
        yield
        return
    if not path.name:
        fail(f"{path}: expected a folder with a name, such as ./index")
    lock = path.with_name(f".{path.name}.owner")
    url, owner = address(path), f"process {os.getpid()} on {socket.gethostname()}"
    made = [folder for folder in lock.parents if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(path, lock) as stream:
            try:
                with writing(lock):
                    stream.truncate(0)
                    os.write(stream.fileno(), owner.encode())
                with claimed(url, owner) if url else nullcontext():
                    pull(path)
                    yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _locked(path: Path, lock: Path) -> TextIO:
    """The lock's file, locked. It is a record lock: no forked child inherits it, and NFS knows it."""
    while True:
        stream = lock.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            stream.seek(0)
            owner = stream.read() or "another process"
            stream.close()
            fail(f"{path}: {owner} is writing it; wait until it has ended, stop it, or give another place")
        except OSError as error:  # NFS and Lustre may be mounted without locks
            stream.close()
            with suppress(FileNotFoundError):
                if not lock.stat().st_size:  # else it is another's: locks may have run out
                    lock.unlink()
            give = "set RAG_JAX_CACHE to" if address(path) else "name"
            fail(f"{path}: cannot be locked ({error.strerror}); {give} a folder on a file system with locks")
        # Between opening and locking the owner may have ended, and its file with it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                return stream
        stream.close()
