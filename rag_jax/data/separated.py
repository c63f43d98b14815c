"""Files with a header and separated values: DPR's .tsv, .csv; a line with an open quote does not swallow the others."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rag_jax.data.lines import LONGEST, BadLine, Meter, listed, read_lines
from rag_jax.errors import fail

TEXT_COLUMNS = ("text", "contents")
OPEN_LINES = 1000  # over so many lines may the text between two quotes go


def records(path: Path, delimiter: str, meter: Meter) -> Iterator[tuple[str, int, dict[str, Any] | BadLine]]:
    """Records of a file with a header, as read_records yields them."""
    stream = table_rows(path, delimiter, meter)
    place, header = next(stream, (f"{path}:1", []))
    if isinstance(header, BadLine):
        fail(f"{place}: {header}")
    check_header(header, place)
    for number, (place, values) in enumerate(stream):
        if isinstance(values, list) and len(values) != len(header):
            values = BadLine(f"{len(values)} columns", f"; expected {len(header)}: {listed(header)}")
        yield place, number, values if isinstance(values, BadLine) else dict(zip(header, values, strict=True))


def check_header(names: Sequence[str], place: str) -> None:
    """Raises UserError unless the columns of a table, named at `place`, are those of a corpus."""
    doubled = [name for name in ("id", "title", *TEXT_COLUMNS) if names.count(name) > 1]
    if not any(name in names for name in TEXT_COLUMNS) or doubled:
        expected = "text (or contents), and id and title if there are any, once each"
        fail(f"{place}: columns {listed(names)}; expected {expected}")


def table_rows(path: Path, delimiter: str, meter: Meter | None = None) -> Iterator[tuple[str, list[str] | BadLine]]:
    """Yields ("path:line", the values) for each row; a quoted value may go over several lines, as csv has it.

    After a quote that is left open, reading goes on at the next line: one bad line does not swallow the others.
    """
    lines = read_lines(path, meter)
    again: list[tuple[int, str | BadLine]] = []  # lines to be read again, the next one last
    while True:
        number, line = again.pop() if again else next(lines, (0, ""))
        if not number:
            return
        place = f"{path}:{number}"
        if isinstance(line, BadLine):
            yield place, line
        elif line.rstrip("\r\n"):
            values: list[str] | BadLine | csv.Error | None = _values(line, delimiter)
            if values is None:
                values, ahead = _longer(line, delimiter, again, lines)
                again += reversed(ahead)
            elif isinstance(values, csv.Error):
                values = _lenient(line, delimiter)
            yield place, values


def _longer(
    line: str, delimiter: str, again: list[tuple[int, str | BadLine]], lines: Iterator[tuple[int, str | BadLine]]
) -> tuple[list[str] | BadLine, list[tuple[int, str | BadLine]]]:
    """(values of a row that begins with this line, nothing) or (BadLine, the lines looked at)."""
    ahead: list[tuple[int, str | BadLine]] = []

    def from_here() -> Iterator[str]:
        yield line
        while len(ahead) < OPEN_LINES and (following := again.pop() if again else next(lines, None)) is not None:
            ahead.append(following)
            if isinstance(following[1], BadLine):
                return
            yield following[1]

    try:
        return next(csv.reader(from_here(), delimiter=delimiter, strict=True)), []
    except csv.Error:
        return BadLine("a quote is left open", f"; expected its partner within {OPEN_LINES:,} lines"), ahead


def _values(row: str, delimiter: str) -> list[str] | csv.Error | None:
    """The values of a row as csv has them; None for one that ends inside quotes, an error for a malformed one."""
    row = row.rstrip("\r\n")
    if '"' not in row:
        return row.split(delimiter)
    csv.field_size_limit(LONGEST)
    try:
        return next(csv.reader([row], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return None if "unexpected end" in str(error) else error


def _lenient(line: str, delimiter: str) -> list[str] | BadLine:
    """The values of a line with a quote in the middle of a quoted value, which DPR's own reader lets pass too."""
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter))
    except csv.Error as error:
        return BadLine("not separated values", f" ({str(error).partition(' - ')[0]})")
