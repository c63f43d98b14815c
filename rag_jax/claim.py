"""One machine at a time writes a part of a store: beside it lies a claim, and a sign of life that its owner renews.

    gs://bucket/runs/demo/index.owner.json      whose it is; made where there is none, and never changed
    gs://bucket/runs/demo/index.owner.ID        grows while that owner lives

A store knows no locks, but it makes an object only if there is none. Where the sign of life stands still, its owner was
killed, and the claim is taken over. No clocks are compared: whoever comes looks twice.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from rag_jax.errors import LOST, UserError, fail
from rag_jax.progress import tell
from rag_jax.remote import Remote

OWNER, LIFE = ".owner.json", ".owner."
BEAT, SILENCE, POLL = 20, 70, 2  # seconds: between signs of life; without one for so long, the owner counts as dead


@contextmanager
def claimed(url: str, owner: str) -> Iterator[None]:
    """Nobody else writes the part until the block ends.

    Waits SILENCE seconds where a claim was left behind. Raises UserError naming the owner where there is one who lives.
    Where another has taken it over meanwhile, as after a long pause of this machine, this process ends with code LOST.
    """
    claim, leaving = _Claim(Remote(url), owner), Event()
    claim.take()
    thread = Thread(target=claim.live, args=(leaving,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()
        with suppress(UserError):  # the store is gone: whoever comes next will wait
            claim.give_back()


class _Claim:
    def __init__(self, remote: Remote, owner: str):
        self._remote, self._id = remote, uuid.uuid4().hex
        self._content = (json.dumps({"owner": owner, "id": self._id}) + "\n").encode()

    def take(self) -> None:
        try:
            self._remote.write(LIFE + self._id, b"0")
        except FileNotFoundError as error:
            fail(f"{self._remote.url}: cannot be written ({error}); is there such a bucket?")
        try:
            waited = False
            while not self._made() or (waited and not self._lasts()):
                self._wait()
                waited = True
        except BaseException:
            with suppress(UserError):  # what went wrong first is told
                self.give_back()
            raise

    def live(self, leaving: Event) -> None:
        """Gives signs of life; ends this process once the claim is another's."""
        beat = 0
        while not leaving.wait(BEAT):
            with suppress(UserError):  # what cannot be reached now is tried again
                self._remote.write(LIFE + self._id, str(beat := beat + 1).encode())
                if not self._is_ours():
                    self._remote.remove(LIFE + self._id)
                    owner, _ = _told(self._remote.read(OWNER))
                    tell(
                        f"error: {self._remote.url}: {owner} has taken it over, as this process gave no sign of life "
                        f"for {SILENCE} seconds; wait until that one has ended"
                    )
                    os._exit(LOST)

    def give_back(self) -> None:
        if self._is_ours():
            self._remote.remove(OWNER)
        self._remote.remove(LIFE + self._id)

    def _made(self) -> bool:
        try:
            self._remote.write(OWNER, self._content, new=True)
        except FileExistsError:
            return self._is_ours()  # the answer to an earlier try was lost
        return True

    def _lasts(self) -> bool:
        """Of several who waited for the same owner, the last to remove its claim may have removed another's."""
        time.sleep(POLL)
        return self._is_ours()

    def _is_ours(self) -> bool:
        return self._remote.read(OWNER) == self._content

    def _wait(self) -> None:
        """Returns where the claim is free, another's than before, or left behind and removed."""
        remote, claim = self._remote, self._remote.read(OWNER)
        if claim is None:
            return
        owner, life = _told(claim)
        before = remote.read(life)
        tell(f"{remote.url}: {owner} has claimed it; waiting {SILENCE} seconds for a sign of life")
        until = time.monotonic() + SILENCE
        while time.monotonic() < until:
            time.sleep(POLL)
            if remote.read(OWNER) != claim:
                return
            if remote.read(life) != before:
                fail(f"{remote.url}: {owner} is writing it; wait until it has ended, stop it, or give another place")
        if remote.read(OWNER) == claim:
            remote.remove(OWNER)
        remote.remove(life)


def _told(claim: bytes | None) -> tuple[str, str]:
    """The owner that a claim names, and where its sign of life is."""
    try:
        told = dict(json.loads(claim or b"{}"))
    except (TypeError, ValueError):
        told = {}
    return str(told.get("owner", "another process")), f"{LIFE}{told.get('id', 'unknown')}"
