"""Lines and records of text files, plain or gzipped: each is text or a BadLine that says what is wrong with it.

A file that is one JSON value is read as an array, element by element, or as a whole.
"""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rag_jax.errors import fail

LONGEST = 16 << 20  # bytes; a longer line is no passage but a file of another kind
CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


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
    with _failures_told(path, lambda: f" after line {number}"), _opened(path, meter) as stream:
        while line := stream.readline(LONGEST + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            whole = len(line) <= LONGEST
            yield number, _text(line) if whole else BadLine("line too long", f", over {LONGEST >> 20} MiB")
            while not whole and line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST)


def first_line(path: str | Path) -> str:
    """The first line that is not blank, stripped, or the beginning of one longer than LONGEST; '' if there is none."""
    with _failures_told(path, lambda: " at its beginning"), _opened(path, None) as stream:
        while line := stream.readline(LONGEST):
            if text := line.removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip():
                return text
    return ""


def read_records(path: str | Path, meter: Meter | None = None) -> Iterator[tuple[str, int, dict[str, Any] | BadLine]]:
    """Yields ("path:line", number of the record from 0, the JSON object) for each line that is not blank."""
    number = 0
    for line_number, line in read_lines(path, meter):
        if isinstance(line, str) and not line.strip():
            continue
        yield f"{path}:{line_number}", number, line if isinstance(line, BadLine) else _record(line)
        number += 1


def read_array(path: str | Path, meter: Meter | None = None) -> Iterator[tuple[str, int, dict[str, Any] | BadLine]]:
    """Yields ("path: row N", N, the JSON object) for each element of a file that is one JSON array, N from 0.

    The file is never in memory as a whole. Raises UserError, beside read_lines' cases, where it stops being an array.
    """
    number = 0
    with _failures_told(path, lambda: f" in row {number}"), _opened(path, meter) as stream:
        array = _Array(io.TextIOWrapper(stream, "utf-8-sig"))
        if array.symbol() != "[":
            fail(f"{path}: found {array.symbol()!r}, expected '[', the beginning of a JSON array")
        array.skip()
        while array.symbol() != "]":
            try:
                record = array.value()
            except (RecursionError, ValueError) as error:
                fail(f"{path}: row {number}: not JSON ({getattr(error, 'msg', error)}); is the file cut?")
            yield f"{path}: row {number}", number, as_object(record)
            if array.symbol() == ",":
                array.skip()
            elif array.symbol() != "]":
                fail(f"{path}: row {number}: found {array.symbol()!r} behind it, expected ',' or ']'; is the file cut?")
            number += 1
        array.skip()
        if array.symbol():
            fail(f"{path}: found {array.symbol()!r} behind the array, expected its end; are these two files in one?")


class _Array:
    """The text of a JSON array, read as far as it is needed."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream, self._text, self._at = stream, "", 0

    def symbol(self) -> str:
        """The next character that is not white space, '' at the end."""
        space = _SPACE.match(self._text, self._at)
        assert space is not None  # it matches nothing, too
        self._at = space.end()
        if self._at == len(self._text):
            self._text, self._at = self._stream.read(CHUNK), 0
            return self.symbol() if self._text else ""
        return self._text[self._at]

    def skip(self) -> None:
        """Goes over the next character."""
        self._at += 1

    def value(self) -> Any:
        """The next JSON value; ValueError where there is none, or one longer than LONGEST."""
        while True:
            try:
                value, self._at = json.JSONDecoder().raw_decode(self._text, self._at)
                return value
            except json.JSONDecodeError:
                rest = len(self._text) - self._at
                more = self._stream.read(max(CHUNK, rest)) if rest <= LONGEST else ""
                if not more:
                    raise
                self._text, self._at = self._text[self._at :] + more, 0


def read_value(path: str | Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The JSON value that a file is; `hook` may put another value in the place of every object, the innermost first."""
    with _failures_told(path, lambda: ""), _opened(path, None) as stream:
        content = stream.read()
    try:
        return json.loads(content, object_hook=hook)
    except UnicodeDecodeError as error:
        fail(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8")
    except json.JSONDecodeError as error:
        fail(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno}); is the file cut?")
    except (RecursionError, ValueError) as error:
        fail(f"{path}: not JSON ({error}); expected an array or an object")


def string(record: dict[str, Any], key: str, default: str | None = None) -> str:
    """The string under `key`; BadLine for anything else."""
    value = record.get(key, default)
    if not isinstance(value, str):
        if key not in record:
            raise BadLine(f'"{key}" is missing', "; expected a string")
        raise BadLine(f'"{key}" is not a string', f" but {brief(value)}")
    return value


def items(record: dict[str, Any], key: str) -> list[Any]:
    """The list under `key`, empty where there is none; BadLine for anything else."""
    value = record.get(key, [])
    if not isinstance(value, list):
        raise BadLine(f'"{key}" is {brief(value)}', "; expected a list")
    return value


def strings(record: dict[str, Any], key: str) -> tuple[str, ...]:
    """The strings listed under `key`, none where there is no such key; BadLine for anything else."""
    value = items(record, key)
    if not all(isinstance(item, str) for item in value):
        raise BadLine(f'"{key}" is {brief(value)}', "; expected a list of strings")
    return tuple(value)


def objects(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects listed under `key`, none where there is no such key; BadLine for anything else."""
    value = items(record, key)
    if not all(isinstance(item, dict) for item in value):
        raise BadLine(f'"{key}" is {brief(value)}', "; expected a list of objects")
    return value


def identity(value: Any) -> str:
    """An id as a string; BadLine for what is neither text nor a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "" or not is_unicode(str(value)):
        raise BadLine("bad id", f" {brief(value)}; expected a string or a whole number")
    return str(value)


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON and Python may spell half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(names: Iterable[str]) -> str:
    """Names with commas between, in one line of at most 200 letters; 'none' for none."""
    return " ".join(", ".join(names).split())[:200] or "none"


def brief(value: Any) -> str:
    """A value as JSON has it, cut to 40 letters; of one that JSON cannot have, its kind."""
    try:
        return json.dumps(value, default=str)[:40]
    except (RecursionError, TypeError, ValueError):
        return f"a {type(value).__name__}"


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
    return as_object(record)


def as_object(record: Any) -> dict[str, Any] | BadLine:
    """The record, or a BadLine for what is no JSON object."""
    return record if isinstance(record, dict) else BadLine(type(record).__name__, "; expected a JSON object")


@contextmanager
def _failures_told(path: str | Path, where: Callable[[], str]) -> Iterator[None]:
    """UserError for a file that cannot be read to its end; where() says how far it was."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fail(f"{path}: damaged gzip file{where()} ({error}); download it again")
    except UnicodeDecodeError as error:
        fail(f"{path}: not UTF-8{where()} (byte 0x{error.object[error.start]:02x}); convert the file to UTF-8")
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        fail(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path")


@contextmanager
def _opened(path: str | Path, meter: Meter | None) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        if meter is not None:
            size = Path(path).stat().st_size
            meter.begin(size, lambda: size if raw.closed else raw.tell())
        yield io.BufferedReader(gzip.GzipFile(fileobj=raw)) if str(path).endswith(".gz") else raw
