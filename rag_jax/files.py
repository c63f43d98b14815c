"""Files that are whole or absent: atomic writes, checksums, folder manifests that say what belongs to a
folder.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rag_jax.errors import fail

MANIFEST = "manifest.json"
VERSION = 1


def temporary_beside(path: str | Path) -> Path:
    """A fresh name in the folder of `path`, so that renaming it to `path` stays on one file system."""
    path = Path(path)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: str | Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Writes a file under a temporary name and renames it; a callable is given the temporary path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
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


def inside(folder: str | Path, name: Any, teller: str | Path) -> Path:
    """The path of what the file `teller` names in a folder; UserError for a name that leads out of the folder."""
    plain = isinstance(name, str) and name == "".join(name.splitlines())
    if not plain or ".." in Path(name).parts or Path(name).is_absolute():
        fail(f"{teller}: names the file {name!r}; expected one inside {folder}; restore it, or do not trust it")
    return Path(folder, name)


def stamps(paths: Iterable[Path]) -> list[list]:
    """[path, bytes, nanoseconds of the last change] of each file: whether it is still the same, without reading it."""
    stats = [(path, path.stat()) for path in paths]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def visible_files(folder: Path) -> list[tuple[str, Path]]:
    """(name in the folder, path) of every file in it and in its folders, in the order of names, but for hidden ones."""
    inside = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return [(name, path) for name, path in inside if not any(part.startswith(".") for part in name.split("/"))]


def checksum(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _members(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != MANIFEST and not name.endswith(".tmp"))


def write_manifest(folder: str | Path, manifest: dict[str, Any]) -> None:
    """Writes `manifest` (its "kind" and what else to remember) with each file's size and sha256, and a seal.

    Call it last: its presence says that the folder is whole. Subfolders' files are listed too.
    """
    folder = Path(folder)
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": checksum(folder / name)} for name in _members(folder)
    }
    whole = {"version": VERSION, **manifest, "files": files}
    write_json(folder / MANIFEST, {**whole, "seal": _seal(whole)})


def _seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest itself, so that a damaged one does not pass for another."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


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
    if not isinstance(manifest, dict) or "seal" not in manifest:
        fail(f"{path}: not a manifest of this program; check the path or build the folder again")
    if manifest.get("version") != VERSION:
        fail(f"{path}: version {manifest.get('version')!r}; expected {VERSION}; build the folder again")
    as_written = not verify or path.read_bytes() == _text(manifest).encode()
    if manifest.pop("seal") != _seal(manifest) or not as_written:
        fail(f"{path}: differs from its own checksum; it is damaged; restore it or build the folder again")
    if manifest.get("kind") != kind:
        fail(f"{folder}: holds {manifest.get('kind')!r}; expected {kind!r}; check the path")
    for name, entry in manifest["files"].items():
        _check_file(inside(folder, name, path), entry, verify)
    return manifest


def _check_file(path: Path, entry: dict[str, Any], verify: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        fail(f"{path}: missing, though {MANIFEST} lists it; restore it or build the folder again")
    if size != entry["size"]:
        fail(f"{path}: {size} bytes, expected {entry['size']}; damaged; restore it or build the folder again")
    if verify and checksum(path) != entry["sha256"]:
        fail(f"{path}: differs from its checksum in {MANIFEST}; damaged; restore it or build the folder again")


def replace_folder(temporary: str | Path, final: str | Path) -> None:
    """Flushes a finished folder and renames it to `final`, whose older folder is removed when all is well."""
    temporary, final = Path(temporary), Path(final)
    for member in temporary.rglob("*"):
        _flush(member)
    aside = temporary_beside(final)
    try:
        if final.exists():
            os.replace(final, aside)
        os.replace(temporary, final)
    except BaseException:
        if aside.exists() and not final.exists():
            os.replace(aside, final)
        raise
    _flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for a file that is never written in place; a copy where the file system has none."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def link_folder(source: Path, target: Path) -> None:
    """A folder of such names for all files of another, in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link)


def build_folder(final: str | Path, build: Callable[[Path], None]) -> None:
    """Calls build(folder beside `final`) and renames that to `final`; a failure leaves nothing behind."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(final)
    temporary.mkdir()
    try:
        build(temporary)
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
