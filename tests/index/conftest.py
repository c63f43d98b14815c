"""One small passage store, and an encoder of character codes whose vectors are easy to compute again."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rag_jax.data.formats import Passage
from rag_jax.data.passages import build_store
from rag_jax.data.tokenizer import Tokenizer, train_byte_bpe
from rag_jax.team import Team

from ..test_team import Board

COUNT, WIDTH, LENGTH = 23, 6, 16
TABLE = np.random.default_rng(0).standard_normal((256, WIDTH)).astype(np.float32)


class Encoder:
    """Sums a row per character; remembers the shapes it was called with and dies after `calls` calls."""

    def __init__(self, calls=None):
        self.shapes, self.calls = [], calls

    def __call__(self, ids_BP):
        if self.calls is not None and len(self.shapes) == self.calls:
            raise KeyboardInterrupt
        self.shapes.append(ids_BP.shape)
        return TABLE[ids_BP].sum(axis=1)


def passage_ids(titles, texts):
    ids_BP = np.zeros((len(titles), LENGTH), np.int32)
    for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
        codes = [ord(c) % 256 for c in f"{title}|{text}"][:LENGTH]
        ids_BP[row, : len(codes)] = codes
    return ids_BP


@pytest.fixture(scope="session")
def passages():
    return [Passage(f"p{i}", f"T{i}", "ab " * (1 + i * 7 % 5) + chr(97 + i)) for i in range(COUNT)]


@pytest.fixture(scope="session")
def store(tmp_path_factory, passages):
    folder = tmp_path_factory.mktemp("store")
    tokenizer = train_byte_bpe([p.text for p in passages], 300, folder / "tokenizer")
    return build_store(passages, folder / "passages", tokenizer)


@pytest.fixture(scope="session")
def make_store(store):
    """(passages, folder) -> a store of other passages."""
    tokenizer = Tokenizer.load(store.folder.parent / "tokenizer")
    return lambda passages, folder: build_store(passages, folder, tokenizer)


@pytest.fixture(scope="session")
def vector_NE(passages):
    """What the encoder makes of every passage, in store order."""
    return TABLE[passage_ids([p.title for p in passages], [p.text for p in passages])].sum(axis=1)


@pytest.fixture
def build(store, tmp_path):
    """build(name, **changes) builds an index in a fresh folder and returns (folder, encoder)."""
    from rag_jax.index.builder import build_index
    from rag_jax.index.encoding import Encoder as Encoding

    def run(name="index", encoder=None, batch_size=4, length=LENGTH, **changes):
        encoder = encoder or Encoder()
        settings = {
            "fingerprint": "encoder-a",
            "score_scale": 1.0,
            "kind": "exact",
            "shard_size": 10,
            "log": lambda line: None,
            "store": store,
            **changes,
        }
        build_index(tmp_path / name, encoder=Encoding(encoder, passage_ids, 0, length, batch_size), **settings)
        return tmp_path / name, encoder

    return run


@pytest.fixture
def build_together(build):
    """build_together(changes, ...) calls build(**changes) in a process for each, here a thread; what each returns."""

    def run(*changes, kind=Team):
        board = Board()

        def process(number):
            try:
                return build(team=kind(number, len(changes), board), **changes[number])
            except BaseException as error:
                board.texts[f"failed/{number}"] = repr(error)  # else the others wait for it
                raise

        with ThreadPoolExecutor(len(changes)) as threads:
            return list(threads.map(process, range(len(changes))))

    return run


@pytest.fixture
def dying_encoder():
    return lambda calls: Encoder(calls)
