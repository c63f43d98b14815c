"""Passage vectors that exist already, as a stream: tables, npy files, flat faiss files and DPR's pickles."""

import glob
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_jax.data import dpr_pickle, flat_faiss, tables
from rag_jax.data.lines import BadLine, identity, listed, read_lines
from rag_jax.errors import fail
from rag_jax.files import read_json, stamps, visible_files
from rag_jax.storage import is_remote, local, twin

ID, VECTOR = "id", "embeddings"  # columns, as in wiki_dpr
IDS = (".ids.txt", ".ids.npy", ".ids.json")  # in place of the suffix of an npy or faiss file: its ids
NPY = b"\x93NUMPY"
ROWS = 4096
EXPECTED = (
    ".parquet or .arrow with the columns id and embeddings, .npy, a flat faiss file, DPR's pickles, or a folder of one "
    "of these"
)


class Form(NamedTuple):
    """How a kind of file is read. ids: chunks of them, None where the file has none; vectors: blocks [n, E]."""

    name: str
    ids: Callable[[Path], Iterator[list[str]] | None]
    count: Callable[[Path], int]
    vectors: Callable[[Path], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a source, file after file; nothing is kept in memory but a block, of a pickle the whole file."""

    source: str
    files: tuple[Path, ...]
    form: Form

    def stamps(self) -> list[list]:
        """[path, bytes, nanoseconds of the last change] of each file, and of those with ids beside them."""
        beside = itertools.chain.from_iterable(map(_beside, self.files)) if self.form in (ARRAY, FAISS) else ()
        return stamps([*self.files, *beside])

    def ids(self) -> Iterator[list[str]] | None:
        """The vectors' ids in chunks; None where there are none. UserError where only some files have them."""
        found = [self.form.ids(path) for path in self.files]
        there = [chunks for chunks in found if chunks is not None]
        if not there:
            return None
        for path, chunks in zip(self.files, found, strict=True):
            if chunks is None:
                fail(f"{path}: has no ids, though others of {self.source} have; expected ids for all, or for none")
        return itertools.chain.from_iterable(there)

    def count(self) -> int:
        """How many vectors there are."""
        return sum(self.form.count(path) for path in self.files)

    def vectors(self) -> Iterator[np.ndarray]:
        """Yields blocks [n, E] of fp16, fp32 or fp64, in the order of ids; UserError for any other array."""
        width = 0
        for path in self.files:
            for block in self.form.vectors(path):
                if block.dtype not in (np.float16, np.float32, np.float64):
                    fail(f"{path}: vectors of {block.dtype}; expected float32 or float16; convert them")
                width = width or block.shape[1]
                if not width:
                    fail(f"{path}: vectors without any number; expected some in each")
                if block.shape[1] != width:
                    fail(f"{path}: vectors of width {block.shape[1]}; expected {width}, as before them")
                yield block


def open_embeddings(source: str) -> Embeddings:
    """The vectors of a file, a folder, or a pattern such as 'wikipedia_passages_*.pkl'; reads no vector yet.

    Parquet, Arrow and what `datasets` saved, with the columns id and embeddings (wiki_dpr's); .npy of [N, E], with ids
    beside it (see IDS) or none; flat faiss files, with ids of their own, beside them or none; DPR's pickles. Files
    come in the order of their numbers, tables in the order in which a corpus is read.
    Raises UserError for what is not there, of another kind or of several kinds.
    """
    files = _files(source)
    found = {form.name: form for path in files if (form := _form(path)) is not None}
    if len(found) != 1:
        what = " and ".join(sorted(found)) or "no vectors"
        fail(f"{source}: holds {what}; expected {EXPECTED}")
    (form,) = found.values()
    files = [path for path in files if _form(path) is form]
    if form is not TABLE:
        files = sorted(files, key=_numbers)
    for path in files:
        if form is TABLE and VECTOR not in (names := tables.columns(path)):
            fail(f"{path}: has the columns {listed(names)}; expected {VECTOR!r} among them")
    return Embeddings(source, tuple(files), form)


def _files(source: str) -> list[Path]:
    path = local(source) if is_remote(source) else twin(source)
    if is_remote(source) and path.is_file() and path.suffix not in tables.SUFFIXES:
        fail(f"--embeddings: {source} is one file, whose ids may lie beside it; expected its folder")
    if path.is_file():
        return [path]
    if path.is_dir() and tables.is_dataset(path):
        return tables.dataset_files(path)
    if path.is_dir():
        return [inside for _, inside in visible_files(path)]
    if not (matching := sorted(Path(name) for name in glob.glob(source) if Path(name).is_file())):
        fail(f"--embeddings: found nothing at {source}; expected {EXPECTED}")
    return matching


def _form(path: Path) -> Form | None:
    """By a table's suffix, else by what the file begins with: DPR's own have no suffix. Ids beside a file are none."""
    if path.name.endswith(IDS):
        return None
    if path.suffix in tables.SUFFIXES:
        return TABLE
    with open(path, "rb") as stream:
        begins = stream.read(len(NPY))
    starts = {NPY: ARRAY, dpr_pickle.FIRST_BYTE: PICKLE} | dict.fromkeys(flat_faiss.FIRST_BYTES, FAISS)
    return next((form for start, form in starts.items() if begins.startswith(start)), None)


def _numbers(path: Path) -> list[tuple[int, Any]]:
    """A key that sorts part_2 before part_10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def _table_ids(path: Path) -> Iterator[list[str]] | None:
    return _named(path, tables.column(path, ID)) if ID in tables.columns(path) else None


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # bytes that are no array make it say anything
        fail(f"{path}: cannot be read as an array ({error}); it is cut, damaged or holds Python objects")
    return array


def _matrix(path: Path) -> np.ndarray:
    if (array := _array(path)).ndim != 2:
        fail(f"{path}: an array {list(array.shape)}; expected [N, E], a vector a row")
    return array


def _array_vectors(path: Path) -> Iterator[np.ndarray]:
    array = _matrix(path)
    return (array[start : start + ROWS] for start in range(0, len(array), ROWS))


def _beside(path: Path) -> list[Path]:
    return [place for suffix in IDS if (place := path.with_suffix(suffix)).is_file()]


def _ids_beside(path: Path, count: Callable[[Path], int]) -> Iterator[list[str]] | None:
    """The ids in the file that stands beside another one, as many as that has vectors."""
    beside = _beside(path)
    if len(beside) > 1:
        fail(f"{path}: {' and '.join(place.name for place in beside)} stand beside it; expected one; remove the other")
    return _counted(path, beside[0], count(path)) if beside else None


def _counted(path: Path, beside: Path, expected: int) -> Iterator[list[str]]:
    found = 0
    for chunk in _named(beside, _values(beside)):
        found += len(chunk)
        yield chunk
    if found != expected:
        fail(f"{beside}: {found:,} ids for the {expected:,} vectors of {path}; expected one for each")


def _values(path: Path) -> Iterator[Sequence[Any]]:
    """Chunks of the ids in a .txt, .npy or .json file."""
    if path.suffix == ".txt":
        lines = (line if isinstance(line, BadLine) else line.rstrip("\r\n") for _, line in read_lines(path))
        while chunk := list(itertools.islice(lines, ROWS)):
            yield chunk
        return
    whole = _array(path) if path.suffix == ".npy" else read_json(path)
    if not isinstance(whole, list) and not (isinstance(whole, np.ndarray) and whole.ndim == 1):
        fail(f"{path}: expected a list of ids")
    for start in range(0, len(whole), ROWS):
        part = whole[start : start + ROWS]
        try:
            values = part if isinstance(part, list) else part.tolist()
        except (SystemError, ValueError) as error:  # numpy reads characters unchecked
            fail(f"{path}: damaged, an id has a character that no text has ({error}); restore it")
        yield values


def _named(path: Path, chunks: Iterator[Sequence[Any]]) -> Iterator[list[str]]:
    """Each id as a string; UserError naming the first that is none."""
    row = 0
    for chunk in chunks:
        try:
            yield [identity(value) for value in chunk]
        except BadLine as bad:
            fail(f"{path}: among ids {row} to {row + len(chunk) - 1}, counted from 0: {bad}")
        row += len(chunk)


def _faiss_ids(path: Path) -> Iterator[list[str]] | None:
    return flat_faiss.ids(path) or _ids_beside(path, flat_faiss.count)


TABLE = Form("tables", _table_ids, tables.count, lambda path: tables.vectors(path, VECTOR))
ARRAY = Form(
    "npy files", lambda path: _ids_beside(path, lambda p: len(_matrix(p))), lambda p: len(_matrix(p)), _array_vectors
)
FAISS = Form("faiss files", _faiss_ids, flat_faiss.count, flat_faiss.vectors)
PICKLE = Form("pickles", dpr_pickle.ids, dpr_pickle.count, dpr_pickle.vectors)
