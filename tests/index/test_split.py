"""An index in parts: what the parts find together is what one searcher of all finds."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from rag_jax.config import default_config
from rag_jax.files import MANIFEST, write_json
from rag_jax.index import split
from rag_jax.index.split import Part, SplitSearcher, open_part
from rag_jax.index.vectors import Vectors, write_shard
from rag_jax.training.searchers import of_training
from rag_jax.workdir import Workdir

N, E, B, K, PARTS = 47, 8, 4, 6, 3


class Rows:
    """What every process has, one after the other: the processes are threads here."""

    def __init__(self):
        self.barrier, self.given = threading.Barrier(PARTS), [None] * PARTS

    def of(self, process):
        def of_all(array):
            self.given[process] = array
            self.barrier.wait(60)
            whole = np.concatenate(self.given)
            self.barrier.wait(60)
            return whole

        return of_all


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    vector_NE = np.random.default_rng(0).integers(-2, 3, (N, E)).astype(np.float32)
    write_shard(folder, 0, vector_NE)
    write_json(folder / MANIFEST, {"seal": "one"})
    return folder, Vectors(folder, N, E, "float32", N), vector_NE


@pytest.mark.parametrize("kind", ["exact", "scann"])
def test_the_parts_find_together_what_one_searcher_finds(vectors, tmp_path, kind):
    """Each process asks its own questions; one asks for more than a part holds."""
    if kind == "scann":
        pytest.importorskip("scann")
    folder, stored, vector_NE = vectors
    rows, found, query_BE = Rows(), [None] * PARTS, np.random.default_rng(1).integers(-2, 3, (PARTS * B, E))
    for k in (K, N // PARTS + 4):

        def process(number, k=k):
            part, first = open_part(folder, tmp_path, kind, {}, stored, (number, PARTS))
            searcher = SplitSearcher(part, first, number, rows.of(number))
            found[number] = searcher.search(query_BE[number * B : (number + 1) * B].astype(np.float32), k)

        threads = [threading.Thread(target=process, args=(number,)) for number in range(PARTS)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        score_BN = (query_BE @ vector_NE.T).astype(np.float32)
        order_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(np.concatenate([ids for ids, _ in found]), order_BK)
        scores = np.take_along_axis(score_BN, order_BK, 1)
        np.testing.assert_array_equal(np.concatenate([score for _, score in found]), scores)


def test_a_part_s_searcher_is_kept_until_the_index_or_its_parameters_change(vectors, tmp_path, capsys):
    pytest.importorskip("scann")
    folder, stored, _ = vectors

    def made(parameters):
        open_part(folder, tmp_path, "scann", {"scann": parameters}, stored, (1, PARTS))
        return (tmp_path / f"2-of-{PARTS}" / MANIFEST).stat().st_mtime_ns

    first = made({})
    assert made({}) == first
    tree = {"method": "tree", "leaves": 2, "leaves_to_search": 2}
    assert (second := made(tree)) != first
    write_json(folder / MANIFEST, {"seal": "another"})
    assert (third := made(tree)) != second
    for path in (tmp_path / f"2-of-{PARTS}").iterdir():  # and one that is damaged is named, and made again
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        capsys.readouterr()
        assert third != (third := made(tree))
        assert str(path) in capsys.readouterr().out


def test_a_part_is_searched_as_config_index_says(vectors, tmp_path, monkeypatch):
    config, told = default_config(), []
    config.index.update(kind="exact", split=True, recall_target=0.9)
    config.retrieval.lag = 1
    monkeypatch.setattr(split, "ExactSearcher", lambda rows, **settings: told.append(settings))
    processes = SimpleNamespace(processes=PARTS, of_all=None)
    of_training(config, {"joint": config.joint}, Workdir(tmp_path), processes, 0)(vectors[1], None)
    assert told == [{"recall_target": 0.9}]


def test_a_part_reads_its_own_rows(vectors):
    _, stored, vector_NE = vectors
    part = Part(stored, 10, 30)
    assert len(part) == 20 and part.shape == (20, E)
    np.testing.assert_array_equal(part.read(3, 9), vector_NE[13:19])
    np.testing.assert_array_equal(
        part.gather(np.array([[0, -1], [19, 4]])), [[vector_NE[10], 0 * vector_NE[0]], [vector_NE[29], vector_NE[14]]]
    )
