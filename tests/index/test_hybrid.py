"""Ranks fused by hand, and an index that has both halves."""

from fractions import Fraction

import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index.base import Queries, open_index, verify_index
from rag_jax.index.hybrid import fuse

from .test_base import flip_last_byte

SETTINGS = {"method": "lucene", "k1": 0.9, "b": 0.4, "tokenizer": "words"}


def test_ranks_are_fused_as_by_hand():
    """1/61 + 1/63 for 8 and for 2, whom the row parts; 1/62 for 5 and for 9; 1/63 for none."""
    dense_BD = np.array([[8, 5, 2], [3, -1, -1], [-1, -1, -1]])
    words_BD = np.array([[2, 9, 8], [-1, -1, -1], [-1, -1, -1]])
    fused = fuse((dense_BD, words_BD), 5)
    assert fused.dtype == np.int64
    assert fused.tolist() == [[2, 8, 5, 9, -1], [3, -1, -1, -1, -1], [-1] * 5]
    assert fuse((dense_BD, words_BD), 1).tolist() == [[2], [3], [-1]]


def test_random_rankings_against_exact_fractions():
    rng = np.random.default_rng(0)
    rankings = [np.stack([rng.permutation(40)[:12] for _ in range(8)]) for _ in range(2)]
    rankings[1] = rankings[1][:, :7]  # one may be shorter
    for row, found in enumerate(fuse(rankings, 10)):
        sums = {}
        for ranking in rankings:
            for rank, place in enumerate(ranking[row].tolist(), 1):
                sums[place] = sums.get(place, 0) + Fraction(1, 60 + rank)
        assert found.tolist() == sorted(sums, key=lambda place: (-sums[place], place))[:10]


@pytest.fixture
def hybrid(build):
    pytest.importorskip("scann")
    pytest.importorskip("bm25s")
    folder, encoder = build(kind="hybrid", search={"bm25": SETTINGS})
    return folder, encoder


def test_both_rankings_choose_and_vectors_score(build, hybrid, vector_NE):
    folder, _ = hybrid
    index = open_index(folder, expect_fingerprint="encoder-a", verify=True)
    assert index.by_vector and index.manifest.search == {"scann": {"method": "brute_force"}, "bm25": SETTINGS}
    questions, query_BE = ["T7 ab", "zebra"], vector_NE[[3, 8]] + np.float32(0.01)
    dense, words = (
        open_index(folder, kind=kind).search(Queries(questions, query_BE), 23) for kind in ("scann", "bm25")
    )
    matching_BN = np.where(words[1] > 0, words[0], -1)
    assert (matching_BN[0] >= 0).sum() > 5 and (matching_BN[1] == -1).all()
    id_BK, score_BK = index.search(Queries(questions, query_BE), 4)
    np.testing.assert_array_equal(id_BK, fuse((dense[0], matching_BN), 4))
    np.testing.assert_array_equal(id_BK[1], dense[0][1, :4])  # no word known: as without BM25
    assert 7 in id_BK[0] and id_BK[0].tolist() != dense[0][0, :4].tolist()
    np.testing.assert_allclose(score_BK, np.einsum("be,bke->bk", query_BE, vector_NE[id_BK]), rtol=1e-5)
    assert (np.diff(score_BK[0]) > 0).any()  # in the order of the fused ranks
    beyond, scores = index.search(Queries(questions, query_BE), 25)
    assert (beyond[:, 23:] == -1).all() and (scores[:, 23:] == -np.inf).all() and np.isfinite(scores[:, :23]).all()


def test_its_vectors_are_taken_over_from_a_dense_index(build, hybrid):
    folder, encoder = hybrid
    assert len(encoder.shapes) == 7
    _, encoder = build(kind="exact")
    assert encoder.shapes == [] and not (folder / "bm25").exists() and not (folder / "scann").exists()
    _, encoder = build(kind="hybrid", search={"bm25": SETTINGS})
    assert encoder.shapes == [] and open_index(folder, verify=True).manifest.kind == "hybrid"


def test_embeddings_are_needed(hybrid):
    with pytest.raises(UserError, match=r"no question embeddings given; expected \[B, 6\]"):
        open_index(hybrid[0]).search(Queries(["a"], None), 2)


@pytest.mark.parametrize("damaged", [None, "scann", "bm25"])
def test_searchers_that_stay_the_same_are_taken_over_if_they_are_whole(build, damaged):
    """A new setting of the search alone: files are linked, and damage in them is built anew, never vouched for."""
    search, said = {"bm25": SETTINGS, "scann": {"method": "tree", "leaves": 4, "leaves_to_search": 2}}, []
    folder, _ = build(kind="hybrid", search=search)
    if damaged:
        flip_last_byte(max((folder / damaged).iterdir(), key=lambda path: path.stat().st_size))
    search["scann"]["leaves_to_search"] = 4
    _, encoder = build(kind="hybrid", search=search, log=said.append)
    assert not encoder.shapes, "nothing is encoded"
    assert sum("its files are taken over" in line for line in said) == (0 if damaged else 2)
    verify_index(folder)
    assert open_index(folder).manifest.search["scann"]["leaves_to_search"] == 4
