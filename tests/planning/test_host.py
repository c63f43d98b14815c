"""What a host holds, by hand, and whose number of passages counts."""

import pytest

from rag_jax.command import find_config, load_config
from rag_jax.index.base import IndexManifest, write_index_manifest
from rag_jax.planning.host import WIKIPEDIA, WORD, corpus, host


@pytest.fixture(scope="module")
def nq():
    return load_config(find_config("nq"))


def test_the_papers_index_by_hand(nq):
    found = host(nq, WIKIPEDIA, 768, on_host=8, state=6e9)
    assert found.disk["vectors"] == WIKIPEDIA * 768 * 2
    assert found.disk["passages"] == WIKIPEDIA * 100 * WORD
    assert found.disk["checkpoints (3)"] == 18e9
    assert found.building["all vectors as fp32"] == WIKIPEDIA * 768 * 4
    # Vectors to score again, and two codes of half a byte for every two dimensions.
    assert found.running["ScaNN"] == pytest.approx(WIKIPEDIA * (768 * 2 + 2 * (192 + 4)), rel=0.01)


def test_each_kind_of_index_holds_its_own(nq):
    def held(kind):
        config = load_config(find_config("nq"))
        config.index.kind = kind
        return host(config, 1_000_000, 768, on_host=8, state=0.0)

    assert "ScaNN" not in held("exact").running
    assert held("exact").running["a device's share of the vectors, while it is read"] == pytest.approx(192e6, rel=0.13)
    assert "vectors" not in held("bm25").disk and "BM25" in held("bm25").disk
    assert {"ScaNN", "BM25", "vectors"} <= held("hybrid").disk.keys()
    assert held("none").disk.keys() == {"checkpoints (3)"}


def test_the_corpus_is_given_or_there_or_the_papers(nq, tmp_path):
    write_index_manifest(
        tmp_path, IndexManifest("exact", 30, 16, "float32", 8, "encoder", 1.0, "passages", {"exact": {}})
    )
    assert corpus(nq, None, None).passages == corpus(nq, tmp_path / "nowhere", None).passages == WIKIPEDIA
    assert corpus(nq, tmp_path, None) == (30, str(tmp_path))
    assert corpus(nq, tmp_path, 7).passages == 7
    assert corpus(load_config(find_config("demo")), None, None).passages == 3176
