"""What a host holds, by hand, and whose number of passages counts."""

import pytest

from rag_jax.command import find_config, load_config
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST
from rag_jax.index.base import IndexManifest, write_index_manifest
from rag_jax.planning.chips import topology
from rag_jax.planning.host import WIKIPEDIA, WORD, corpus, host
from rag_jax.storage import publish, twin
from rag_jax.workdir import Workdir
from tests.stores import Flaky

HOST, FOUR = topology("v5e:2x4"), topology("v5e:4x4")
SHARE = "a device's share of the vectors, while it is read"


@pytest.fixture(scope="module")
def nq():
    return load_config(find_config("nq"))


def test_the_papers_index_by_hand(nq):
    found = host(nq, WIKIPEDIA, 768, HOST, state=6e9)
    assert found.disk["vectors"] == WIKIPEDIA * 768 * 2
    assert found.disk["passages"] == WIKIPEDIA * 100 * WORD
    assert found.disk["checkpoints (4)"] == 24e9
    # All vectors three times, and what trains the tree twice: 50 vectors a leaf, of 2 sqrt(N) leaves.
    assert sum(found.building.values()) == pytest.approx(768 * 4 * (3 * WIKIPEDIA + 2 * 100 * WIKIPEDIA**0.5), rel=1e-3)
    # Vectors to score again, and two codes of half a byte for every two dimensions.
    assert found.training["ScaNN"] == pytest.approx(WIKIPEDIA * (768 * 2 + 2 * (192 + 4)), rel=0.01)
    assert found.answering == {"ScaNN": found.training["ScaNN"]}


def test_each_kind_of_index_holds_its_own(nq):
    def held(kind):
        config = load_config(find_config("nq"))
        config.index.kind = kind
        return host(config, 1_000_000, 768, HOST, state=0.0)

    assert "ScaNN" not in held("exact").training
    assert held("exact").training[SHARE] == held("exact").answering[SHARE] == pytest.approx(192e6, rel=0.13)
    assert "vectors" not in held("bm25").disk and "BM25" in held("bm25").disk
    assert {"ScaNN", "BM25", "vectors"} <= held("hybrid").disk.keys()
    assert held("none").disk.keys() == {"checkpoints (4)"}


def test_an_index_is_split_over_hosts_in_training_alone():
    def held(machine, **changes):
        config = load_config(find_config("nq"))
        config.index.update(changes)
        return host(config, WIKIPEDIA, 768, machine, state=0.0)

    whole, split = held(FOUR), held(FOUR, split=True)
    assert whole == held(HOST) == held(HOST, split=True)
    assert split.training["ScaNN"] == pytest.approx(whole.training["ScaNN"] / 4, rel=0.01)
    # Less what is searched by in the end, the most that ScaNN holds of a quarter, as of a whole.
    most = split.training["ScaNN"] + split.training["the rest of its part's vectors, while ScaNN is built"]
    assert most == pytest.approx(768 * 4 * (3 * WIKIPEDIA / 4 + 2 * 50 * WIKIPEDIA**0.5), rel=1e-3)
    assert split.disk["ScaNN of its part"] == split.training["ScaNN"]
    assert (split.building, split.answering) == (whole.building, whole.answering)
    whole, split = held(FOUR, kind="exact"), held(FOUR, kind="exact", split=True)
    assert split.training[SHARE] == pytest.approx(whole.training[SHARE] / 4, rel=0.1)
    assert split.answering == whole.answering


def test_a_step_that_searches_has_the_index_on_the_devices_of_all_hosts(nq):
    config = load_config(find_config("nq"))
    config.index.update(kind="exact", split=True)
    config.retrieval.lag = 0
    found = host(config, WIKIPEDIA, 768, FOUR, state=0.0)
    assert found.training[SHARE] == pytest.approx(found.answering[SHARE] / 4, rel=0.1)


def write_index(folder):
    folder.mkdir(parents=True)
    (folder / "vectors-0").write_bytes(bytes(1000))
    write_index_manifest(
        folder, IndexManifest("exact", 30, 16, "float32", 8, "encoder", 1.0, "passages", {"exact": {}})
    )


def test_the_corpus_is_given_or_there_or_the_papers(nq, tmp_path):
    run = Workdir(tmp_path)
    assert corpus(nq, None, None).passages == corpus(nq, run, None).passages == WIKIPEDIA
    write_index(run.index)
    assert corpus(nq, run, None) == (30, str(tmp_path / "index"))
    assert corpus(nq, run, 7).passages == 7
    assert corpus(load_config(find_config("demo")), None, None).passages == 3176


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A run in a store of which a machine without any of it is asked."""
    Flaky.fill({})
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "there"))
    write_index(twin("flaky://bucket/run/index"))
    publish(twin("flaky://bucket/run/index"))
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "here"))
    return "flaky://bucket/run"


def test_of_an_index_at_a_url_the_manifest_alone_is_read(nq, url, monkeypatch):
    read = []
    monkeypatch.setattr(Flaky, "before", staticmethod(lambda operation, path: read.append((operation, path))))
    assert corpus(nq, Workdir(url), 7).passages == 7 and not read
    assert corpus(nq, Workdir(url), None) == (30, f"{url}/index")
    assert {path for operation, path in read if operation in ("cat_file", "get_file")} == {
        "/bucket/run/index.complete.json", f"/bucket/run/index/{MANIFEST}"
    }  # fmt: skip
    assert corpus(nq, Workdir("flaky://bucket/another"), None).passages == WIKIPEDIA


def test_an_index_at_a_url_whose_manifest_is_none_is_an_error(nq, url):
    Flaky.cut(f"/bucket/run/index/{MANIFEST}")
    with pytest.raises(UserError, match=f"^{url}/index/{MANIFEST}: does not describe an index .*--passages=N"):
        corpus(nq, Workdir(url), None)
