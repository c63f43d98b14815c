"""A corpus from anyone's files, passage by passage: what is wrong with a line is said, or counted and left out.

Nothing that is read stays in memory but 8 bytes for every id, to find repeated ones.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rag_jax.data import separated, tables
from rag_jax.data.formats import Passage, pages
from rag_jax.data.formats.contexts import contexts
from rag_jax.data.formats.rows import suffix_of
from rag_jax.data.ids import IdSet
from rag_jax.data.lines import BadLine, Meter, identity, is_unicode, read_lines, read_records, string
from rag_jax.errors import fail
from rag_jax.files import stamps, visible_files
from rag_jax.storage import local

PLAIN = (".txt", ".md")
DELIMITERS = {".tsv": "\t", ".csv": ","}
SUFFIXES = (".jsonl", *DELIMITERS, *PLAIN)  # also with .gz
JSON = ".json"  # DPR's bi-encoder files and KILT's pages, also with .gz; in a folder a .json file is about other files
CHUNK = 4096
SHOWN = 5

Row = tuple[str, Passage | BadLine]  # "path:line" and what stands there


@dataclass(frozen=True)
class Cut:
    """How plain text becomes passages: of so many words, so many of them shared with the passage before.

    minimum: a rest of fewer new words than this at the end of a file joins the passage before it.
    """

    words: int = 100
    overlap: int = 0
    minimum: int = 1


class File(NamedTuple):
    """A file of a corpus; the ids that its rows are given begin with `prefix`. table: whether it is read as columns."""

    path: Path
    prefix: str
    table: bool


def read_passages(
    source: str | Path,
    *,
    cut: Cut = Cut(),
    skip_bad: bool = False,
    known: Iterable[str] = (),
    meter: Meter | None = None,
    log: Callable[[str], None] = print,
) -> Iterator[Passage]:
    """Yields the passages of a file, or of all files of a folder in the order of their paths.

    .jsonl of {"id"?, "title"?, "text"} or {"id"?, "contents"}; .tsv (DPR's psgs_w100.tsv) and .csv with a header that
    names these columns; .txt and .md, cut into passages; KILT's pages (.json or .jsonl), their paragraphs; a bi-encoder
    file of DPR's (.json), its contexts; all of them also with .gz, .json in no folder; .parquet, .arrow, and a folder
    that `datasets` saved. A row without an id gets its number, counted from 0, behind `path#` in a folder. Of
    "contents" without a title the first line is the title, if there are several. A plain text's title is the file's
    name.

    known: ids that are taken already. skip_bad: log and count what is wrong with a row, and leave it out.
    Raises UserError naming path:line for a malformed row, an empty text, a NUL byte, a repeated id; and, whatever
    skip_bad says, for a file that cannot be read to its end and a source without passages.
    """
    meter, found = meter or Meter(), _files(local(source), log)
    meter.total = sum(file.path.stat().st_size for file in found)
    rows = itertools.chain.from_iterable(_rows(file, cut, meter) for file in found)
    return check(rows, source, skip_bad=skip_bad, known=known, log=log)


def check(
    rows: Iterator[Row],
    source: str | Path,
    *,
    skip_bad: bool = False,
    known: Iterable[str] = (),
    log: Callable[[str], None] = print,
) -> Iterator[Passage]:
    """Yields the passages of rows of any origin that have a text and an id of their own, as read_passages says."""
    taken, seen, tally = IdSet(known), IdSet(), Tally(source, log)
    while chunk := [(place, _checked(row)) for place, row in itertools.islice(rows, CHUNK)]:
        ids = [row.id for _, row in chunk if isinstance(row, Passage)]
        found = zip(taken.holds(ids), seen.add(ids), strict=True)
        for place, row in chunk:
            if isinstance(row, Passage):
                is_taken, is_new = next(found)
                if is_taken:
                    row = BadLine("id in the index already", f", {row.id!r}; ids must differ")
                elif not is_new:
                    row = BadLine("repeated id", f", {row.id!r} stands on an earlier line too; ids must differ")
            if isinstance(row, Passage):
                tally.good += 1
                yield row
            elif skip_bad:
                tally.skip(place, row)
            else:
                fail(f"{place}: {row}; or leave out what is bad with config.data.skip_bad = True")
    tally.report()
    if not tally.good:
        fail(f"{source}: holds no passages; expected some")


def files(source: str | Path) -> list[list]:
    """[path, bytes, nanoseconds of the last change] of each file that read_passages reads."""
    return stamps(file.path for file in _files(local(source), log=lambda line: None))


class Tally:
    """Counts what was left out, by reason; shows the first few of each."""

    def __init__(self, source: str | Path, log: Callable[[str], None]) -> None:
        self.good, self._source, self._log, self._bad = 0, source, log, Counter[str]()

    def skip(self, place: str, bad: BadLine) -> None:
        """Counts one bad row."""
        self._bad[bad.reason] += 1
        if self._bad[bad.reason] <= SHOWN:
            self._log(f"left out {place}: {bad}")

    def report(self) -> None:
        """Says what was left out, if anything was."""
        if self._bad:
            reasons = ", ".join(f"{count:,} x {reason}" for reason, count in self._bad.most_common())
            self._log(f"{self._source}: {self._bad.total():,} left out of {self._bad.total() + self.good:,}: {reasons}")


def _checked(row: Passage | BadLine) -> Passage | BadLine:
    """The passage, or what no reader knows to be wrong with it."""
    if isinstance(row, BadLine):
        return row
    if not row.text.strip():
        return BadLine("empty text", f", passage {row.id!r}; expected some words")
    whole = f"{row.id}{row.title}{row.text}"
    if "\0" in whole:
        return BadLine("a NUL byte", f", passage {row.id!r}; expected text")
    if not is_unicode(whole):
        return BadLine("half a surrogate pair", f", passage {row.id!r}; expected Unicode text")
    return row


def _files(source: Path, log: Callable[[str], None]) -> list[File]:
    """The files of a source and how each is read."""
    if source.is_dir() and tables.is_dataset(source):
        parts = tables.dataset_files(source)
        if missing := [path for path in parts if not path.is_file()]:
            fail(f"{missing[0]}: missing, though {source} names it; restore it")
        return [File(path, "" if len(parts) == 1 else f"{path.name}#", True) for path in parts]
    if not source.exists():
        fail(f"{source}: cannot be read (no such file or folder); check the path")
    if not source.is_dir():
        if _suffix(source) not in (*SUFFIXES, JSON, *tables.SUFFIXES):
            known = ", ".join((*SUFFIXES, JSON))
            fail(f"{source}: unknown kind of file; expected {known} (also with .gz), {' or '.join(tables.SUFFIXES)}")
        prefix = f"{source.name}#" if _suffix(source) in PLAIN else ""
        return [File(source, prefix, source.suffix in tables.SUFFIXES)]
    inside = visible_files(source)
    found = [
        File(path, f"{name}#", path.suffix in tables.SUFFIXES)
        for name, path in inside
        if _suffix(path) in (*SUFFIXES, *tables.SUFFIXES)
    ]
    if not found:
        fail(f"{source}: no file of passages in this folder; expected {', '.join((*SUFFIXES, *tables.SUFFIXES))}")
    if others := len(inside) - len(found):
        log(f"{source}: {len(found):,} files of passages, {others:,} of other kinds passed over")
    return found


def _suffix(path: Path) -> str:
    """The suffix without .gz; a gzipped table has none that is known."""
    plain = suffix_of(path)
    return "" if path.suffix == ".gz" and plain in tables.SUFFIXES else plain


def _rows(file: File, cut: Cut, meter: Meter) -> Iterator[Row]:
    suffix = _suffix(file.path)
    if suffix in PLAIN:
        return _plain_rows(file, cut, meter)
    if file.table:
        return _table_rows(file, meter)
    if suffix == JSON and not pages.is_knowledge_source(file.path):
        return contexts(file.path, meter)
    if suffix in (".jsonl", JSON):
        records = read_records(file.path, meter)
    else:
        records = separated.records(file.path, DELIMITERS[suffix], meter)
    passages = ((place, _passages(record, f"{file.prefix}{number}")) for place, number, record in records)
    return ((place, passage) for place, found in passages for passage in found)


def _passages(record: dict[str, Any] | BadLine, own_id: str) -> list[Passage | BadLine]:
    """The paragraphs of one of KILT's pages, else the one `_passage`."""
    if isinstance(record, dict) and pages.KEY in record and isinstance(record.get("text"), list):
        return pages.paragraphs(record)
    return [_passage(record, own_id)]


def _passage(record: dict[str, Any] | BadLine, own_id: str) -> Passage | BadLine:
    """The passage of {"id"?, "title"?, "text"} or {"id"?, "contents"}; `own_id` is for one that has none."""
    if isinstance(record, BadLine):
        return record
    try:
        title = string(record, "title", "")
        if "text" in record or "contents" not in record:
            text = string(record, "text")
        else:
            text = string(record, "contents")
            if "title" not in record and "\n" in text.strip():
                title, text = text.strip().split("\n", 1)
                # Wikipedia's passages are published as '"Title"\ntext'.
                title = title[1:-1] if len(title) > 1 and title[0] == title[-1] == '"' else title
        return Passage(identity(record.get("id", own_id)), title, text)
    except BadLine as bad:
        return bad


def _table_rows(file: File, meter: Meter) -> Iterator[Row]:
    names = tables.columns(file.path)
    separated.check_header(names, str(file.path))
    wanted = [name for name in ("id", "title", *separated.TEXT_COLUMNS) if name in names]
    for number, record in enumerate(tables.rows(file.path, wanted, meter)):
        yield f"{file.path}: row {number}", _passage(record, f"{file.prefix}{number}")


def _plain_rows(file: File, cut: Cut, meter: Meter) -> Iterator[Row]:
    """Passages of cut.words words, white space made single spaces; a line that is bad is a row of its own."""
    title = Path(str(file.path).removesuffix(".gz")).stem
    words: list[str] = []
    numbers = itertools.count()

    def passage(start: int, stop: int) -> Row:
        return f"{file.path}:{line_number}", Passage(
            f"{file.prefix}{next(numbers)}", title, " ".join(words[start:stop])
        )

    line_number, bad = 1, False
    for line_number, line in read_lines(file.path, meter):
        if isinstance(line, BadLine):
            bad = True
            yield f"{file.path}:{line_number}", line
            continue
        words += line.split()
        start = 0
        # What follows a passage is either long enough for one of its own, or belongs to this one.
        while len(words) - start >= cut.words + cut.minimum:
            yield passage(start, start + cut.words)
            start += cut.words - cut.overlap
        del words[:start]
    if words:
        yield passage(0, len(words))
    elif not bad:
        yield str(file.path), BadLine("a file without words", "; expected some text")
