"""Twins: what lies at a url has its twin in a local cache, and everything else works on the twin's path.

    gs://bucket/runs/demo/index                 a remote part, a file or a folder; see remote.py
    CACHE/gs/bucket/runs/demo/index             its twin; CACHE is $RAG_JAX_CACHE, or ~/.cache/rag_jax
    CACHE/gs/bucket/runs/demo/.index.twin.json  the twin's record: what it was in step with, and what is unpublished

A path below CACHE stands for its url: pull(path) before it is read, publish(path) when it is whole. For any other path
both do nothing, so that whoever reads and writes parts need not know where they live.
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from rag_jax.errors import UserError, fail
from rag_jax.files import checksum, read_sealed, stamps, visible_files, write_sealed
from rag_jax.progress import tell, waiting
from rag_jax.remote import EVENTS, Files, Listing, Remote, together

LARGE = 1 << 28  # bytes; who waits for more is told
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE)


def twin(name: str | Path) -> Path:
    """Where a url's twin is or will be; of any other name, its path. Touches nothing."""
    if not is_remote(name):
        return _possible(Path(str(name).removeprefix("file://")))
    scheme, _, rest = str(name).partition("://")
    parts = [part for part in rest.split("/") if part]
    if not parts or {".", ".."} & set(parts) or re.search(r"[?*\[\]]|::", rest):
        fail(f"{name}: not the address of one file or folder; expected one such as gs://bucket/runs/demo")
    return _cache() / scheme / "/".join(parts)


def _possible(path: Path) -> Path:
    """The path; UserError for a name that no file can have."""
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        if getattr(error, "errno", errno.ENAMETOOLONG) == errno.ENAMETOOLONG:
            said = getattr(error, "strerror", error)
            fail(f"{str(path)[:80]!r}: no file can have this name ({said}); check the path")
    return path


def is_remote(name: str | Path) -> bool:
    """Whether a name is a url of another machine."""
    return (found := _URL.fullmatch(str(name))) is not None and found[1] != "file"


def local(name: str | Path) -> Path:
    """The path of a file or folder: of a url's, its twin, brought up to date; UserError where nothing is there."""
    path = pull(twin(name))
    if (url := address(path)) and not _stamps(path):  # a folder of locks alone may be there
        fail(f"{url}: found no file, no folder and no finished upload there; check the address")
    return path


def address(path: Path) -> str | None:
    """The url whose twin a path is; None of a path outside the cache."""
    try:
        scheme, *rest = path.absolute().relative_to(_cache()).parts
    except ValueError:
        return None
    return f"{scheme}://{'/'.join(rest)}" if rest else None


def shown(path: Path) -> str:
    """What to call a path when speaking to people: the url of a twin."""
    return address(path) or str(path)


def pull(path: Path) -> Path:
    """Brings a twin in step with its remote part and returns its path.

    Only what differs is fetched, and is compared with its size and SHA-256; a file of the twin is read again where its
    size or time has changed. What was made here and could not be published stays, as long as the remote part is the
    one that it was made from; and so does what was never published. Processes wait for each other.

    Raises UserError naming the address: no permission, a package that is missing, a store that keeps failing, a file
    that keeps differing from what is said of it, a full disk.
    """
    if (url := address(path)) is None:
        return path
    with _locked(path):
        remote = Remote(url)
        listing = remote.listing()
        while True:
            try:
                _mirror(remote, listing, path)
                return path
            except _DiffersError as error:
                before, listing = listing, remote.listing()
                if listing == before:  # nobody has published meanwhile
                    fail(str(error))


def publish(*paths: Path) -> None:
    """Makes twins that are whole the remote parts, one after the other; of several processes, the first does.

    Errors as pull; what is here stays whole, and the next call goes on.
    """
    ours = [(path, url) for path in paths if (url := address(path))]
    if not ours or not _is_first():
        return
    for path, _ in ours:  # all before the first is sent: from here on a kill costs none of them
        with _locked(path):
            record, found = _Record.of(path), _stamps(path)
            if found and found != record.stamps():
                record._replace(unpublished=True).write(path)
    for path, url in ours:
        with _locked(path), waiting(f"{url}: being published"):
            record, found = _Record.of(path), _stamps(path)
            if record.unpublished and found:
                files = _described(path, found, record)
                seal = Remote(url).send(path, files)
                _Record(seal, False, {name: {**files[name], "stamp": found[name]} for name in found}).write(path)


def keep(path: Path) -> None:
    """What a twin is from now on was made here: until it is published, no pull puts the remote part back in its place.

    For what is put there whole; said before, so that a kill between that and the publication costs nothing.
    """
    if address(path):
        with _locked(path):
            _Record.of(path)._replace(unpublished=True).write(path)


def _mirror(remote: Remote, listing: Listing | None, path: Path) -> None:
    record = _Record.of(path)
    if listing is None:
        if record.part and not record.unpublished:  # it was removed there
            _remove(path)
        return
    if record.unpublished and record.part == listing.seal:
        return
    wanted = [name for name, entry in listing.files.items() if not record.vouches(path, name, entry)]
    if (size := sum(listing.files[name]["size"] or 0 for name in wanted)) >= LARGE:
        tell(f"{remote.url}: fetching {len(wanted):,} files, {size / 1e9:.1f} GB")
    with waiting(f"{remote.url}: being fetched"):
        together(partial(_fetch, remote, listing, path), wanted)
    if record.part != listing.seal:
        if record.unpublished and wanted:
            tell(f"{remote.url}: published elsewhere since; what was made here and not published is gone")
        _remove_others(path, listing.files)
    unpublished = record.unpublished and not wanted  # killed behind the marker: the next publication tidies up
    _Record(listing.seal, unpublished, _stamped(path, listing.files)).write(path)


class _DiffersError(Exception):
    """What was read is not what was listed: it is damaged, or another version was published meanwhile."""


def _fetch(remote: Remote, listing: Listing, path: Path, name: str) -> None:
    """One file, under another name until it is known to be what the listing says."""
    target, place, found = path / name, listing.place(name), "missing"
    incoming = _beside(target, "incoming")  # always the same: one that was killed leaves no other
    for _ in range(2):
        try:
            remote.get(place, incoming)
        except FileNotFoundError:
            break
        if _matches(incoming, listing.files[name]):
            os.replace(incoming, target)
            return
        found = "damaged, it differs from its size or SHA-256"
    incoming.unlink(missing_ok=True)
    raise _DiffersError(f"{remote.url}{place}: {found}; publish it again, or delete it there and build it anew")


class _Record(NamedTuple):
    """What is known of a twin.

    part: the seal of the remote one when both were last in step; None before. unpublished: the twin may have changed
    since, on purpose. files: as they were in step, each with the size and time of the twin's own as its stamp.
    """

    part: str | None
    unpublished: bool
    files: Files

    @classmethod
    def of(cls, path: Path) -> "_Record":
        """The record of a twin, that of a new one where there is none; UserError where it is damaged."""
        kept = _beside(path, "twin.json")
        try:
            return cls(**read_sealed(kept)) if kept.is_file() else cls(None, False, {})
        except (TypeError, UserError) as error:
            fail(f"{kept}: damaged ({error}); delete it, and {path} is taken from {address(path)} where they differ")

    def write(self, path: Path) -> None:
        """Keeps it beside the twin."""
        write_sealed(_beside(path, "twin.json"), self._asdict())

    def stamps(self) -> dict[str, list[int]]:
        """Of the files in step."""
        return {name: entry["stamp"] for name, entry in self.files.items()}

    def vouches(self, path: Path, name: str, entry: dict[str, Any]) -> bool:
        """Whether the twin's file is the one of a listing: it has not changed since, or its content agrees."""
        file, known = path / name, dict(self.files.get(name, ()))
        if not file.is_file():
            return False
        if known.pop("stamp", None) == _stamp(file) and known == entry:
            return True
        return "sha256" in entry and _matches(file, entry)


def _matches(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file has the size and the SHA-256 that are known of it."""
    if entry["size"] not in (None, path.stat().st_size):
        return False
    return "sha256" not in entry or checksum(path) == entry["sha256"]


def _described(path: Path, found: dict[str, list[int]], record: _Record) -> Files:
    """Each file's size and SHA-256, which is computed where the file is not the one of the record."""

    def sha256(name: str) -> str:
        known = record.files.get(name, {})
        same = known.get("stamp") == found[name] and "sha256" in known
        return known["sha256"] if same else checksum(path / name)

    sums = together(sha256, found)
    return {name: {"size": found[name][0], "sha256": found_sum} for name, found_sum in zip(found, sums, strict=True)}


def _stamped(path: Path, files: Files) -> Files:
    return {name: {**entry, "stamp": _stamp(path / name)} for name, entry in files.items()}


def _stamps(path: Path) -> dict[str, list[int]]:
    """Size and time of each of a part's files, but for hidden and growing ones."""
    if path.is_file():
        return {"": _stamp(path)}
    inside = visible_files(path, links=False) if path.is_dir() else []
    return {name: _stamp(file) for name, file in inside if EVENTS not in name.split("/")}


def _stamp(path: Path) -> list[int]:
    return stamps([path])[0][1:]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    _beside(path, "twin.json").unlink(missing_ok=True)


def _remove_others(path: Path, files: Files) -> None:
    """Removes what does not belong to a part, and folders left empty."""
    for name in set(_stamps(path)) - set(files):
        (path / name).unlink()
    for folder in sorted(path.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time works on a twin."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _beside(path, "lock").open("w")
    except OSError as error:
        fail(f"{path.parent}: cannot be written ({error.strerror}); set RAG_JAX_CACHE to a folder of yours")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # NFS and Lustre may be mounted without locks
            fail(
                f"{path.parent}: cannot be locked ({error.strerror}); set RAG_JAX_CACHE to a folder on a file system "
                "with locks"
            )
        yield


def _cache() -> Path:
    return _folder(os.environ.get("RAG_JAX_CACHE") or "~/.cache/rag_jax")


@cache
def _folder(name: str) -> Path:
    return Path(name).expanduser().resolve()


def _is_first() -> bool:
    import jax

    return jax.process_index() == 0
