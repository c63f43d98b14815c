import pickle

import numpy as np
import pytest

from rag_jax.data.formats import Passage
from rag_jax.data.passages import ARROW, BLOCK_ROWS, BLOCKS, PassageStore, build_store
from rag_jax.data.text import inner_pieces, title_pieces
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST


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
        with pytest.raises(IndexError):
            store.tokens(row)


def test_tokens_are_those_of_the_pieces(store, passages, bpe):
    titles = title_pieces(bpe, [p.title for p in passages])
    texts = inner_pieces(bpe, [p.text for p in passages])
    assert any(len(title) == 0 for title in titles)
    for row in range(len(passages)):
        title, text = store.tokens(row)
        assert title.dtype == text.dtype == np.int32
        assert title.tolist() == titles[row].tolist()
        assert text.tolist() == texts[row].tolist()
        assert not text.flags.writeable


def test_rows_of_ids(store):
    assert [store.row_of(f"p{row}") for row in (0, 300, 899)] == [0, 300, 899]
    with pytest.raises(UserError, match="no passage 'x' among 900"):
        store.row_of("x")


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
    for name in (ARROW, BLOCKS, MANIFEST):
        data = (copy / name).read_bytes()
        for place in np.linspace(0, len(data) - 1, 60).astype(int):
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(place % 7)
            (copy / name).write_bytes(damaged)
            with pytest.raises(UserError):
                store = PassageStore.open(copy)
                assert [store[row] for row in range(BLOCK_ROWS)] == whole[:BLOCK_ROWS]
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
            store.tokens(BLOCK_ROWS)
    with pytest.raises(UserError, match="differs from its checksum"):
        PassageStore.open(copy, verify=True)


def test_a_cut_file_is_found_at_opening(copy):
    data = (copy / ARROW).read_bytes()
    (copy / ARROW).write_bytes(data[:-100])
    with pytest.raises(UserError, match="bytes, expected"):
        PassageStore.open(copy)
