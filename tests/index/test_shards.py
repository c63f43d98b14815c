"""Which process makes which shard; the rest is told by test_builder.py."""

import numpy as np

from rag_jax.index import shards
from rag_jax.index.vectors import is_whole, write_shard
from rag_jax.team import Team


def test_whose_a_shard_is_goes_by_its_number_though_others_finish_theirs_meanwhile(tmp_path):
    second = {1: range(10, 20), 3: range(30, 40)}
    for shard in (0, 2, 4):
        assert shards._missing(tmp_path, 45, 10, 0, Team(1, 2)) == second
        write_shard(tmp_path, shard, np.ones((10, 2), np.float32))
    write_shard(tmp_path, 1, np.ones((10, 2), np.float32))
    assert shards._missing(tmp_path, 45, 10, 0, Team(1, 2)) == {3: range(30, 40)}
    assert shards._missing(tmp_path, 45, 10, 0, Team(0, 2)) == {}


def test_shards_of_any_number_are_taken_over(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    for shard in (7, 99_999, 100_000):
        write_shard(tmp_path / "old", shard, np.ones((10, 2), np.float32))
    assert shards.take_over(tmp_path / "old", tmp_path / "new") == 6
    assert all(is_whole(tmp_path / "new", shard) for shard in (7, 99_999, 100_000))
