"""The report: recall against exact search, memory, and a loud line with what would mend it."""

import numpy as np
import pytest

from rag_jax.index import report as report_file
from rag_jax.index.base import Queries, open_index
from rag_jax.index.report import WIKIPEDIA, exact_search, recall_of, report
from rag_jax.index.vectors import Vectors, write_shard

TREE = {"scann": {"method": "tree", "leaves": 8, "leaves_to_search": 1, "reorder": 23}}


def said_of(folder, vector_NE, **opened):
    lines = []
    index = open_index(folder, **opened)
    queries = Queries(["a"] * len(vector_NE), None if vector_NE is None else vector_NE)
    recall = report(index, queries, "23 questions", batch=4, k=3, log=lines.append)
    return recall, "\n".join(lines)


@pytest.mark.parametrize("block", [7, 40])
def test_exact_search_is_a_stable_sort_whatever_the_blocks(tmp_path, block):
    random = np.random.default_rng(0)
    vector_NE = random.integers(-2, 3, (40, 4)).astype(np.float32)
    query_BE = random.integers(-2, 3, (5, 4)).astype(np.float32)
    write_shard(tmp_path, 0, vector_NE)
    vectors = Vectors(tmp_path, 40, 4, "float32", 40)
    expected_BN = np.argsort(-(query_BE @ vector_NE.T), axis=1, kind="stable")
    np.testing.assert_array_equal(exact_search(vectors, query_BE, 9, block=block), expected_BN[:, :9])
    np.testing.assert_array_equal(exact_search(vectors, query_BE, 50, block=block), expected_BN)


def test_recall_counts_what_both_have_among_the_first():
    exact_BK = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
    found_BK = np.array([[2, 1, 3, 4, 0, -1], [7, 0, -1, -1, -1, -1]])
    assert recall_of(found_BK, exact_BK) == {1: 0.5, 5: 0.5, 6: (4 / 6 + 1 / 6) / 2}


def test_too_few_leaves_are_said_loudly_with_what_would_mend_it(build, vector_NE):
    pytest.importorskip("scann")
    folder, _ = build(kind="scann", search=TREE)
    recall, said = said_of(folder, vector_NE)
    assert recall[10] < 0.95 and f"!!! recall@10 is {recall[10]:.3f}, below 0.95" in said
    line = next(line for line in said.splitlines() if "leaves_to_search = 4 instead of 1 makes it" in line)
    assert float(line.split()[-1]) > recall[10]
    assert f"{WIKIPEDIA:,} passages" in said and "questions a second, 4 at a time, 3 passages each" in said


def test_a_search_that_misses_nothing_is_quiet(build, vector_NE):
    pytest.importorskip("scann")
    for kind in ("scann", "exact"):
        folder, _ = build(kind, kind=kind)
        recall, said = said_of(folder, vector_NE)
        assert set(recall) == {1, 5, 10, 20} and set(recall.values()) == {1.0}
        assert "@10 1.000" in said and "!!!" not in said


@pytest.mark.parametrize("kind", ["scann", "exact"])
def test_a_search_without_settings_is_said_to_miss_but_nothing_to_mend_it(build, vector_NE, monkeypatch, kind):
    """Brute force, and exact search that a TPU may approximate, have none of a tree's parameters."""
    if kind == "scann":
        pytest.importorskip("scann")
    monkeypatch.setattr(report_file, "recall_of", lambda found_BK, exact_BK: {10: 0.5})
    recall, said = said_of(build(kind=kind)[0], vector_NE)
    assert recall == {10: 0.5} and said.endswith("passages are missed that exact search would find")


def test_memory_now_and_projected(build, vector_NE):
    """Exact search and vectors grow with the corpus: 24 bytes a passage of 6 fp32 numbers."""
    _, said = said_of(build()[0], vector_NE)
    line = next(line for line in said.splitlines() if "exact search" in line and "kB" in line)
    assert line.split()[-4:] == ["0.6", "kB", "504.4", "MB"]


def test_an_index_of_words_has_nothing_approximate(build, passages):
    pytest.importorskip("bm25s")
    settings = {"method": "lucene", "k1": 0.9, "b": 0.4, "tokenizer": "words"}
    folder, _ = build(kind="bm25", search={"bm25": settings})
    lines = []
    queries = Queries([passage.text for passage in passages], None)
    recall = report(open_index(folder), queries, "texts", batch=4, k=3, log=lines.append)
    assert recall == {} and "nothing approximate" in "\n".join(lines) and "BM25, files" in "\n".join(lines)


@pytest.mark.parametrize(
    ("count", "words"), [(999, "1.0 kB"), (123_456, "123.5 kB"), (5e6, "5.0 MB"), (6.4e13, "64,000.0 GB")]
)
def test_sizes_in_words(count, words):
    assert report_file._size(count) == words
