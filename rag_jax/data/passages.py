"""The passage store: a memory-mapped Arrow file of passages and their generator tokens, checked as it is
read.
"""

import functools
import hashlib
import itertools
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rag_jax.data.formats import Passage
from rag_jax.data.text import inner_pieces, title_pieces
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import fail
from rag_jax.files import build_folder, checksum, read_manifest, write_manifest

KIND = "passages"
ARROW, BLOCKS = "passages.arrow", "blocks.npy"
# Rows in a block, the unit of the damage check: 256 passages of 100 words are about a third of a megabyte.
BLOCK_ROWS = 256
OPEN_BLOCKS = 4096

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "title_tokens": pa.list_(pa.int32()),
        "text_tokens": pa.list_(pa.int32()),
    }
)


def build_store(passages: Iterable[Passage], folder: str | Path, tokenizer: Tokenizer) -> "PassageStore":
    """Writes passages and their tokens to a new folder, in the given order, and opens it.

    Titles and texts are kept as given; their tokens are those of the single-spaced strings (see
    data/text.py).
    """

    def write(temporary: Path) -> None:
        content = hashlib.sha256()
        ends, count = [], 0
        stream = iter(passages)
        with pa.OSFile(str(temporary / ARROW), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            while block := list(itertools.islice(stream, BLOCK_ROWS)):
                writer.write_batch(_batch(block, tokenizer))
                ends.append(sink.tell())
                for field in (f for p in block for f in (p.id, p.title, p.text)):
                    data = field.encode()
                    content.update(len(data).to_bytes(8, "little") + data)
                count += len(block)
        if not count:
            fail(f"{folder}: no passages to store; expected at least one")
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

    The file is memory-mapped. A block of rows is checked for damage when it is first read; a damaged one
    raises UserError.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], blocks: np.ndarray) -> None:
        self.folder = folder
        self.checksum: str = manifest["checksum"]
        self._count: int = manifest["count"]
        self._block_rows: int = manifest["block_rows"]
        self._file = pa.memory_map(str(folder / ARROW))
        self._bytes = memoryview(self._file.read_buffer())
        self._blocks = blocks
        self._whole = np.zeros(len(blocks), bool)
        # The file's schema lies in the first region, its footer in the last.
        self._check(0)
        self._check(len(blocks) - 1)
        self._reader = pa.ipc.open_file(self._file)
        self._block = functools.lru_cache(maxsize=OPEN_BLOCKS)(self._open_block)

    @classmethod
    def open(cls, folder: str | Path, *, tokenizer: Tokenizer | None = None, verify: bool = False) -> "PassageStore":
        """Opens a store without reading its passages; `verify` reads and checks every byte first.

        Raises UserError when the folder is not a whole passage store, or when its tokens are not
        `tokenizer`'s.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, KIND, verify=verify)
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

    def __getitem__(self, row: int) -> Passage:
        """The passage of a row; IndexError outside 0 <= row < len, so that -1 for "none found" is never
        the last one.
        """
        block, place = self._place(row)
        batch = self._block(block).batch
        return Passage(*(batch.column(name)[place].as_py() for name in ("id", "title", "text")))

    def tokens(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Generator tokens of a row's title and text, int32, read-only views of the file."""
        number, place = self._place(row)
        block = self._block(number)
        return (
            block.title[block.title_offset[place] : block.title_offset[place + 1]],
            block.text[block.text_offset[place] : block.text_offset[place + 1]],
        )

    def row_of(self, identity: str) -> int:
        """The row of a passage id; UserError when the store has none such. The first call reads all ids."""
        row = self._rows.get(identity)
        if row is None:
            fail(f"{self.folder}: no passage {identity!r} among {len(self)}; check the questions' passage_ids")
        return row

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        columns = (self._block(number).batch.column("id").to_pylist() for number in range(len(self._blocks) - 1))
        return {identity: row for row, identity in enumerate(itertools.chain.from_iterable(columns))}

    def __reduce__(self) -> tuple[Any, ...]:
        return PassageStore.open, (self.folder,)

    def _place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of {self._count} passages")
        return divmod(int(row), self._block_rows)

    def _open_block(self, number: int) -> "_Block":
        self._check(number)
        batch = self._reader.get_batch(number)
        title, text = batch.column("title_tokens"), batch.column("text_tokens")
        views = (array.to_numpy() for array in (title.values, title.offsets, text.values, text.offsets))
        return _Block(batch, *views)

    def _check(self, number: int) -> None:
        """Compares a region of the file with its CRC, once."""
        if not self._whole[number]:
            start = int(self._blocks[number - 1, 0]) if number else 0
            end, expected = (int(value) for value in self._blocks[number])
            if zlib.crc32(self._bytes[start:end]) != expected:
                fail(
                    f"{self.folder / ARROW}: bytes {start} to {end} are damaged; "
                    "restore the file or build the passage store again"
                )
            self._whole[number] = True


class _Block(NamedTuple):
    batch: pa.RecordBatch
    title: np.ndarray
    title_offset: np.ndarray
    text: np.ndarray
    text_offset: np.ndarray


def _batch(passages: Sequence[Passage], tokenizer: Tokenizer) -> pa.RecordBatch:
    ids, titles, texts = ([getattr(p, name) for p in passages] for name in ("id", "title", "text"))
    tokens = (_lists(title_pieces(tokenizer, titles)), _lists(inner_pieces(tokenizer, texts)))
    return pa.record_batch([ids, titles, texts, *tokens], schema=SCHEMA)


def _lists(pieces: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate(pieces))


def _write_blocks(folder: Path, ends: Sequence[int]) -> None:
    """Saves where each region of the Arrow file ends, and its CRC: the blocks, then the footer."""
    with pa.memory_map(str(folder / ARROW)) as file:
        data = memoryview(file.read_buffer())
        ends = [*ends, len(data)]
        crcs = [zlib.crc32(data[start:end]) for start, end in itertools.pairwise([0, *ends])]
    np.save(folder / BLOCKS, np.array([ends, crcs], np.int64).T, allow_pickle=False)
