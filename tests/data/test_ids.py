"""Ids seen before, in 8 bytes each; and their rows, in 16."""

import random

import numpy as np

from rag_jax.data.ids import IdRows, IdSet


def test_a_set_of_ids_says_what_a_set_says():
    random_, seen, ids = random.Random(0), set(), IdSet()
    for size in (0, 1, 500, 3, 2000, 1, 1, 700, 5000):
        some = [str(random_.randrange(4000)) for _ in range(size)]
        assert ids.holds(some).tolist() == [identity in seen for identity in some]
        expected = []
        for identity in some:
            expected.append(identity not in seen)
            seen.add(identity)
        assert ids.add(some).tolist() == expected
    assert ids.holds(["x", "ü", *sorted(seen)]).tolist() == [False, False] + [True] * len(seen)


def test_it_begins_with_given_ids_and_stays_small():
    ids = IdSet(str(number) for number in range(200_000))
    assert ids.holds(["0", "199999", "200000"]).tolist() == [True, True, False]
    assert not ids.add(["5", "5"]).any()
    assert sum(run.nbytes for run in ids._runs) == 8 * 200_000
    assert len(ids._runs) < 20 and all(run.dtype == np.uint64 for run in ids._runs)


def test_the_rows_of_ids():
    ids = [f"p{number}" for number in random.Random(0).sample(range(10**6), 150_000)]
    known = IdRows(iter(ids))
    asked = [ids[149_999], "x", ids[0], "", ids[70_000], ids[0]]
    assert known.rows(asked).tolist() == [149_999, -1, 0, -1, 70_000, 0]
    assert known.rows(ids).tolist() == list(range(150_000)) and known.rows([]).tolist() == []
