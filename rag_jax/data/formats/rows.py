"""The rows of a file of questions, whatever holds them: lines, a JSON array or object, a table, a pair, a folder."""

import ast
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_jax.data import separated
from rag_jax.data.lines import (
    BadLine,
    Meter,
    as_object,
    brief,
    first_line,
    objects,
    read_array,
    read_lines,
    read_records,
    read_value,
)
from rag_jax.errors import fail
from rag_jax.files import visible_files

Row = tuple[str, int, dict[str, Any] | BadLine]  # "path:line" or "path: row N", the row's number from 0, what it holds

TABLES, PAIR, JSON = (".tsv", ".csv"), (".source", ".target"), (".json", ".jsonl")
TREC_COLUMNS = 4


def rows(path: Path, meter: Meter | None = None) -> Iterator[Row]:
    """Yields the rows of a file, or of all JSON files of a folder, but for hidden ones, in the order of their paths.

    meter: hears of JSON files that are read row by row. Raises UserError for a file of another kind or one that cannot
    be read to its end.
    """
    if os.path.isdir(path):  # False for a name that no file can have
        return _folder(path)
    suffix = suffix_of(path)
    if suffix in TABLES:
        return _table(path)
    if suffix in PAIR:
        return _pair(path)
    if suffix == ".jsonl":
        return read_records(path, meter)
    if suffix in (".json", ""):
        return _json(path, meter)
    fail(f"{path}: unknown kind of file; expected {', '.join((*JSON, *TABLES))} or .source, also with .gz")


def suffix_of(path: str | Path) -> str:
    """The suffix without .gz."""
    return Path(str(path).removesuffix(".gz")).suffix


def _folder(folder: Path) -> Iterator[Row]:
    files = sorted(path for _, path in visible_files(folder) if suffix_of(path) in JSON)
    if not files:
        fail(f"{folder}: no {' or '.join(JSON)} file in this folder; check the path")
    everything = (row for path in files for row in rows(path))
    return ((place, number, record) for number, (place, _, record) in enumerate(everything))


def _json(path: Path, meter: Meter | None) -> Iterator[Row]:
    """Rows of a file that may be an array, an object of many rows or, whatever its name says, lines."""
    head = first_line(path)
    if head.startswith("["):
        return read_array(path, meter)
    try:
        record = json.loads(head)
    except (RecursionError, ValueError):
        record = None  # an object on several lines, or one too long for a row
    is_row = isinstance(record, dict) and not _is_container(record)
    return read_records(path, meter) if is_row else _object(path)


def _is_container(value: dict[str, Any]) -> bool:
    is_list = isinstance(value.get("Data"), list) or isinstance(value.get("data"), list)
    return is_list or isinstance(value.get("query"), dict)


def _object(path: Path) -> Iterator[Row]:
    """Rows of TriviaQA's {"Data": [row, ..]}, SQuAD's {"data": [article, ..]}, MS-MARCO's {"query": {key: ..}, ..}.

    Another object is one row. The passages that MS-MARCO supplies, nearly all of its file, are dropped while read.
    """
    value = read_value(path, hook=lambda record: None if "passage_text" in record else record)
    if not isinstance(value, dict) or not _is_container(value):
        found: Iterable[Any] = [value]
    elif isinstance(value.get("query"), dict):
        found = ({name: cells[key] for name, cells in _columns(value, key)} for key in value["query"])
    elif isinstance(value.get("Data"), list):
        found = value["Data"]
    else:
        found = _squad(path, value)
    for number, record in enumerate(found):
        yield f"{path}: row {number}", number, as_object(record)


def _columns(value: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The columns that have a cell of this key."""
    return ((name, cells) for name, cells in value.items() if isinstance(cells, dict) and key in cells)


def _squad(path: Path, value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """SQuAD's questions as {"qas": question, "title": its article's}."""
    where = "articles"
    try:
        for number, article in enumerate(objects(value, "data")):
            where = f"article {number}"
            if "paragraphs" not in article:
                raise BadLine('"paragraphs" is missing', "; expected SQuAD's form")
            for place, paragraph in enumerate(objects(article, "paragraphs")):
                where = f"article {number}, paragraph {place}"
                for question in objects(paragraph, "qas"):
                    yield {"qas": question, "title": article.get("title", "")}
    except BadLine as problem:
        fail(f"{path}: {where}: {problem}")


def _pair(path: Path) -> Iterator[Row]:
    """The lines of a .source file, and those of the .target file beside it as their answers."""
    zipped = ".gz" if path.suffix == ".gz" else ""
    stem = str(path).removesuffix(".gz").rpartition(".")[0]
    source, target = (f"{stem}{suffix}{zipped}" for suffix in PAIR)
    lines = itertools.zip_longest(read_lines(source), read_lines(target), fillvalue=(0, ""))
    for row, ((number, text), (target_number, answer)) in enumerate(lines):
        if not number or not target_number:
            shorter, longer = (source, target) if not number else (target, source)
            fail(f"{shorter}: ends after line {row}, {longer} goes on; expected as many lines in both")
        place = f"{source}:{number}"
        if isinstance(text, BadLine):
            yield place, row, text
        elif isinstance(answer, BadLine):
            yield place, row, answer
        else:
            yield place, row, {"question": text.strip(), "answer": answer.strip()}


def _table(path: Path) -> Iterator[Row]:
    """DPR's "question TAB list of answers", quoted as csv; or CuratedTREC's "id TAB kind TAB question TAB pattern"."""
    if first_line(path).count("\t") >= TREC_COLUMNS - 1:
        return _trec(path)
    table = separated.table_rows(path, "\t")
    return ((place, number, _qa_row(row)) for number, (place, row) in enumerate(table))


def _qa_row(row: list[str] | BadLine) -> dict[str, Any] | BadLine:
    if isinstance(row, BadLine):
        return row
    if len(row) != 2:
        return BadLine(f"{len(row)} columns", "; expected 2, question TAB list of answers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # '\\s' in a pattern: an escape that Python does not know stays as it is
            answers = ast.literal_eval(row[1].strip())
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return BadLine("bad list of answers", f" {brief(row[1])}; expected a list in Python's form, as ['a', 'b']")
    return {"question": row[0], "answers": answers}


def _trec(path: Path) -> Iterator[Row]:
    lines = ((number, line) for number, line in read_lines(path) if isinstance(line, BadLine) or line.strip())
    for row, (number, line) in enumerate(lines):
        # A tab may stand in a pattern, behind a backslash.
        cells = [] if isinstance(line, BadLine) else line.rstrip("\r\n").split("\t", TREC_COLUMNS - 1)
        if isinstance(line, BadLine):
            record: dict[str, Any] | BadLine = line
        elif len(cells) < TREC_COLUMNS:
            record = BadLine(f"{len(cells)} columns", f"; expected {TREC_COLUMNS}: id, kind, question, pattern")
        else:
            record = {"id": cells[0], "question": cells[2], "answers": [cells[3]]}
        yield f"{path}:{number}", row, record
