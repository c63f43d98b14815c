"""The passage store: a memory-mapped Arrow file of passages and their generator tokens, checked as it is
read.
"""

import functools
import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rag_jax.data.formats import Passage
from rag_jax.data.text import inner_pieces, title_pieces
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import fail
from rag_jax.files import checksum, read_manifest, write_manifest
from rag_jax.folders import build_folder
from rag_jax.progress import Progress, counted, waiting

KIND = "passages"
ARROW, BLOCKS, ROWS = "passages.arrow", "blocks.npy", "rows.crc32"
# Rows in a block, the unit of the damage check of texts: 256 passages of 100 words are about a third of a megabyte.
BLOCK_ROWS = 256
OPEN_BLOCKS = 4096
TOKENISED = 16  # blocks at a time, so that the tokenizer's threads have work
TOKEN_BYTES = 4

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "title_tokens": pa.list_(pa.int32()),
        "text_tokens": pa.list_(pa.int32()),
    }
)


def build_store(
    passages: Iterable[Passage],
    folder: str | Path,
    tokenizer: Tokenizer,
    *,
    after: "PassageStore | None" = None,
    share: Callable[[], float] = lambda: 0.0,
    log: Callable[[str], None] = print,
) -> "PassageStore":
    """Writes passages and their tokens to a new folder, in the given order, and opens it.

    Titles and texts are kept as given; their tokens are those of the single-spaced strings (see
    data/text.py). after: a store of the same tokenizer whose passages come first, as they are. share: how much of the
    passages has been taken, from 0 to 1, for the time that is left; log hears of it every few seconds.
    """

    def write(temporary: Path) -> None:
        content, count, progress = hashlib.sha256(), 0, Progress(folder, share, log, "passages stored")
        ends, crcs = [], []
        with pa.OSFile(str(temporary / ARROW), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch, crc in itertools.chain(_old_batches(after), _new_batches(after, passages, tokenizer)):
                writer.write_batch(batch)
                ends.append(sink.tell())
                crcs.append(crc)
                content.update(_content(batch))
                count += len(batch)
                progress.show(count)
        if not count:
            fail(f"{folder}: no passages to store; expected at least one")
        np.concatenate(crcs).astype("<u4").tofile(temporary / ROWS)
        with waiting(f"{folder}: read again for its checksums", log):
            _write_blocks(temporary, ends)
        write_manifest(
            temporary,
            {
                "kind": KIND,
                "count": count,
                "block_rows": BLOCK_ROWS,
                "checksum": content.hexdigest(),
                "tokenizer": tokenizer.fingerprint,
            },
        )

    build_folder(folder, write)
    return PassageStore.open(folder)


class PassageStore(Sequence[Passage]):
    """Passages by row; `checksum` covers their order, ids, titles and texts.

    The file is memory-mapped. A block of rows is checked for damage when its texts are first read, the tokens of a row
    whenever they are; damage raises UserError.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], blocks: np.ndarray) -> None:
        self.folder = folder
        self.checksum: str = manifest["checksum"]
        self._count: int = manifest["count"]
        self._block_rows: int = manifest["block_rows"]
        self._file = pa.memory_map(str(folder / ARROW))
        self._bytes = memoryview(self._file.read_buffer())
        self._tokens = np.frombuffer(self._bytes, np.int32, len(self._bytes) // TOKEN_BYTES)
        self._blocks = blocks
        self._row_crcs = np.asarray(np.memmap(folder / ROWS, "<u4", "r", shape=(self._count,)))
        self._whole = np.zeros(len(blocks), bool)
        # The file's schema lies in the first region, its footer in the last.
        self._check(0)
        self._check(len(blocks) - 1)
        self._reader = pa.ipc.open_file(self._file)
        # Of no method of the store: it would hold itself, and the file stay open until Python looks for such rings.
        self._block = functools.lru_cache(maxsize=OPEN_BLOCKS)(self._reader.get_batch)

    @classmethod
    def open(cls, folder: str | Path, *, tokenizer: Tokenizer | None = None, verify: bool = False) -> "PassageStore":
        """Opens a store without reading its passages; `verify` reads and checks every byte first.

        Raises UserError when the folder is not a whole passage store, or when its tokens are not
        `tokenizer`'s.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, KIND, verify=verify)
        if ROWS not in manifest["files"]:
            fail(f"{folder}: made by an earlier version of this program; build it again")
        if checksum(folder / BLOCKS) != manifest["files"][BLOCKS]["sha256"]:
            fail(f"{folder / BLOCKS}: damaged; restore it or build the passage store again")
        if tokenizer is not None and tokenizer.fingerprint != manifest["tokenizer"]:
            fail(
                f"{folder}: tokens of tokenizer {manifest['tokenizer'][:12]}; the generator's tokenizer is "
                f"{tokenizer.fingerprint[:12]}; build the passage store again with the generator's tokenizer"
            )
        return cls(folder, manifest, np.load(folder / BLOCKS))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Passage:  # type: ignore[override]  # a row at a time, no slices
        """The passage of a row; IndexError outside 0 <= row < len, so that -1 for "none found" is never
        the last one.
        """
        block, place = self._place(row)
        self._check(block)
        batch = self._block(block)
        return Passage(*(batch.column(name)[place].as_py() for name in ("id", "title", "text")))

    def tokens_of(self, rows: Sequence[int] | np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Generator tokens of the rows' titles and texts, int32, read-only views of the file.

        IndexError where a row lies outside 0 <= row < len.
        """
        row_R, tokens = np.asarray(rows, np.int64), self._tokens
        bounds = (bound.tolist() for bound in self._bounds(row_R))
        pairs = [(tokens[a:b], tokens[c:d]) for a, b, c, d in zip(*bounds, strict=True)]
        for row, pair, crc in zip(row_R, pairs, self._row_crcs[row_R].tolist(), strict=True):
            if _row_crc(*pair) != crc:
                fail(
                    f"{self.folder / ARROW}: the tokens of row {row} are damaged; "
                    "restore the file or build the passage store again"
                )
        return pairs

    def token_counts(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens the titles and the texts of several rows have, int64 each; reads none of them."""
        title_start_R, title_stop_R, text_start_R, text_stop_R = self._bounds(np.asarray(rows, np.int64))
        return title_stop_R - title_start_R, text_stop_R - text_start_R

    def _bounds(self, row_R: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where the rows' tokens lie in the file: start and stop of the title's, then of the text's."""
        if row_R.size and not 0 <= row_R.min() <= row_R.max() < self._count:
            raise IndexError(f"rows {row_R.min()} to {row_R.max()} of {self._count} passages")
        block_R, place_R = np.divmod(row_R, self._block_rows)
        title_offset_R, title_R, text_offset_R, text_R = self._blocks[block_R, 2:].T
        tokens = self._tokens
        return (
            title_R + tokens[title_offset_R + place_R],
            title_R + tokens[title_offset_R + place_R + 1],
            text_R + tokens[text_offset_R + place_R],
            text_R + tokens[text_offset_R + place_R + 1],
        )

    def ids(self) -> Iterator[str]:
        """The ids of all passages, in order."""
        return itertools.chain.from_iterable(batch.column("id").to_pylist() for batch in self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All passages as Arrow batches of BLOCK_ROWS, the last one shorter."""
        return (self._open_block(number) for number in range(len(self._blocks) - 1))

    def check(self) -> None:
        """Reads every block and every row's tokens; raises UserError where one is damaged."""
        batches = counted(self.batches(), len(self), self.folder, "passages compared", size=len)
        for number, batch in enumerate(batches):
            first = number * self._block_rows
            self.tokens_of(range(first, first + len(batch)))

    def row_crcs(self, number: int) -> np.ndarray:
        """The checksums of the tokens of a block's rows."""
        return np.array(self._row_crcs[number * self._block_rows :][: self._block_rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return PassageStore.open, (self.folder,)

    def _place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of {self._count} passages")
        return divmod(int(row), self._block_rows)

    def _open_block(self, number: int) -> pa.RecordBatch:
        self._check(number)
        return self._reader.get_batch(number)

    def _check(self, number: int) -> None:
        """Compares a region of the file with its CRC, once."""
        if not self._whole[number]:
            start = int(self._blocks[number - 1, 0]) if number else 0
            end, expected = (int(value) for value in self._blocks[number, :2])
            if zlib.crc32(self._bytes[start:end]) != expected:
                fail(
                    f"{self.folder / ARROW}: bytes {start} to {end} are damaged; "
                    "restore the file or build the passage store again"
                )
            self._whole[number] = True


def _old_batches(store: PassageStore | None) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The full blocks of a store, with the checksums of their rows' tokens."""
    if not store:
        return
    for number, batch in enumerate(store.batches()):
        if len(batch) == BLOCK_ROWS:
            yield batch, store.row_crcs(number)


def _new_batches(
    after: PassageStore | None, passages: Iterable[Passage], tokenizer: Tokenizer
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Blocks of passages, the first filled up with those that do not fill one of `after`."""
    rest = (after[row] for row in range(len(after) // BLOCK_ROWS * BLOCK_ROWS, len(after))) if after else ()
    stream = itertools.chain(rest, passages)
    while chunk := list(itertools.islice(stream, TOKENISED * BLOCK_ROWS)):
        titles = title_pieces(tokenizer, [passage.title for passage in chunk])
        texts = inner_pieces(tokenizer, [passage.text for passage in chunk])
        for at in range(0, len(chunk), BLOCK_ROWS):
            block = slice(at, at + BLOCK_ROWS)
            names = ([getattr(passage, name) for passage in chunk[block]] for name in ("id", "title", "text"))
            pieces = titles[block], texts[block]
            crcs = np.array([_row_crc(*pair) for pair in zip(*pieces, strict=True)], np.uint32)
            yield pa.record_batch([*names, *map(_lists, pieces)], schema=SCHEMA), crcs


def _row_crc(title: np.ndarray, text: np.ndarray) -> int:
    return zlib.crc32(text.data, zlib.crc32(title.data))


def _content(batch: pa.RecordBatch) -> bytes:
    """What the checksum covers of a batch: ids, titles and texts, each behind its length."""
    columns = (batch.column(name).to_pylist() for name in ("id", "title", "text"))
    fields = [field.encode() for row in zip(*columns, strict=True) for field in row]
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)


def _lists(pieces: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate(pieces))


def _write_blocks(folder: Path, ends: Sequence[int]) -> None:
    """Saves a line for each region of the Arrow file, the blocks and then the footer.

    Where it ends, its CRC, and for a block where offsets and values of title and text tokens begin, counted in int32:
    tokens are read without opening the block as Arrow.
    """
    with pa.memory_map(str(folder / ARROW)) as file:
        buffer = file.read_buffer()
        reader, data = pa.ipc.open_file(file), memoryview(buffer)
        ends = [*ends, len(data)]
        places = [_token_places(reader.get_batch(number), buffer.address) for number in range(len(ends) - 1)]
        crcs = [zlib.crc32(data[start:end]) for start, end in itertools.pairwise([0, *ends])]
    regions = zip(ends, crcs, [*places, (0, 0, 0, 0)], strict=True)
    blocks = np.array([(end, crc, *place) for end, crc, place in regions], np.int64)
    np.save(folder / BLOCKS, blocks, allow_pickle=False)


def _token_places(batch: pa.RecordBatch, base: int) -> tuple[int, int, int, int]:
    """Where the int32 offsets and values of title and text tokens begin in the mapped file."""
    # buffers: validity, offsets, validity of the values, values; empty ones may have no address.
    title, text = (batch.column(name).buffers() for name in ("title_tokens", "text_tokens"))

    def place(buffer: pa.Buffer) -> int:
        return (buffer.address - base) // TOKEN_BYTES if buffer.size else 0

    return place(title[1]), place(title[3]), place(text[1]), place(text[3])
