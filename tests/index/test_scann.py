"""ScaNN at its border: true inner products in order, int64 ids, missing places, saved and loaded anywhere."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index.vectors import Vectors, write_shard

pytest.importorskip("scann", reason="ScaNN has wheels for Linux x86_64 only")

from rag_jax.index import scann


def whole_numbers(seed, *shape):
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def brute_force(query_BE, vector_NE, k):
    score_BN = query_BE @ vector_NE.T
    order_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :k]
    return order_BK, np.take_along_axis(score_BN, order_BK, 1)


def searcher_of(folder, vector_NE, **overrides):
    write_shard(folder, 0, vector_NE)
    dtype = "float32" if vector_NE.dtype == np.float32 else "bfloat16"
    vectors = Vectors(folder, *vector_NE.shape, dtype, len(vector_NE))
    chosen = scann.parameters(len(vector_NE), overrides)
    (folder / "scann").mkdir()
    scann.build(vectors, folder / "scann", chosen)
    return scann.ScannSearcher(folder / "scann", chosen, vectors)


def test_equals_brute_force_with_duplicates_and_a_zero_vector(tmp_path):
    vector_NE, query_BE = whole_numbers(0, 29, 4), whole_numbers(1, 5, 4)
    vector_NE[[4, 11, 28]] = vector_NE[7]
    vector_NE[13] = 0
    id_BK, score_BK = searcher_of(tmp_path, vector_NE).search(query_BE, 29)
    expected_id, expected_score = brute_force(query_BE, vector_NE, 29)
    np.testing.assert_array_equal(id_BK, expected_id)
    np.testing.assert_array_equal(score_BK, expected_score)
    assert id_BK.dtype == np.int64 and score_BK.dtype == np.float32


def test_a_build_makes_no_further_copy_of_the_vectors(tmp_path):
    """Beside the three that ScaNN's building is planned with; numpy tells of its own."""
    vector_NE = np.random.default_rng(5).standard_normal((4000, 32)).astype(np.float32)
    write_shard(tmp_path, 0, vector_NE)
    vectors = Vectors(tmp_path, 4000, 32, "float32", 4000)
    (tmp_path / "scann").mkdir()
    tracemalloc.start()
    scann.build(vectors, tmp_path / "scann", scann.parameters(4000, {"method": "tree", "leaves": 100}))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert vector_NE.nbytes < most < 1.5 * vector_NE.nbytes


def test_k_above_the_corpus_leaves_places_marked_missing(tmp_path):
    searcher = searcher_of(tmp_path, np.array([[1.0], [3.0], [-2.0]], np.float32))
    id_BK, score_BK = searcher.search(np.array([[1.0]], np.float32), 5)
    np.testing.assert_array_equal(id_BK, [[1, 0, 2, -1, -1]])
    np.testing.assert_array_equal(score_BK, [[3, 1, -2, -np.inf, -np.inf]])


def test_a_single_passage_and_a_single_question(tmp_path):
    searcher = searcher_of(tmp_path, np.array([[2.0, 1.0]], np.float32))
    id_BK, score_BK = searcher.search(np.array([[1.0, 3.0]], np.float32), 1)
    assert (id_BK.tolist(), score_BK.tolist()) == ([[0]], [[5.0]])


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("method", ["brute_force", "tree"])
def test_scores_are_inner_products_in_order(tmp_path, dtype, method):
    vector_NE = (8 * np.random.default_rng(2).standard_normal((600, 16))).astype(dtype)
    query_BE = np.random.default_rng(3).standard_normal((7, 16)).astype(np.float32)
    # Every leaf is searched and every candidate scored exactly, so that the tree's answer is known too.
    all_of_it = {"leaves": 20, "leaves_to_search": 20, "reorder": 600} if method == "tree" else {}
    searcher = searcher_of(tmp_path, vector_NE, method=method, **all_of_it)
    id_BK, score_BK = searcher.search(query_BE, 6)
    expected_id, expected_score = brute_force(query_BE, vector_NE.astype(np.float32), 6)
    np.testing.assert_array_equal(id_BK, expected_id)
    np.testing.assert_allclose(score_BK, expected_score, rtol=1e-5, atol=1e-5)


def test_the_tree_marks_what_its_searched_leaves_cannot_fill(tmp_path):
    vector_NE = np.random.default_rng(4).standard_normal((600, 8)).astype(np.float32)
    searcher = searcher_of(tmp_path, vector_NE, method="tree", leaves=30, leaves_to_search=1)
    id_BK, score_BK = searcher.search(vector_NE[:2], 500)
    missing = id_BK == -1
    assert missing.any() and (score_BK[missing] == -np.inf).all() and np.isfinite(score_BK[~missing]).all()
    assert (score_BK[:, 1:] <= score_BK[:, :-1]).all()
    for row in id_BK:
        assert len(set(row[row >= 0])) == (row >= 0).sum()


@pytest.mark.parametrize(
    "settings", [{"method": "brute_force"}, {"method": "tree", "leaves": 20, "reorder_dtype": "int8"}]
)
def test_a_moved_searcher_answers_the_same(tmp_path, settings):
    vector_NE = np.random.default_rng(5).standard_normal((600, 8)).astype(np.float32)
    (tmp_path / "here").mkdir()
    before = searcher_of(tmp_path / "here", vector_NE, **settings).search(vector_NE[:9], 5)
    (tmp_path / "here").rename(tmp_path / "there")
    vectors = Vectors(tmp_path / "there", 600, 8, "float32", 600)
    moved = scann.ScannSearcher(tmp_path / "there" / "scann", scann.parameters(600, settings), vectors)
    for old, new in zip(before, moved.search(vector_NE[:9], 5), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_scores_after_int8_are_the_inner_products_of_the_stored_vectors(tmp_path, dtype):
    """Without reordering by the vectors themselves int8's own scores would be off by some hundredths."""
    vector_NE = (8 * np.random.default_rng(6).standard_normal((600, 16))).astype(dtype)
    query_BE = np.random.default_rng(7).standard_normal((7, 16)).astype(np.float32)
    settings = {"method": "tree", "leaves": 20, "leaves_to_search": 20, "reorder": 600}
    searcher = searcher_of(tmp_path, vector_NE, **settings, reorder_dtype="int8")
    id_BK, score_BK = searcher.search(query_BE, 6)
    score_BN = query_BE @ vector_NE.astype(np.float32).T
    np.testing.assert_allclose(score_BK, np.take_along_axis(score_BN, id_BK, 1), rtol=1e-5, atol=1e-5)
    assert (np.diff(score_BK) <= 0).all() and not (id_BK == -1).any()
    id_BK, score_BK = searcher.search(query_BE, 601)
    assert (id_BK[:, 600] == -1).all() and (score_BK[:, 600] == -np.inf).all()


@pytest.fixture(scope="module")
def clustered():
    """24,000 vectors [N, 96] around 300 centres, and 200 questions drawn alike."""
    random = np.random.default_rng(8)
    spectrum_E = np.arange(1, 97) ** -0.375
    centre_CE = random.standard_normal((300, 96)) * spectrum_E
    vector_NE = centre_CE[random.integers(300, size=24_200)] + 0.4 * random.standard_normal((24_200, 96)) * spectrum_E
    vector_NE = vector_NE.astype(np.float32)
    return vector_NE[200:], vector_NE[:200]


@pytest.mark.parametrize("reorder_dtype", ["", "int8"])
def test_the_chosen_parameters_miss_little_of_a_clustered_corpus(tmp_path, clustered, reorder_dtype):
    vector_NE, query_BE = clustered
    searcher = searcher_of(tmp_path, vector_NE, reorder_dtype=reorder_dtype)
    assert searcher.chosen["method"] == "tree"
    found_BK, _ = searcher.search(query_BE, 20)
    exact_BK, _ = brute_force(query_BE, vector_NE, 20)
    share = np.mean([len(set(found) & set(exact)) / 20 for found, exact in zip(found_BK, exact_BK, strict=True)])
    print(f"recall@20 {share:.3f}")
    assert share >= 0.98


def test_memory_is_about_that_of_the_files(tmp_path, clustered):
    """On disk a code takes a byte, in memory half a one: tests/benchmarks/scann.py measures that."""
    vector_NE, _ = clustered
    codes = -(-96 // scann.parameters(len(vector_NE))["block_width"])
    for number, (settings, unpacked) in enumerate(
        (({"method": "brute_force"}, 0), ({}, codes), ({"reorder_dtype": "int8"}, codes))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        searcher = searcher_of(folder, vector_NE, **settings)
        files = sum(path.stat().st_size for path in (folder / "scann").iterdir()) - len(vector_NE) * unpacked
        assert scann.memory(searcher.chosen, *vector_NE.shape, 4) == pytest.approx(files, rel=0.05), settings


def test_missing_or_damaged_files_are_one_line(tmp_path):
    searcher_of(tmp_path, whole_numbers(0, 5, 2))
    (tmp_path / "scann" / "dataset.npy").write_bytes(b"short")
    with pytest.raises(UserError, match="scann: ScaNN cannot load its files"):
        scann.ScannSearcher(tmp_path / "scann", {"method": "brute_force"}, None)
    with pytest.raises(UserError, match="ScaNN cannot load its files"):
        scann.ScannSearcher(tmp_path / "nowhere", {"method": "brute_force"}, None)


def test_parameters_follow_the_number_of_passages():
    assert scann.parameters(19_999) == {"method": "brute_force"}
    found = {count: scann.parameters(count) for count in (20_000, 300_000, 21_000_000)}
    assert {parameters["method"] for parameters in found.values()} == {"tree"}
    assert [parameters["leaves"] for parameters in found.values()] == [283, 1095, 9165]
    assert [parameters["leaves_to_search"] for parameters in found.values()] == [100, 100, 239]
    assert [parameters["reorder"] for parameters in found.values()] == [87, 149, 350]
    assert [parameters["training_sample"] for parameters in found.values()] == [20_000, 100_000, 458_250]
    assert scann.parameters(1, {"method": "tree"})["leaves"] == 1


def test_overrides_take_the_place_of_what_is_chosen_but_for_0_and_nothing():
    chosen = scann.parameters(50_000)
    nothing = {name: type(value)() for name, value in chosen.items()}
    assert scann.parameters(50_000, nothing) == chosen
    told = {"reorder": 50, "reorder_dtype": "int8"}
    assert scann.parameters(50_000, told) == {**chosen, **told}
    assert scann.parameters(50_000, {"method": "brute_force"}) == {"method": "brute_force"}
    assert scann.parameters(500, {"method": "tree"})["leaves"] == 45
    assert "leaves 447, leaves_to_search 100, " in scann.stated(chosen) and "reorder_dtype" not in scann.stated(chosen)


def test_only_what_a_search_is_told_leaves_the_files_as_they_are():
    chosen = scann.parameters(50_000)
    for name, value in (("leaves_to_search", 7), ("reorder", 7), ("leaves", 400), ("reorder_dtype", "int8")):
        assert scann.same_files(chosen, {**chosen, name: value}) == (name in scann.AT_SEARCH)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method": "magic"}, "method: 'magic'; expected one of"),
        ({"leafs": 3}, r"\['leafs'\] unknown to method 'tree'"),
        (
            {"method": "brute_force", "leaves": 3},
            r"\['leaves'\] unknown to method 'brute_force', which 50,000 passages are searched with; it has \[\]",
        ),
        ({"reorder": -1}, "reorder: -1; expected a positive number"),
        ({"leaves": 2.5}, "leaves: 2.5; expected a positive number"),
        ({"leaves": 10, "leaves_to_search": 20}, "leaves_to_search <= leaves <= passages"),
    ],
)
def test_wrong_parameters_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        scann.parameters(50_000, overrides)
