"""BM25 against its formula, in a total order; tokenizers; and an index of it, which holds no vectors."""

import gzip
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rag_jax.config import default_config
from rag_jax.data import tasks
from rag_jax.data.formats import Passage
from rag_jax.errors import UserError
from rag_jax.index.base import Queries, open_contents, open_index
from rag_jax.validation import CHOICES

from .test_base import flip_last_byte

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from rag_jax.index import bm25

SETTINGS = {"method": "lucene", "k1": 0.9, "b": 0.4, "tokenizer": "words"}
TEXTS = [
    ("Curie", "Marie Curie discovered radium and polonium."),
    ("Radium", "Radium, radium, radium: the metal that Curie discovered!"),
    ("Röntgen", "X rays"),
    ("Lake", "A lake. The lake is a lake"),
    ("Curie again", "Marie Curie discovered radium and polonium"),
    ("", "Röntgen's rays"),
]
SQUAD = Path(__file__).parents[3] / "shared" / "data" / "squad_open"
QUESTIONS = ["Who discovered RADIUM radium?", "rays of Röntgen", "lake", "zebra", "the the"]


@pytest.fixture(scope="module")
def texts_store(make_store, tmp_path_factory):
    passages = [Passage(str(n), title, text) for n, (title, text) in enumerate(TEXTS)]
    return make_store(passages, tmp_path_factory.mktemp("texts") / "passages")


@pytest.fixture
def searcher(texts_store, tmp_path):
    """settings -> an opened searcher over TEXTS."""

    def make(**changes):
        folder = tmp_path / "bm25"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        bm25.build(texts_store, folder, SETTINGS | changes)
        return bm25.Bm25Searcher(folder, SETTINGS | changes)

    return make


def lucene(question, k1, b):
    """Kamphuis et al. 2020, 'Lucene (accurate)': sum of log(1 + (N - n + 0.5) / (n + 0.5)) tf / (tf + k1 (...))."""
    documents = [Counter(bm25.words(f"{title} {text}")) for title, text in TEXTS]
    mean = sum(map(Counter.total, documents)) / len(documents)

    def score(document):
        total = 0.0
        for word in bm25.words(question):
            n, tf = sum(word in other for other in documents), document[word]
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            total += idf * tf / (tf + k1 * (1 - b + b * document.total() / mean))
        return total

    return [score(document) for document in documents]


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 1.0), (0.5, 0.0)])
def test_scores_are_lucenes_in_a_total_order(searcher, k1, b):
    id_BK, score_BK = searcher(k1=k1, b=b).search(QUESTIONS, len(TEXTS))
    assert id_BK.dtype == np.int64 and score_BK.dtype == np.float32
    for question, id_K, score_K in zip(QUESTIONS, id_BK, score_BK, strict=True):
        expected = np.float32(lucene(question, k1, b))
        np.testing.assert_allclose(score_K, expected[id_K], rtol=1e-6)
        np.testing.assert_array_equal(id_K, np.lexsort((np.arange(len(TEXTS)), -expected)))


@pytest.mark.parametrize("method", bm25.METHODS)
def test_every_method_scores_what_shares_a_word_above_what_does_not(searcher, method):
    found = searcher(method=method)
    id_BK, score_BK = found.search(["lake", "zebra"], 6)
    assert id_BK.tolist() == [[3, 0, 1, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert score_BK[0, 0] > score_BK[0, 1] == score_BK[0, 5] and not score_BK[1].any()
    assert found.matches(["lake", "zebra"], 2).tolist() == [[3, -1], [-1, -1]]


def test_k_cuts_ties_by_row_and_past_the_corpus_there_is_nothing(searcher):
    found = searcher()
    whole, scores = found.search(QUESTIONS, len(TEXTS))
    for k in range(1, len(TEXTS)):
        np.testing.assert_array_equal(found.search(QUESTIONS, k)[0], whole[:, :k])
        matches = np.where(scores > 0, whole, -1)
        np.testing.assert_array_equal(found.matches(QUESTIONS, k), matches[:, :k])
    beyond, beyond_scores = found.search(QUESTIONS, 9)
    np.testing.assert_array_equal(beyond[:, :6], whole)
    assert (beyond[:, 6:] == -1).all() and (beyond_scores[:, 6:] == -np.inf).all()
    assert [part.shape for part in found.search([], 3)] == [(0, 3), (0, 3)]


def test_many_equal_scores_come_by_row(make_store, tmp_path):
    """More ties at the k-th place than k."""
    passages = [Passage(str(n), "", "gold gold" if n in (700, 41) else "gold dust") for n in range(900)]
    bm25.build(make_store(passages, tmp_path / "passages"), tmp_path / "bm25", SETTINGS)
    ids = bm25.Bm25Searcher(tmp_path / "bm25", SETTINGS).search(["gold"] * 3, 6)[0]
    assert ids.tolist() == [[41, 700, 0, 1, 2, 3]] * 3


def test_tokenizers_are_functions_of_strings():
    assert bm25.words("Röntgen's X-rays, 1895!") == ["röntgen", "s", "x", "rays", "1895"]
    stems = ["discov", "ray", "röntgen", "discoveri"]
    assert bm25.english("Who discovered the rays of Röntgen's discovery?") == stems
    assert bm25.english("the who?") == bm25.words(" .") == []


def test_the_configuration_knows_the_same_methods_and_tokenizers():
    assert CHOICES["index.bm25.method"] == bm25.METHODS
    assert CHOICES["index.bm25.tokenizer"] == tuple(bm25.TOKENIZERS)


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_is_in_the_name(key):
    other = {"method": "atire", "k1": 1.2, "b": 0.75, "tokenizer": "english"}
    assert bm25.fingerprint(SETTINGS) == "bm25:lucene:k1=0.9:b=0.4:words"
    assert bm25.fingerprint(SETTINGS | {key: other[key]}) != bm25.fingerprint(SETTINGS)


@pytest.mark.parametrize(("key", "value"), [("method", "bm26"), ("tokenizer", "klingon")])
def test_what_there_is_not_is_named(key, value):
    with pytest.raises(UserError, match=rf"index\.bm25\.{key}: '{value}'; expected one of"):
        bm25.parameters(SETTINGS | {key: value})


def test_a_build_says_nothing(searcher, caplog):
    with caplog.at_level("DEBUG"):
        searcher()
    assert not caplog.records


def test_a_corpus_without_words_is_an_error(make_store, tmp_path):
    empty = make_store([Passage("a", "", "?!"), Passage("b", "", "of the")], tmp_path / "passages")
    with pytest.raises(UserError, match="no passage holds a word"):
        bm25.build(empty, tmp_path / "bm25", SETTINGS | {"tokenizer": "english"})


@pytest.mark.long
def test_recall_on_real_questions(make_store, tmp_path):
    """Gold passages of questions about 32 articles among 20,958 passages, in percent at 1, 5, 20 and 100."""
    if not SQUAD.is_dir():
        pytest.skip(f"{SQUAD} is not here")
    data = default_config().data
    data.passages = str(SQUAD / "passages.tsv.gz")
    store = make_store(tasks.passages(data), tmp_path / "passages")
    with gzip.open(SQUAD / "questions_valid.jsonl.gz", "rt") as lines:
        questions = [json.loads(line) for line in lines]
    row_of = {identity: row for row, identity in enumerate(store.ids())}
    gold_B = np.array([row_of[str(question["passage_id"])] for question in questions])
    for tokenizer, floors in {"english": (73, 89, 94.5, 98), "words": (69, 86, 92.5, 96.5)}.items():
        bm25.build(store, tmp_path / tokenizer, SETTINGS | {"tokenizer": tokenizer})
        searcher = bm25.Bm25Searcher(tmp_path / tokenizer, SETTINGS | {"tokenizer": tokenizer})
        hit_BK = searcher.search([question["question"] for question in questions], 100)[0] == gold_B[:, None]
        for k, floor in zip((1, 5, 20, 100), floors, strict=True):
            assert 100 * hit_BK[:, :k].any(axis=1).mean() > floor, (tokenizer, k)


@pytest.fixture
def build_bm25(build):
    def run(name="index", **changes):
        settings = SETTINGS | changes.pop("settings", {})
        chosen = {"kind": "bm25", "fingerprint": bm25.fingerprint(settings), "search": {"bm25": settings}} | changes
        return build(name, **chosen)

    return run


def test_an_index_of_words_holds_no_vectors_and_asks_for_none(build_bm25, passages, tmp_path):
    folder, encoder = build_bm25()
    assert encoder.shapes == [] and not list(folder.glob("vectors*"))
    folder.rename(tmp_path / "moved")
    index = open_index(tmp_path / "moved", expect_fingerprint="bm25:lucene:k1=0.9:b=0.4:words", verify=True)
    assert index.vectors is None and not index.by_vector
    assert (index.manifest.width, index.manifest.search) == (0, {"bm25": SETTINGS})
    id_BK, score_BK = index.search(Queries(["T7", "g ab T6"], None), 2)
    assert id_BK[:, 0].tolist() == [7, 6] and (score_BK[:, 0] > score_BK[:, 1]).all()
    assert index.passages[7] == passages[7]
    with pytest.raises(UserError, match="k: 0; expected at least 1"):
        index.search(Queries(["T7"], None), 0)
    for kind in ("exact", "scann", "hybrid", "faiss"):
        with pytest.raises(UserError, match=rf"made for index\.kind = 'bm25', it cannot be searched as '{kind}'"):
            open_index(tmp_path / "moved", kind=kind)


def test_other_settings_are_another_retriever(build_bm25):
    folder, _ = build_bm25()
    with pytest.raises(UserError, match=r"made by passage encoder bm25:lucene:k1=0\.9.*, not by bm25:lucene:k1=1\.2"):
        open_index(folder, expect_fingerprint=bm25.fingerprint(SETTINGS | {"k1": 1.2}))
    said = []
    build_bm25(log=said.append)
    assert len(said) == 1 and "already built" in said[0]
    build_bm25(settings={"k1": 1.2})
    assert open_index(folder).manifest.search["bm25"]["k1"] == 1.2


def test_two_builds_are_equal_byte_by_byte(build_bm25):
    first, second = (build_bm25(name)[0] for name in ("first", "second"))
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_passages_are_added_and_all_scores_made_anew(build_bm25, make_store, passages, tmp_path):
    whole, _ = build_bm25("whole")
    folder, _ = build_bm25(store=make_store(passages[:13], tmp_path / "first"))
    old = open_contents(folder, expect_fingerprint=bm25.fingerprint(SETTINGS), tokenizer=None)
    assert old.manifest.count == 13
    build_bm25(base=old)
    assert open_index(folder, verify=True).manifest == open_index(whole).manifest
    for path in (whole / "bm25").iterdir():
        assert (folder / "bm25" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["data.csc.index.npy", "indices.csc.index.npy", "vocab.index.json"])
def test_damaged_scores_are_named(build_bm25, name):
    folder, _ = build_bm25()
    flip_last_byte(folder / "bm25" / name)
    with pytest.raises(UserError, match=f"{name}.*checksum"):
        open_index(folder, verify=True)
    (folder / "bm25" / name).write_bytes(b"cut")
    with pytest.raises(UserError, match=f"{name}.*bytes"):
        open_index(folder)
    with pytest.raises(UserError, match="BM25 cannot load its files"):
        bm25.Bm25Searcher(folder / "bm25", SETTINGS)
