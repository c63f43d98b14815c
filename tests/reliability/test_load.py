"""Load: eight threads that ask at once, indexes swapped under them, and what thousands of answers leave behind."""

import gc
import json
import os
import random
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.index.base import Queries, open_index
from rag_jax.index.builder import build_index
from rag_jax.index.encoding import Encoder

from ..conftest import ROOT
from .conftest import DEMO

THREADS = 8
ASKED = [
    ["who is mayor of Cladow?"],
    ["Jarrow: which year?", "who is mayor of Hexwold?", "Eskford: which mayor?"],
    ["mayor"],
    [f"who is {'the ' * (n % 5)}mayor of {town}?" for n, town in enumerate(("Gritsea", "Dunmere", "Kestrel") * 4)],
]  # the last ones are more than config.evaluate.batch, 8: two batches of one request
SEARCHES = {"scann": ("scann",), "bm25": ("bm25s",), "hybrid": ("scann", "bm25s")}
WORDS = {"bm25": {"method": "lucene", "k1": 0.9, "b": 0.4, "tokenizer": "english"}}


def orders(each):
    """So many rounds over all requests for every thread, each thread in an order of its own."""
    return [random.Random(thread).sample(range(len(ASKED)), len(ASKED)) * each for thread in range(THREADS)]


def held(folder):
    """The files of a folder that this process holds open or mapped."""
    targets = []
    for number in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # of the listing itself
            continue
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [name for name in (*targets, *maps) if f"{folder}/" in name]


@pytest.fixture
def rag(tiny_rag, tiny_run):
    yield tiny_rag
    tiny_rag.swap_index(tiny_run.workdir / "index")


@pytest.fixture
def no_collection():
    """What goes, goes at once: Python's search for rings of objects is off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_eight_threads_get_each_its_own_answers(rag, compiled):
    """To the bit those that one thread gets, and without a program that one thread had not needed."""
    alone, seen = [rag.answer(questions) for questions in ASKED], len(compiled)

    def ask(order):
        return [(number, rag.answer(ASKED[number])) for number in order]

    with ThreadPoolExecutor(THREADS) as threads:
        said = [pair for pairs in threads.map(ask, orders(2)) for pair in pairs]
    assert len(said) == THREADS * 2 * len(ASKED)
    for number, answers in said:
        assert answers == alone[number]
    assert compiled[seen:] == []


def test_a_swap_under_load_loses_no_request_and_mixes_none(rag, tiny_run, smaller_index, compiled):
    """Every request is answered, whole from one index or whole from the other; the second has fewer passages."""
    folders, editions = (smaller_index, tiny_run.workdir / "index"), []
    for folder in folders:
        rag.swap_index(folder)
        editions.append([rag.answer(questions) for questions in ASKED])
    assert all(new != old for new, old in zip(*editions, strict=True))
    seen, swaps = len(compiled), 0

    def ask(order):
        return [(number, rag.answer(ASKED[number])) for number in order]

    with ThreadPoolExecutor(THREADS) as threads:
        asked = [threads.submit(ask, order) for order in orders(3)]
        while not all(future.done() for future in asked):
            rag.swap_index(folders[swaps % 2])
            swaps += 1
    said = [pair for future in asked for pair in future.result()]
    assert len(said) == THREADS * 3 * len(ASKED) and swaps > 5
    new, old = (sum(answers == edition[number] for number, answers in said) for edition in editions)
    assert new + old == len(said) and new and old, (new, old, swaps)
    assert compiled[seen:] == []


def test_a_request_in_flight_keeps_the_index_that_it_began_with(rag, tiny_run, smaller_index, tmp_path, no_collection):
    """Between its batches too; when it ends, nothing holds the old index's files, maps and vectors any more."""
    own = shutil.copytree(tiny_run.workdir / "index", tmp_path / "index")  # what other tests hold is another matter
    rag.swap_index(own)
    before, asked = rag.answer(ASKED[-1]), rag.answer_batch(ASKED[-1])
    said, old = next(asked), rag.retriever.index
    left = [weakref.ref(thing) for thing in (old, old.searcher, old.vectors, old.passages)]
    left += [weakref.ref(shard[0]) for shard in old.searcher._shards]
    del old
    rag.swap_index(smaller_index)
    after = rag.answer(ASKED[-1])
    assert held(own)
    assert said + [answer for batch in asked for answer in batch] == before != after
    assert [ref() for ref in left] == [None] * len(left) and not held(own)


def searched_by_threads(index, queries):
    """(number of the request, what was found, the text of a passage) of every search."""

    def ask(order):
        return [(number, index.search(queries[number], 5), index.passages[number].text) for number in order]

    with ThreadPoolExecutor(THREADS) as threads:
        searched = [found for answers in threads.map(ask, orders(4)) for found in answers]
    assert held(index.folder)
    return searched


@pytest.mark.parametrize("kind", SEARCHES)
def test_every_kind_of_index_is_searched_by_threads_and_lets_go(rag, kind, tmp_path, no_collection):
    for name in SEARCHES[kind]:
        pytest.importorskip(name)
    store, rng = rag.retriever.index.passages, np.random.default_rng(0)
    vector_NE = rng.standard_normal((len(store), 16), np.float32)
    rows = Encoder(lambda ids: vector_NE[ids[:, 0] - 1], lambda *_: np.arange(1, 1 + len(store))[:, None], 0, 1, 30)
    encoder, search = (None if kind == "bm25" else rows), {"scann": {}, **WORDS}
    given = {"fingerprint": "any", "score_scale": 1.0, "kind": kind, "search": search, "log": len}
    build_index(tmp_path / "index", encoder=encoder, store=store, **given)
    index = open_index(tmp_path / "index")
    query_BE = None if kind == "bm25" else rng.standard_normal((12, 16), np.float32)
    queries = [Queries(questions, query_BE if query_BE is None else query_BE[: len(questions)]) for questions in ASKED]
    alone = [index.search(query, 5) for query in queries]

    searched = searched_by_threads(open_index(tmp_path / "index"), queries)  # whose blocks nobody has read yet
    for number, found, text in searched:
        assert text == store[number].text
        for one, other in zip(found, alone[number], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(searched) == THREADS * 4 * len(ASKED)
    del index
    assert not held(tmp_path / "index")


@pytest.mark.long
def test_eight_threads_meet_a_model_that_has_compiled_nothing(tiny_run, rag):
    alone = [rag.answer(questions) for questions in ASKED]
    cold = Rag.load(tiny_run.workdir)
    with ThreadPoolExecutor(THREADS) as threads:
        for said in threads.map(lambda _: [cold.answer(questions) for questions in ASKED], range(THREADS)):
            assert said == alone


@pytest.mark.long
def test_ten_thousand_answers_leave_nothing_behind(demo):
    """Asked by 8 threads, with a swap every 300 answers: right ones, in as much memory, and no new program."""
    few = f"--workdir={demo.workdir}", "--config.reader.steps=1", "--config.joint.steps=1"
    demo.command("build_index", DEMO, "--config.data.passages=demo:2018", *few, f"--index={demo.index_after}")
    demo.command("train", DEMO, *few, "--config.evaluate.questions=8")
    command = [sys.executable, ROOT / "tests" / "reliability" / "load.py", demo.workdir, demo.index_after]
    done = subprocess.run(command, capture_output=True, text=True, env=demo.environment, timeout=1500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answers"] == 10_000 and found["lost"] == found["wrong"] == 0 and found["compiled_later"] == []
    assert found["swaps"] >= 25 and found["of_first"] and found["of_second"]
    first, *_, last = found["looks"]
    assert last["resident"] <= 1.05 * first["resident"], found["looks"]
    assert all(look | {"resident": 0} == first | {"resident": 0} for look in found["looks"]), found["looks"]
