"""The passage store gives back what was put in, whole or not at all, and grows without tokenising anew."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from rag_jax import progress
from rag_jax.data.corpus import read_passages
from rag_jax.data.formats import Passage
from rag_jax.data.lines import read_records
from rag_jax.data.passages import ARROW, BLOCK_ROWS, BLOCKS, ROWS, PassageStore, build_store
from rag_jax.data.text import Marks, fill_sources, inner_pieces, source_string, title_pieces
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST, read_manifest, write_manifest

from .bart import bart_folder

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def passages(corpus):
    several = [text + extra for extra in ("", " More.", "  – é\n") for text in corpus]
    titles = ["", '"Quoted" ', "Radium", "Łódź / Lodz"]
    return [Passage(f"p{i}", titles[i % 4], text) for i, text in enumerate(several)]


@pytest.fixture(scope="module")
def store(passages, bpe, tmp_path_factory):
    return build_store(iter(passages), tmp_path_factory.mktemp("store") / "passages", bpe)


@pytest.fixture
def copy(passages, bpe, tmp_path):
    """A store of its own for a test that damages it: two blocks."""
    return build_store(passages[: BLOCK_ROWS + 10], tmp_path / "passages", bpe).folder


def test_store_gives_back_what_was_put_in(store, passages):
    assert len(passages) > 3 * BLOCK_ROWS
    assert len(store) == len(passages)
    assert list(store) == passages
    assert store[np.int64(BLOCK_ROWS)] == passages[BLOCK_ROWS]
    for row in (-1, len(passages)):
        with pytest.raises(IndexError):
            store[row]


def test_tokens_are_those_of_the_pieces(store, passages, bpe):
    titles = title_pieces(bpe, [p.title for p in passages])
    texts = inner_pieces(bpe, [p.text for p in passages])
    assert any(len(title) == 0 for title in titles)
    for row, (title, text) in enumerate(store.tokens_of(range(len(passages)))):
        assert title.dtype == text.dtype == np.int32
        assert title.tolist() == titles[row].tolist()
        assert text.tolist() == texts[row].tolist()
        assert not text.flags.writeable


def test_reopened_and_pickled_stores_are_the_same(store, bpe):
    reopened = PassageStore.open(store.folder, tokenizer=bpe, verify=True)
    for other in (reopened, pickle.loads(pickle.dumps(store))):
        assert other.checksum == store.checksum
        assert list(other) == list(store)


def test_checksum_covers_order_ids_titles_and_texts_alone(bpe, wordpiece, tmp_path):
    a, b = Passage("1", "t", "uv"), Passage("2", "t", "w")
    variants = [[a, b], [b, a], [Passage("3", "t", "uv"), b], [Passage("1", "tu", "v"), b], [a]]
    checksums = [build_store(v, tmp_path / str(i), bpe).checksum for i, v in enumerate(variants)]
    assert len(set(checksums)) == len(variants)
    assert build_store([a, b], tmp_path / "same", wordpiece).checksum == checksums[0]


def test_another_tokenizers_store_is_refused(store, wordpiece):
    with pytest.raises(UserError, match="build the passage store again with the generator's tokenizer"):
        PassageStore.open(store.folder, tokenizer=wordpiece)


def test_no_passages_is_an_error_and_leaves_nothing(bpe, tmp_path):
    with pytest.raises(UserError, match="no passages to store"):
        build_store([], tmp_path / "empty", bpe)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_found(copy):
    """Wherever a bit flips, opening or reading says so; no other passage is ever returned in silence."""
    whole = list(PassageStore.open(copy))
    tokens = [pair[1].tolist() for pair in PassageStore.open(copy).tokens_of(range(len(whole)))]
    for name in (ARROW, BLOCKS, ROWS, MANIFEST):
        data = (copy / name).read_bytes()
        for place in np.linspace(0, len(data) - 1, 60).astype(int):
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(place % 7)
            (copy / name).write_bytes(damaged)
            with pytest.raises(UserError):
                store = PassageStore.open(copy)
                assert [store[row] for row in range(BLOCK_ROWS)] == whole[:BLOCK_ROWS]
                assert [pair[1].tolist() for pair in store.tokens_of(range(len(whole)))] == tokens
                list(store)
        (copy / name).write_bytes(data)
    assert list(PassageStore.open(copy)) == whole


def test_damage_in_one_block_leaves_the_others_readable(copy):
    first_end = int(np.load(copy / BLOCKS)[0, 0])
    data = bytearray((copy / ARROW).read_bytes())
    data[first_end + 5000] ^= 1
    (copy / ARROW).write_bytes(data)
    store = PassageStore.open(copy)
    assert store[BLOCK_ROWS - 1].id == f"p{BLOCK_ROWS - 1}"
    for _ in range(2):
        with pytest.raises(UserError, match="are damaged; restore the file"):
            store[BLOCK_ROWS]
    with pytest.raises(UserError, match="differs from its checksum"):
        PassageStore.open(copy, verify=True)


def test_damaged_tokens_name_their_row_and_leave_the_others_readable(copy):
    store = PassageStore.open(copy)
    row = BLOCK_ROWS + 7
    texts = [text for _, text in store.tokens_of(range(len(store)))]
    whole, text = [text.tolist() for text in texts], texts[row]
    place = text.__array_interface__["data"][0] - np.frombuffer(store._bytes, np.uint8).__array_interface__["data"][0]
    data = bytearray((copy / ARROW).read_bytes())
    data[place + 2] ^= 1
    (copy / ARROW).write_bytes(data)
    store = PassageStore.open(copy)
    for rows in ([row], [8, row], range(len(store))):
        with pytest.raises(UserError, match=f"the tokens of row {row} are damaged; restore the file"):
            store.tokens_of(rows)
    for other in (0, row - 1, row + 1):
        assert store.tokens_of([other])[0][1].tolist() == whole[other]


def test_tokens_of_many_rows(store):
    rows, all_rows = np.array([899, 0, 255, 256, 0]), store.tokens_of(range(900))
    for row, pair in zip(rows.tolist(), store.tokens_of(rows), strict=True):
        assert [piece.tolist() for piece in pair] == [piece.tolist() for piece in all_rows[row]]
    assert store.tokens_of([]) == []
    for wrong in ([0, 900], [-1]):
        with pytest.raises(IndexError, match="of 900 passages"):
            store.tokens_of(wrong)


@pytest.mark.parametrize("old", [1, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 7])
def test_a_store_grows_to_what_one_build_makes(passages, store, bpe, tmp_path, old):
    """Full blocks are copied; the tokenizer sees no passage of theirs again."""

    class Counting:
        fingerprint, seen = bpe.fingerprint, 0

        def encode_batch(self, texts):
            self.seen += len(texts)
            return bpe.encode_batch(texts)

    counting = Counting()
    first = build_store(passages[:old], tmp_path / "first", bpe)
    grown = build_store(passages[old:], tmp_path / "grown", counting, after=first)
    for name in (ARROW, BLOCKS, ROWS, MANIFEST):
        assert (grown.folder / name).read_bytes() == (store.folder / name).read_bytes()
    assert counting.seen == 2 * (len(passages) - old // BLOCK_ROWS * BLOCK_ROWS)


def test_progress_is_told_with_the_time_that_is_left(passages, bpe, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    shares, said = iter([0.0, 0.25, 0.5, 1.0]), []
    build_store(passages, tmp_path / "store", bpe, share=lambda: next(shares), log=said.append)
    said = [line for line in said if "so far" not in line]  # of what tells nothing itself
    assert [line.split(": ")[1].split(",")[0] for line in said] == [
        f"{n} passages stored" for n in (256, 512, 768, 900)
    ]
    assert "left" not in said[0] and all(line.endswith("seconds left") for line in said[1:])
    monkeypatch.undo()
    said.clear()
    build_store(passages, tmp_path / "other", bpe, log=said.append)
    assert not said


def test_a_store_of_an_earlier_version_is_told_apart(copy):
    manifest = read_manifest(copy, "passages")
    (copy / ROWS).unlink()
    write_manifest(copy, {key: value for key, value in manifest.items() if key not in ("files", "version")})
    with pytest.raises(UserError, match="made by an earlier version of this program; build it again"):
        PassageStore.open(copy)


@pytest.mark.long
def test_tokens_in_pieces_are_the_tokens_of_the_whole(tmp_path):
    """Over real passages with BART's vocabulary: titles, texts and questions joined, and tokenised as one string."""
    if not (REAL / "vocab").is_dir():
        pytest.skip(f"no real passages and vocabulary in {REAL}")
    tokenizer = Tokenizer.load(bart_folder(REAL, tmp_path / "bart"))
    records = read_records(REAL / "squad_open" / "questions_valid.jsonl.gz")
    questions = [record["question"] for _, _, record in records]
    passages = list(read_passages(REAL / "squad_open" / "passages.tsv.gz"))
    store, marks = build_store(passages, tmp_path / "store", tokenizer), Marks.of(tokenizer)
    assert (len(passages), marks.bos, marks.pad, marks.eos, tokenizer.mask_id) == (20_958, 0, 1, 2, 50_264)
    for start in range(0, len(passages), 1024):
        rows = range(start, min(start + 1024, len(passages)))
        asked = [questions[row % len(questions)] for row in rows]
        documents = [[pair] for pair in store.tokens_of(rows)]
        source_RS = fill_sources(documents, inner_pieces(tokenizer, asked), length=1100, marks=marks)[:, 0]
        whole = [
            source_string(passages[row].title, passages[row].text, text) for row, text in zip(rows, asked, strict=True)
        ]
        for source, ids in zip(source_RS, tokenizer.encode_batch(whole), strict=True):
            assert source[: len(ids) + 2].tolist() == [0, *ids, 2] and (source[len(ids) + 2 :] == 1).all()


def test_a_cut_file_is_found_at_opening(copy):
    data = (copy / ARROW).read_bytes()
    (copy / ARROW).write_bytes(data[:-100])
    with pytest.raises(UserError, match="bytes, expected"):
        PassageStore.open(copy)
