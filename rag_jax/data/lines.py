"""Lines and records of text files, plain or gzipped: each is text or a BadLine that says what is wrong with it."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rag_jax.errors import fail

LONGEST = 16 << 20  # bytes; a longer line is no passage but a file of another kind


class BadLine(Exception):
    """What is wrong with one line: the reason, by which bad lines are counted, and what else there is to say."""

    def __init__(self, reason: str, more: str = "") -> None:
        super().__init__(reason + more)
        self.reason = reason


class Meter:
    """How much of a corpus has been read, in bytes of its files."""

    def __init__(self) -> None:
        self.total, self._done, self._size, self._tell = 0, 0, 0, lambda: 0

    def begin(self, size: int, tell: Callable[[], int]) -> None:
        """The next file, of `size` bytes; tell() says how many of them have been read."""
        self._done, self._size, self._tell = self._done + self._size, size, tell

    def share(self) -> float:
        """From 0 to 1; 0 where nothing is known."""
        return min((self._done + self._tell()) / self.total, 1.0) if self.total else 0.0


def read_lines(path: str | Path, meter: Meter | None = None) -> Iterator[tuple[int, str | BadLine]]:
    """Yields (number from 1, the line with its end or a BadLine); a byte order mark at the beginning is left out.

    A line is bad when it is not UTF-8, holds a NUL byte or is longer than LONGEST. Raises UserError for a file that
    cannot be read or a gzip file that is damaged or cut.
    """
    number = 0
    try:
        with _opened(path, meter) as stream:
            while line := stream.readline(LONGEST + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                whole = len(line) <= LONGEST
                yield number, _text(line) if whole else BadLine("line too long", f", over {LONGEST >> 20} MiB")
                while not whole and line and not line.endswith(b"\n"):
                    line = stream.readline(LONGEST)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fail(f"{path}: damaged gzip file after line {number} ({error}); download it again")
    except OSError as error:
        fail(f"{path}: cannot be read ({error.strerror}); check the path")


def read_records(path: str | Path, meter: Meter | None = None) -> Iterator[tuple[str, int, dict[str, Any] | BadLine]]:
    """Yields ("path:line", number of the record from 0, the JSON object) for each line that is not blank."""
    number = 0
    for line_number, line in read_lines(path, meter):
        if isinstance(line, str) and not line.strip():
            continue
        yield f"{path}:{line_number}", number, line if isinstance(line, BadLine) else _record(line)
        number += 1


def string(record: dict[str, Any], key: str, default: str | None = None) -> str:
    """The string under `key`; BadLine for anything else."""
    value = record.get(key, default)
    if not isinstance(value, str):
        if key not in record:
            raise BadLine(f'"{key}" is missing', "; expected a string")
        raise BadLine(f'"{key}" is not a string', f" but {brief(value)}")
    return value


def identity(value: Any) -> str:
    """An id as a string; BadLine for what is neither text nor a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadLine("bad id", f" {brief(value)}; expected a string or a whole number")
    return str(value)


def brief(value: Any) -> str:
    """A value as JSON has it, cut to 40 letters."""
    return json.dumps(value, default=str)[:40]


def _text(line: bytes) -> str | BadLine:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return BadLine("not UTF-8", f" (byte 0x{line[error.start]:02x}); convert the file to UTF-8")
    return BadLine("a NUL byte", "; expected text; is the file damaged?") if "\0" in text else text


def _record(line: str) -> dict[str, Any] | BadLine:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return BadLine("not JSON", f" ({error.msg}, column {error.colno}); expected one JSON object a line")
    except (RecursionError, ValueError) as error:  # brackets in brackets; a number of thousands of digits
        return BadLine("not JSON", f" ({error}); expected one JSON object a line")
    return record if isinstance(record, dict) else BadLine(type(record).__name__, "; expected a JSON object")


@contextmanager
def _opened(path: str | Path, meter: Meter | None) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        if meter is not None:
            size = Path(path).stat().st_size
            meter.begin(size, lambda: size if raw.closed else raw.tell())
        yield io.BufferedReader(gzip.GzipFile(fileobj=raw)) if str(path).endswith(".gz") else raw
