"""A part of a run, or any file or folder, in a store at gs://, s3:// or another url; owns fsspec.

    gs://bucket/runs/demo/index                 the part
    gs://bucket/runs/demo/index.complete.json   its marker: every file with size and SHA-256; written last
    gs://bucket/runs/demo/index.rag_jax_new     files on their way to a part that is in use

A part is what its marker says, whatever else lies there. No object that the marker in force names is ever overwritten:
a new version of a file is uploaded beside it, the marker is replaced by one that names the new one, and only then is it
copied into the old one's place and are others removed. So a reader finds the old part or the new one, and a publisher
that was killed has spoilt nothing. A part without a marker was put there by other means and is taken as it lies; one
whose first upload has not ended has a marker that names nothing. One machine at a time may publish a part (claim.py),
and a store must replace an object whole or not at all, as gs, s3 and az do.
"""

import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import fsspec

from rag_jax.errors import PassingError, fail
from rag_jax.files import MANIFEST, check_names

MARKER, NEW, VERSION = ".complete.json", ".rag_jax_new", 1  # NEW: no part of a user's has such a name
EVENTS = "events"  # TensorBoard's folder, which grows while it is read: nobody's part
PAUSES = (1, 2, 4, 8, 16)  # seconds before another try
STREAMS = 8  # files at a time
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # prints a traceback of every error that is told here

Files = dict[str, dict[str, Any]]  # name in the part, '' of a part that is one file -> what is known of it


class Listing(NamedTuple):
    """What belongs to a part; of the files `moved`, the one in use lies in the part's NEW."""

    files: Files
    moved: list[str]

    @property
    def seal(self) -> str:
        """SHA-256 over the files: one of a kind for a version of a part."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()

    def place(self, name: str) -> str:
        """The end of the address of a file."""
        return (NEW if name in self.moved else "") + (f"/{name}" if name else "")


NOTHING, UNREADABLE = Listing({}, []), Listing({}, [])  # the second stands for a marker that is damaged


class Remote:
    """A part in a store; every operation is tried again where that may help."""

    def __init__(self, url: str):
        self.url = url
        try:
            self._store, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            mend = "pip install 'rag_jax[gcs]'" if url.startswith(("gs:", "gcs:")) else "install that"
            fail(f"{url}: needs a package that is not here ({error}); {mend}")
        except ValueError as error:
            fail(f"{url}: no such kind of place ({error}); expected one such as gs://bucket/runs/demo")

    def listing(self) -> Listing | None:
        """What the part consists of; None where nothing is, or nothing that is finished."""
        marker = self._marker()
        if marker is UNREADABLE:
            fail(f"{self.url}{MARKER}: damaged; publish {self.url} again, or delete the marker to take what lies there")
        if marker is not None:
            check_names(f"{self.url}{MARKER}", (*marker.files, *marker.moved))
            return marker if marker.files else None
        found = self._list("")
        return Listing(self._vouched(found), []) if found else None

    def get(self, place: str, path: Path) -> None:
        """Downloads one file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tried(lambda: self._store.get_file(self._root + place, str(path)), place)

    def read(self, place: str) -> bytes | None:
        """A small object; None where there is none."""
        try:
            return self._tried(lambda: self._store.cat_file(self._root + place), place)
        except FileNotFoundError:
            return None

    def write(self, place: str, content: bytes, *, new: bool = False) -> None:
        """Writes a small object; where it has to be `new`, FileExistsError if there is one."""

        def write() -> None:
            self._store.pipe_file(self._root + place, content, mode="create" if new else "overwrite")
            self._check_size(place, len(content))

        self._tried(write, place)

    def remove(self, place: str) -> None:
        """Removes an object."""
        with suppress(FileNotFoundError):  # an earlier try has removed it
            self._tried(lambda: self._store.rm_file(self._root + place), place)

    def send(self, path: Path, files: Files) -> str:
        """Makes the files at `path`, with size and SHA-256, the part: the marker comes last; returns its seal."""
        try:
            return self._sent(path, files)
        except FileNotFoundError as error:
            fail(f"{self.url}: cannot be written ({error}); is there such a bucket?")

    def _sent(self, path: Path, files: Files) -> str:
        held = self._marker()
        if held is UNREADABLE:
            held = NOTHING
        if held is None:
            held = self.listing() or NOTHING
            if not held.files:
                self._mark(held)  # what will lie there is no part before it is whole
        if held.moved:
            self._settle(held)
        differing = [name for name, entry in files.items() if not entry.items() <= held.files.get(name, {}).items()]
        whole = Listing(files, [name for name in differing if name in held.files])
        for last in (False, True):
            # A manifest says of others beside it that they are whole.
            names = [name for name in differing if (Path(name).name == MANIFEST) == last]
            together(lambda name: self._put(path / name, whole.place(name), files[name]["size"]), names)
        if files != held.files:
            self._mark(whole)
        self._settle(whole)
        return whole.seal

    def _settle(self, listing: Listing) -> None:
        """Gives moved files their own names, and removes what the listing does not name."""
        if listing.moved:
            together(partial(self._copy, listing), listing.moved)
            self._mark(Listing(listing.files, []))
        found = (name for name in self._list("") if name and EVENTS not in name.split("/"))
        others = [f"/{name}" for name in found if name not in listing.files]
        others += [NEW + (f"/{name}" if name else "") for name in self._list(NEW)]
        together(self.remove, others)

    def _marker(self) -> Listing | None:
        """The marker, which may name nothing; None without one, UNREADABLE where it is damaged."""
        try:
            if (content := self.read(MARKER)) is None:
                return None
            told = json.loads(content)
            listing = Listing(dict(told["files"]), list(told["moved"]))
            return listing if told["version"] == VERSION and told["seal"] == listing.seal else UNREADABLE
        except (AttributeError, KeyError, TypeError, ValueError):
            return UNREADABLE

    def _mark(self, listing: Listing) -> None:
        told = {"version": VERSION, **listing._asdict(), "seal": listing.seal}
        self.write(MARKER, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())

    def _put(self, path: Path, place: str, size: int) -> None:
        def write() -> None:
            self._store.put_file(str(path), self._root + place)
            self._check_size(place, size)

        self._tried(write, place)

    def _copy(self, listing: Listing, name: str) -> None:
        before, after = listing.place(name), Listing(listing.files, []).place(name)

        def write() -> None:
            self._store.cp_file(self._root + before, self._root + after)
            self._check_size(after, listing.files[name]["size"])

        self._tried(write, after)

    def _check_size(self, place: str, expected: int) -> None:
        found = self._store.info(self._root + place)["size"]
        if found != expected:
            raise OSError(f"{found} bytes arrived, expected {expected}")

    def _list(self, place: str) -> Files:
        """All objects of a file or folder, by name; nothing where nothing is."""
        root = self._root + place

        def find() -> dict[str, dict[str, Any]]:
            found = self._store.info(root)
            return {root: found} if found["type"] == "file" else self._store.find(root, detail=True)

        try:
            found = self._tried(find, place)
        except FileNotFoundError:
            return {}
        files = {
            name.removeprefix(root).removeprefix("/"): {"size": info["size"], "told": repr(sorted(info.items()))}
            for name, info in found.items()
            if not name.endswith("/")
        }
        check_names(self.url + place, files)
        return files

    def _vouched(self, files: Files) -> Files:
        """Files that were put there by other means, with the SHA-256 that manifests among them tell."""
        for name in [name for name in files if Path(name).name == MANIFEST]:
            place = f"/{name}"
            content = self._tried(partial(self._store.cat_file, self._root + place), place)
            files[name]["sha256"] = hashlib.sha256(content).hexdigest()
            try:
                for other, entry in json.loads(content)["files"].items():
                    inside = (Path(name).parent / other).as_posix()
                    if inside in files:
                        files[inside]["sha256"] = str(entry["sha256"])
            except (AttributeError, KeyError, TypeError, ValueError):
                continue  # a file of that name that is something else
        return files

    def _tried(self, action: Callable[[], Any], place: str) -> Any:
        """What the action returns, after as many tries as there are pauses; whether a file is there is an answer."""
        address = self.url + place
        for pause in (*PAUSES, None):
            try:
                return action()
            except (FileExistsError, FileNotFoundError):
                raise
            except Exception as error:  # stores and their network libraries raise whatever they like
                said = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    fail(f"{address}: the disk here is full ({said}); free some space, or set RAG_JAX_CACHE elsewhere")
                if isinstance(error, PermissionError) or said.startswith("Forbidden"):
                    fail(f"{address}: no permission ({said}); check who you are logged in as, and the bucket's rules")
                if pause is None:
                    failed = f"{address}: failed {len(PAUSES) + 1} times ({said}); try again later"
                    raise PassingError(failed) from error
            time.sleep(pause)


def together(action: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
    """What the action returns for each name, several at a time; after a failure no other is begun."""
    failed = Event()

    def unless_failed(name: str) -> Any:
        if failed.is_set():
            return None
        try:
            return action(name)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(unless_failed, names))
