"""Files that are whole or absent: atomic writes, checksums, folder manifests that say what belongs to a
folder.

What is read again says itself whether it is damaged: a JSON object by its seal, a line of JSON by its CRC, a file of a
folder by the manifest. All are named by the UserError that tells of it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag_jax.errors import REFUSALS, UserError, fail
from rag_jax.progress import Progress

MANIFEST = "manifest.json"
VERSION = 1
SEAL = "seal"
LOST = "lost+found"  # at the root of a disk, for nobody to read
FULL = 1 << 16  # bytes left on a disk that is as good as full
MEGABYTE = 1_000_000


def temporary_beside(path: str | Path) -> Path:
    """A fresh name in the folder of `path`, so that renaming it to `path` stays on one file system."""
    path = Path(path)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def flush(path: Path) -> None:
    """Returns when a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """What the disk refuses in here is an OSError that names `path`, whatever a library makes of it.

    temporary: the name under which it is written. An OSError that names another file stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        other = getattr(error, "filename", None)
        number = _refusal(error, path.parent)
        if number is None or (other and str(temporary or path) not in str(other)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _refusal(error: Exception, folder: Path) -> int | None:
    """Which of REFUSALS an error tells of: by its number, by its words, or, as numpy's, by a full disk alone."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return error.errno
    if told := [number for number in REFUSALS if os.strerror(number) in str(error)]:
        return told[0]
    return errno.ENOSPC if folder.is_dir() and shutil.disk_usage(folder).free < FULL else None


def write_atomically(path: str | Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Writes a file under a temporary name and renames it; a callable is given the temporary path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with writing(path, temporary):
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file atomically, keys in the given order."""
    write_atomically(path, _text(value))


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; a missing or damaged one is a UserError that names the line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{path}: cannot be read ({error.strerror}); expected a JSON file; check the path")
    except UnicodeDecodeError as error:
        fail(f"{path}: byte {error.start} is not UTF-8; expected a JSON file; restore it or build it again")
    except json.JSONDecodeError as error:
        fail(f"{path}:{error.lineno}: not JSON ({error.msg}); damaged; restore it or build it again")
    except (RecursionError, ValueError) as error:  # brackets in brackets, thousands of digits; a NUL byte in the path
        fail(f"{path}: not JSON ({error}); expected a JSON file; restore it or build it again")


def read_object(path: str | Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object; errors as read_json."""
    value = read_json(path)
    if not isinstance(value, dict):
        fail(f"{path}: found {type(value).__name__}, expected a JSON object; check the path")
    return value


def write_sealed(path: str | Path, value: dict[str, Any]) -> None:
    """Writes a JSON object as write_json, with the SHA-256 of what it says as its last key."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: str | Path) -> dict[str, Any]:
    """Reads an object that write_sealed wrote, without its seal; UserError where it says something else by now.

    One that has no seal is taken as it is: a person has edited it, or an earlier version of this program wrote it.
    """
    value = read_object(path)
    last = str(next(reversed(value.values()), ""))
    seal = value.pop(SEAL, None)
    if seal != _seal(value) and (seal is not None or re.fullmatch("[0-9a-f]{64}", last)):
        fail(
            f"{path}: differs from its own checksum: damaged, or edited; restore it, or, if it was edited on purpose, "
            f'delete its last entry, "{SEAL}"'
        )
    return value


def _seal(value: dict[str, Any]) -> str:
    """SHA-256 of an object itself, so that a damaged one does not pass for another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed_line(record: dict[str, Any]) -> str:
    """A record as a line of JSON, with the CRC-32 of what it says as its last key."""
    return _with_crc(json.dumps(record, ensure_ascii=False).encode()).decode()


def read_sealed_line(line: bytes) -> dict[str, Any] | None:
    """The record of such a line, without its CRC; None for a line that is damaged or not finished."""
    text = line.rpartition(_CRC)[0] + b"}"
    return json.loads(text) if line == _with_crc(text) else None


def _with_crc(text: bytes) -> bytes:
    return text[:-1] + _CRC + b'%08x"}\n' % zlib.crc32(text)


_CRC = b', "crc": "'


def inside(folder: str | Path, name: Any, teller: str | Path) -> Path:
    """The path of what the file `teller` names in a folder; UserError for a name that leads out of the folder."""
    plain = isinstance(name, str) and name == "".join(name.splitlines())
    if not plain or ".." in Path(name).parts or Path(name).is_absolute():
        fail(f"{teller}: names the file {name!r}, expected one inside its folder; nothing was read or written")
    return Path(folder, name)


def stamps(paths: Iterable[Path]) -> list[list]:
    """[path, bytes, nanoseconds of the last change] of each file: whether it is still the same, without reading it."""
    stats = [(path, path.stat()) for path in paths]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def visible_files(folder: Path, *, links: bool = True) -> list[tuple[str, Path]]:
    """(name in the folder, path) of every file in it and in its folders, in the order of names, but for hidden ones.

    links: whether linked folders that lie elsewhere count, as in what a person hands in. UserError for a folder that
    may not be read, since nobody would know that its files are missing.
    """
    return sorted((path.relative_to(folder).as_posix(), path) for path in _visible(folder, links, ()))


def _visible(folder: Path, links: bool, above: tuple[Path, ...]) -> Iterator[Path]:
    """above: the real folders that it lies in, to which a link may lead back; or into the first, as to a part of it."""
    own = folder.resolve()
    if folder.is_symlink() and above:
        within = own.relative_to(above[0]).parts if own.is_relative_to(above[0]) else (".",)
        if own in above or not any(part.startswith(".") for part in within):
            return  # it is read where it lies
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name != LOST]
        files, folders = ([path for path in inside if is_one(path)] for is_one in (Path.is_file, Path.is_dir))
    except PermissionError as error:
        fail(f"{folder}: cannot be read ({error.strerror}); what is in it would be missing; give access, or move it")
    yield from files
    for path in folders:
        if links or not path.is_symlink():
            yield from _visible(path, links, (*above, own))


def checksum(path: str | Path, seen: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file's bytes, as hex; seen hears how many were read."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            seen(len(block))
    return digest.hexdigest()


def _reading(folder: Path, names: Iterable[str]) -> Callable[[int], None]:
    """Hears how many bytes of these files were read; says now and then how long the rest will take."""
    total, done = sum(path.stat().st_size for name in names if (path := folder / name).is_file()), 0
    progress = Progress(folder, lambda: done / max(total, 1), what=f"of {total // MEGABYTE:,} MB read")

    def seen(count: int) -> None:
        nonlocal done
        done += count
        progress.show(done // MEGABYTE)

    return seen


def described(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """{name: its size and sha256} of files in a folder: what check_files compares."""
    names = sorted(names)
    seen, paths = _reading(folder, names), {name: folder / name for name in names}
    return {name: {"size": path.stat().st_size, "sha256": checksum(path, seen)} for name, path in paths.items()}


def check_names(source: str | Path, names: Iterable[Any]) -> None:
    """UserError where `source` names a file that is not inside its folder."""
    for name in names:
        inside("", name, source)


def check_files(folder: Path, files: dict[str, Any], *, listed_in: str = MANIFEST, verify: bool = True) -> None:
    """UserError that names the first file which is missing, has another size or, with `verify`, other bytes.

    And where a name leads out of the folder.
    """
    check_names(folder / listed_in, files)
    seen = _reading(folder, files)
    for name, entry in files.items():
        _check_file(folder / name, entry, listed_in, seen if verify else None)


def _members(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [name for name in names if name != MANIFEST and not name.endswith(".tmp")]


def write_manifest(folder: str | Path, manifest: dict[str, Any]) -> None:
    """Writes `manifest` (its "kind" and what else to remember) with each file's size and sha256, and a seal.

    Call it last: its presence says that the folder is whole. Subfolders' files are listed too.
    """
    folder = Path(folder)
    files = described(folder, _members(folder))
    write_sealed(folder / MANIFEST, {"version": VERSION, **manifest, "files": files})


def read_manifest(folder: str | Path, kind: str, *, verify: bool = False) -> dict[str, Any]:
    """Reads and checks a folder's manifest: version, kind, every file's size and, with `verify`, its sha256.

    Raises UserError when the folder is missing, unfinished, of another kind or version, or when a file
    differs.
    """
    folder, path = Path(folder), Path(folder) / MANIFEST
    if not folder.is_dir():
        fail(f"{folder}: no such folder; expected one that holds {kind}; check the path or build it first")
    if not path.exists():
        fail(f"{path}: missing; the folder is not {kind} or was never finished; build it again")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or SEAL not in manifest:
        fail(f"{path}: not a manifest of this program; check the path or build the folder again")
    if manifest.get("version") != VERSION:
        fail(f"{path}: version {manifest.get('version')!r}; expected {VERSION}; build the folder again")
    as_written = not verify or path.read_bytes() == _text(manifest).encode()
    if manifest.pop(SEAL) != _seal(manifest) or not as_written:
        fail(f"{path}: differs from its own checksum; it is damaged; restore it or build the folder again")
    if manifest.get("kind") != kind:
        fail(f"{folder}: holds {manifest.get('kind')!r}; expected {kind!r}; check the path")
    check_files(folder, manifest["files"], verify=verify)
    return manifest


def check_own(folder: Path, kind: str) -> None:
    """Reads and compares every file that the folder's manifest lists; other people's folders have none."""
    path = folder / MANIFEST
    if path.is_file() and SEAL in read_object(path):
        try:
            read_manifest(folder, kind, verify=True)
        except UserError as error:
            fail(f"{error}; if it was edited on purpose, delete {path}")


def _check_file(path: Path, entry: dict[str, Any], listed_in: str, seen: Callable[[int], None] | None) -> None:
    """Compares its size and, where somebody hears of the bytes, its checksum."""
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        fail(f"{path}: missing, though {listed_in} lists it; restore it or build the folder again")
    if size != entry["size"]:
        fail(f"{path}: {size} bytes, expected {entry['size']}; damaged; restore it or build the folder again")
    if seen and checksum(path, seen) != entry["sha256"]:
        fail(f"{path}: differs from its checksum in {listed_in}; damaged; restore it or build the folder again")
