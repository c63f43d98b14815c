"""Other people's tables: Parquet, Arrow, and folders that `datasets` saved; only the columns asked for are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rag_jax.data.lines import BadLine, Meter
from rag_jax.errors import UserError, fail
from rag_jax.files import inside, read_object

SUFFIXES = (".parquet", ".arrow")
STATE, SPLITS = "state.json", "dataset_dict.json"
BATCH_ROWS = 4096
BUFFER = 1 << 20  # bytes read at once; without one, a row group's whole column is, all vectors of a file perhaps


def is_dataset(folder: Path) -> bool:
    """Whether `datasets` saved this folder with save_to_disk."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets` saved, in order; UserError for one of several splits."""
    if not (folder / STATE).is_file():
        splits = read_object(folder / SPLITS).get("splits")
        named = [f"{folder}/{split}" for split in (splits if isinstance(splits, list) else ())]
        fail(f"{folder}: holds splits, expected one of them: {' '.join(', '.join(named).split())}")
    state = read_object(folder / STATE)
    if state.get("_indices_data_files"):
        fail(f"{folder / STATE}: rows are chosen by an index; call flatten_indices() and save it again")
    try:
        names = [item["filename"] for item in state["_data_files"]]
    except (KeyError, TypeError) as error:
        fail(f"{folder / STATE}: no file names under _data_files ({error}); save the data set again")
    return [inside(folder, name, folder / STATE) for name in names]


def columns(path: Path) -> list[str]:
    """The names of a table's columns."""
    with _reading(path):
        if path.suffix == ".parquet":
            return pq.read_schema(path).names
        with pa.memory_map(str(path)) as file:
            return _arrow(file).schema.names


def rows(path: Path, names: Sequence[str], meter: Meter | None = None) -> Iterator[dict[str, Any] | BadLine]:
    """Yields each row as {name: value}, or a BadLine where a value is not UTF-8."""
    share = 0.0
    if meter is not None and path.is_file():
        size = path.stat().st_size
        meter.begin(size, lambda: int(size * share))
    with _reading(path):
        for portion, batch in _batches(path, list(names)):
            share = portion
            whole = [_column(batch, name) for name in names]
            for start in range(0, batch.num_rows, BATCH_ROWS):
                values = [_values(column.slice(start, BATCH_ROWS)) for column in whole]
                for row in zip(*values, strict=True):
                    bad = next((value for value in row if isinstance(value, BadLine)), None)
                    yield bad or dict(zip(names, row, strict=True))


def count(path: Path) -> int:
    """How many rows a table has."""
    with _reading(path):
        if path.suffix == ".parquet":
            return pq.read_metadata(path).num_rows
        return sum(batch.num_rows for _, batch in _batches(path, []))


def column(path: Path, name: str) -> Iterator[list[Any]]:
    """Yields the values of one column, a few thousand at a time."""
    with _reading(path):  # text that is not UTF-8
        for _, array in _arrays(path, name):
            yield array.to_pylist()


def vectors(path: Path, name: str) -> Iterator[np.ndarray]:
    """Yields a column of lists of numbers, equally long in every row, as blocks [n, E].

    Raises UserError that names the row where there is no list, a hole in it, or one of another length.
    """
    width = 0
    for start, array in _arrays(path, name):
        if not isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            with _reading(path):  # a type may have a name that is not UTF-8
                fail(f"{path}: column {name!r} holds {array.type}; expected lists of numbers")
        values, lengths = array.flatten(), pc.list_value_length(array).to_numpy(zero_copy_only=False)
        width = width or int(np.nan_to_num(lengths[0]))
        if array.null_count or (lengths != width).any():
            row = int(np.flatnonzero(lengths != width)[0])
            found = "nothing" if np.isnan(lengths[row]) else f"{lengths[row]:.0f} numbers"
            fail(f"{path}: row {start + row}: {found} in {name!r}; expected {width} numbers, as in row 0")
        if values.null_count:
            fail(f"{path}: rows {start} to {start + len(array) - 1}: {name!r} has holes; expected numbers alone")
        yield values.to_numpy(zero_copy_only=False).reshape(len(array), width)


def _arrays(path: Path, name: str) -> Iterator[tuple[int, pa.Array]]:
    """(row, up to BATCH_ROWS values of one column from there)."""
    row = 0
    with _reading(path):
        for _, batch in _batches(path, [name]):
            whole = _column(batch, name)
            for start in range(0, len(whole), BATCH_ROWS):
                yield row + start, whole.slice(start, BATCH_ROWS)
            row += len(whole)


def _batches(path: Path, names: list[str]) -> Iterator[tuple[float, pa.RecordBatch]]:
    """(share of the file that comes before or with it, batch of rows)."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            rows_before = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                yield rows_before / file.metadata.num_rows, batch
                rows_before += batch.num_rows
        return
    with pa.memory_map(str(path)) as file:
        reader = _arrow(file)
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            for number in range(reader.num_record_batches):
                yield number / reader.num_record_batches, reader.get_batch(number)
        else:
            for batch in reader:
                yield file.tell() / file.size(), batch


def _arrow(file: pa.MemoryMappedFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """A reader of either kind of Arrow file; `datasets` writes streams."""
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column whose offsets stay inside of it: Arrow believes a file, and a damaged one would end the process."""
    column = batch.column(name)
    column.validate()
    # Text that is not UTF-8 is told of row by row.
    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    (column if plain is None else column.view(plain)).validate(full=True)
    return column


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(item) for item in column]


def _value(item: pa.Scalar) -> Any:
    try:
        return item.as_py()
    except UnicodeDecodeError as error:
        return BadLine("not UTF-8", f" (byte 0x{error.object[error.start]:02x}); write the table again")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # bytes that are no table make it say anything
        said = " ".join(str(error).split())[:200]
        fail(f"{path}: cannot be read as a table ({said}); restore the file or check the path")
