"""Opening and searching a whole index folder, and every way in which it can be the wrong one."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from rag_jax.data import passages as stores
from rag_jax.data.tokenizer import train_byte_bpe
from rag_jax.errors import UserError
from rag_jax.files import write_manifest
from rag_jax.index import base
from rag_jax.index.base import FOLDER_KIND, Queries, open_index, read_index_manifest, write_index_manifest

from .conftest import Encoder


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)  # in place: some of these files have a second name elsewhere


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_search_gather_and_passages_agree_after_a_move(build, vector_NE, passages, tmp_path, kind):
    if kind == "scann":
        pytest.importorskip("scann")
    folder, _ = build(kind=kind, score_scale=20.0)
    folder.rename(tmp_path / "moved")
    index = open_index(tmp_path / "moved", expect_fingerprint="encoder-a", verify=True)
    assert (index.manifest.count, index.manifest.width) == vector_NE.shape
    assert (index.manifest.kind, index.manifest.score_scale) == (kind, 20.0)
    query_BE = vector_NE[[3, 8]] + np.float32(0.01)
    ids_BK, scores_BK = index.search(Queries(["a", "b"], query_BE), 4)
    score_BN = query_BE @ vector_NE.T
    np.testing.assert_array_equal(ids_BK, np.argsort(-score_BN, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(index.vectors.gather(ids_BK), vector_NE[ids_BK])
    # The scale is only remembered: scores are the inner products themselves.
    np.testing.assert_allclose(scores_BK, np.take_along_axis(score_BN, ids_BK, 1), rtol=1e-5)
    assert index.passages[int(ids_BK[0, 0])] == passages[ids_BK[0, 0]]


def test_any_index_can_be_searched_exactly_but_not_the_other_way(build, vector_NE):
    pytest.importorskip("scann")
    folder, _ = build(kind="scann")
    queries = Queries(["a"], vector_NE[:1])
    ids, scores = open_index(folder).search(queries, 30)
    exact_ids, exact_scores = open_index(folder, kind="exact").search(queries, 30)
    np.testing.assert_array_equal(ids, exact_ids)
    np.testing.assert_allclose(scores, exact_scores, rtol=1e-5, atol=1e-5)
    assert (ids[:, 23:] == -1).all() and (scores[:, 23:] == -np.inf).all()
    other, _ = build("exact", kind="exact")
    with pytest.raises(UserError, match=r"index\.kind = 'exact', it cannot be searched as 'scann'"):
        open_index(other, kind="scann")


def test_another_encoder_is_refused_naming_both(build):
    folder, _ = build()
    with pytest.raises(UserError, match="made by passage encoder encoder-a, not by encoder-b") as error:
        open_index(folder, expect_fingerprint="encoder-b")
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_passages_of_another_generator_are_refused(build, tmp_path):
    folder, _ = build()
    with pytest.raises(UserError, match="tokens of tokenizer"):
        open_index(folder, tokenizer=train_byte_bpe(["quite other words, other merges"], 300, tmp_path / "other"))


def test_a_folder_without_a_manifest_is_refused_with_the_command(build, tmp_path):
    folder, _ = build()
    (folder / "manifest.json").unlink()
    for unfinished in (folder, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"python -m rag_jax\.build_index") as error:
            open_index(unfinished)
        assert str(error.value).startswith(f"{unfinished}: holds no finished index")


def test_damaged_vectors_are_named_at_first_use_and_by_verify(build, vector_NE):
    folder, _ = build()
    shutil.copy(folder / "vectors-00001.npy", folder / "copy")
    (folder / "copy").rename(folder / "vectors-00001.npy")
    flip_last_byte(folder / "vectors-00001.npy")
    with pytest.raises(UserError, match=r"vectors-00001\.npy"):
        open_index(folder)  # exact search reads every vector
    with pytest.raises(UserError, match=r"vectors-00001\.npy.*checksum"):
        open_index(folder, verify=True)


def test_a_cut_file_is_named_without_reading_it(build):
    folder, _ = build()
    path = folder / "vectors-00002.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"vectors-00002\.npy.*bytes"):
        open_index(folder)


def test_other_passages_beside_the_vectors_are_refused(build):
    folder, _ = build()
    manifest = read_index_manifest(folder)
    write_index_manifest(folder, replace(manifest, passages_checksum="0" * 64))
    with pytest.raises(UserError, match="passages: not the passages of the vectors beside it"):
        open_index(folder)
    write_index_manifest(folder, replace(manifest, search={"method": "brute_force"}))
    with pytest.raises(UserError, match="made by an earlier version of this program; build it again"):
        open_index(folder)
    write_manifest(folder, {"kind": FOLDER_KIND, "index": {"count": 23}})
    with pytest.raises(UserError, match=r"manifest\.json: does not describe an index"):
        open_index(folder)


def test_questions_that_do_not_fit_are_refused(build, vector_NE):
    index = open_index(build()[0])
    with pytest.raises(UserError, match=r"no question embeddings given; expected \[B, 6\]"):
        index.search(Queries(["a"], None), 2)
    with pytest.raises(UserError, match=r"embeddings \[1, 5\]; expected \[B, 6\]"):
        index.search(Queries(["a"], vector_NE[:1, :5]), 2)
    with pytest.raises(UserError, match="question 2 of 2: its embedding is not finite"):
        index.search(Queries(["a", "b"], np.stack([vector_NE[0], vector_NE[0] * np.nan])), 2)
    with pytest.raises(UserError, match="k: 0; expected at least 1"):
        index.search(Queries(["a"], vector_NE[:1]), 0)


@pytest.fixture
def retrained(build, tmp_path, monkeypatch):
    """An index, and before(module, name): another encoder's takes its place when that is called, so many times."""

    def double(ids_BP):
        return 2 * Encoder()(ids_BP)

    (folder, _), (other, _) = build(), build("other", double, fingerprint="encoder-b")

    def before(module, name, *, times):
        called, left = getattr(module, name), [None] * times

        def exchanged(*arguments, **settings):
            if left:
                left.pop()
                for source, target in ((folder, "aside"), (other, "index"), (tmp_path / "aside", "other")):
                    source.rename(tmp_path / target)
            return called(*arguments, **settings)

        monkeypatch.setattr(module, name, exchanged)

    return folder, before


@pytest.mark.parametrize("name", ["Vectors", "open_searchers"])
def test_an_index_that_is_replaced_while_it_is_opened_is_one_of_the_two(retrained, vector_NE, name):
    folder, before = retrained
    old = open_index(folder)
    before(base, name, times=1)
    index = open_index(folder)
    assert index.manifest.encoder_fingerprint == "encoder-b"
    np.testing.assert_array_equal(index.vectors.read(0, 23), 2 * vector_NE)
    _, score_BK = index.search(Queries(["a"], vector_NE[:1]), 1)
    np.testing.assert_allclose(score_BK[0], 2 * (vector_NE @ vector_NE[0]).max(), rtol=1e-5)
    assert index.vectors_checksum() == open_index(folder).vectors_checksum() != old.vectors_checksum()


def test_an_encoder_that_fits_the_old_index_alone_is_told_of_the_new_one(retrained):
    folder, before = retrained
    before(base, "Vectors", times=1)
    with pytest.raises(UserError, match="made by passage encoder encoder-b, not by encoder-a"):
        base.open_contents(folder, expect_fingerprint="encoder-a", tokenizer=None)


def test_an_index_that_is_replaced_again_and_again_is_not_opened(retrained):
    folder, before = retrained
    before(base, "Vectors", times=3)
    with pytest.raises(
        UserError, match=r"index: changed each of 3 times that it was opened \(another took its place\)"
    ):
        open_index(folder)


def test_an_index_that_is_removed_while_it_is_opened(build, monkeypatch):
    folder, _ = build()

    def removed(path):
        shutil.rmtree(folder)
        return path.read_bytes()

    monkeypatch.setattr(stores, "checksum", removed)
    with pytest.raises(UserError, match=f"^{folder}: holds no finished index"):
        open_index(folder)
