"""ScaNN beside faiss on clustered vectors: recall, questions a second, seconds to build, memory, as tables; one run.

    python -m tests.benchmarks.scann                    # 300,000 x 768; 4 minutes on two idle cores
    python -m tests.benchmarks.scann --vectors=30000    # does it run?

The vectors: 3,000 centres, and around each some hundred vectors. Both are normal, in a random rotation, with a variance
that falls along the directions as d^-0.75, which is about what sentence vectors of all-MiniLM-L6-v2 do; 92% of it lies
between the centres; lengths are 1. A question is a further vector of the same kind with 1% more noise.

Every system is alone in a process, on all cores, and is asked all questions at once for 20 passages: median of calls
after a first one. Memory is what is anonymous once the index is open and has been searched, inputs left out; ours is
opened from its files in a process that did not build it. Vectors that ours reads from its files, after int8, lie in the
system's page cache.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_jax.index import scann
from rag_jax.index.report import recall_of
from rag_jax.index.vectors import Vectors, write_shard

WIDTH, CENTRES, QUESTIONS, K = 768, 3000, 2000, 20
DECAY, BETWEEN, FURTHER = 0.75, 0.92, 0.01
LEVELS = (0.95, 0.98, 0.99, 0.995)  # recall@20 at which speeds are compared
SYSTEMS = {
    "flat": "faiss IndexFlatIP",
    "hnsw": "faiss HNSW, M = 32",
    "ours": "ours, the default",
    "int8": "ours, reorder_dtype = 'int8'",
}


class Row(NamedTuple):
    """A setting of a system: recall@20 and questions a second."""

    setting: str
    recall: float
    per_second: float


def write_vectors(folder: Path, count: int) -> None:
    """vectors.npy [N, E] and questions.npy [B, E], drawn as said above."""
    random = np.random.default_rng(0)
    spectrum_E = np.arange(1, WIDTH + 1, dtype=np.float32) ** (-DECAY / 2)
    spectrum_E /= np.linalg.norm(spectrum_E)
    rotation_EE = np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    draw = lambda rows: random.standard_normal((rows, WIDTH), dtype=np.float32) * spectrum_E  # noqa: E731
    centre_CE, vector_NE = draw(CENTRES), np.empty((count + QUESTIONS, WIDTH), np.float32)
    for at in range(0, len(vector_NE), 50_000):
        some_NE = vector_NE[at : at + 50_000]
        some_NE[:] = BETWEEN**0.5 * centre_CE[random.integers(CENTRES, size=len(some_NE))]
        some_NE += (1 - BETWEEN) ** 0.5 * draw(len(some_NE))
    vector_NE[count:] += FURTHER**0.5 * draw(QUESTIONS)
    vector_NE = vector_NE @ rotation_EE
    vector_NE /= np.linalg.norm(vector_NE, axis=1, keepdims=True)
    np.save(folder / "questions.npy", vector_NE[count:])
    np.save(folder / "vectors.npy", vector_NE[:count])


def anonymous() -> float:
    """This process's anonymous memory in MB, after what is free was given back."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


class Asked:
    """The questions, and what each system is measured by."""

    def __init__(self, folder: Path, repeats: int):
        self.folder, self.repeats = folder, repeats
        self.vector_BE = np.load(folder / "questions.npy")

    def row(self, setting: str, search: Callable[[], np.ndarray]) -> Row:
        """Times a search that returns id_BK, and compares it with the flat index's."""
        found_BK, seconds = search(), []
        for _ in range(self.repeats):
            began = time.perf_counter()
            search()
            seconds.append(time.perf_counter() - began)
        recall = recall_of(found_BK, np.load(self.folder / "exact.npy"))[K]
        return Row(setting, recall, len(self.vector_BE) / statistics.median(seconds))


def flat(asked: Asked, vector_NE: np.ndarray) -> Iterator[Any]:
    """Exact search; it says what the others must find."""
    import faiss

    before, index = anonymous(), faiss.IndexFlatIP(WIDTH)
    began = time.perf_counter()
    index.add(vector_NE)
    yield time.perf_counter() - began
    np.save(asked.folder / "exact.npy", index.search(asked.vector_BE, K)[1])
    yield asked.row("", lambda: index.search(asked.vector_BE, K)[1])
    yield anonymous() - before


def hnsw(asked: Asked, vector_NE: np.ndarray) -> Iterator[Any]:
    """Graph search with efSearch from coarse to fine."""
    import faiss

    before, index = anonymous(), faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    index.add(vector_NE)
    yield time.perf_counter() - began
    for effort in (16, 32, 48, 64, 96, 128, 192, 256):
        index.hnsw.efSearch = effort
        yield asked.row(f"efSearch {effort}", lambda: index.search(asked.vector_BE, K)[1])
    yield anonymous() - before


def build_ours(asked: Asked, vector_NE: np.ndarray, reorder_dtype: str) -> float:
    """Seconds to build ScaNN's files in a fresh folder."""
    folder = asked.folder / f"ours{reorder_dtype}"
    folder.mkdir()
    write_shard(folder, 0, vector_NE)
    (folder / "scann").mkdir()
    began = time.perf_counter()
    scann.build(_vectors(folder, vector_NE), folder / "scann", _chosen(vector_NE, reorder_dtype))
    return time.perf_counter() - began


def open_ours(asked: Asked, vector_NE: np.ndarray, reorder_dtype: str) -> Iterator[Any]:
    """The chosen parameters, then fewer and more leaves_to_search."""
    folder, chosen = asked.folder / f"ours{reorder_dtype}", _chosen(vector_NE, reorder_dtype)
    scann.require()
    before = anonymous()
    searcher = scann.ScannSearcher(folder / "scann", chosen, _vectors(folder, vector_NE))
    for share in (1, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 2):
        leaves = max(1, round(share * chosen["leaves_to_search"]))
        other = searcher.changed(leaves_to_search=leaves)
        name = f"{'as chosen, ' if share == 1 else ''}leaves_to_search {leaves}"
        yield asked.row(name, lambda other=other: other.search(asked.vector_BE, K)[0])
    yield anonymous() - before


def _chosen(vector_NE: np.ndarray, reorder_dtype: str) -> dict[str, Any]:
    return scann.parameters(len(vector_NE), {"method": "tree", "reorder_dtype": reorder_dtype})


def _vectors(folder: Path, vector_NE: np.ndarray) -> Vectors:
    return Vectors(folder, *vector_NE.shape, "float32", len(vector_NE))


def child(name: str, folder: Path, repeats: int) -> list[Any]:
    """What a process of its own measures: seconds to build, rows, MB; of ours the building or the rest."""
    asked, vector_NE = Asked(folder, repeats), np.load(folder / "vectors.npy", mmap_mode="r")
    if name in ("flat", "hnsw"):
        return list({"flat": flat, "hnsw": hnsw}[name](asked, vector_NE))
    act, dtype = name.split(":")
    return [build_ours(asked, vector_NE, dtype)] if act == "build" else list(open_ours(asked, vector_NE, dtype))


def alone(name: str, folder: Path, repeats: int) -> list[Any]:
    """Runs `child` in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.scann", f"--folder={folder}", f"--repeats={repeats}"]
    done = subprocess.run([*command, f"--child={name}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: its process failed\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, repeats: int) -> dict[str, tuple[float, list[Row], float]]:
    """Of each system seconds to build, its rows and MB; prints the rows as they come."""
    measured = {}
    print("| system | setting | recall@20 | questions/s |\n|---|---|---|---|")
    for system, title in SYSTEMS.items():
        if system in ("flat", "hnsw"):
            built, *rows, memory = alone(system, folder, repeats)
        else:
            dtype = "int8" if system == "int8" else ""
            (built,), (*rows, memory) = (alone(f"{act}:{dtype}", folder, repeats) for act in ("build", "open"))
        rows = [Row(*row) for row in rows]
        measured[system] = built, rows, memory
        for row in rows:
            print(f"| {title} | {row.setting} | {row.recall:.4f} | {row.per_second:,.0f} |", flush=True)
    return measured


def tables(measured: dict[str, tuple[float, list[Row], float]]) -> None:
    """Prints costs, and speeds at equal recall: of each system's settings the fastest that finds as much."""
    print("\n| system | seconds to build | MB in memory | of HNSW's |\n|---|---|---|---|")
    for system, (built, _, memory) in measured.items():
        print(f"| {SYSTEMS[system]} | {built:.0f} | {memory:,.0f} | {memory / measured['hnsw'][2]:.2f}x |")
    speed = measured["flat"][1][0].per_second
    print("\n| recall@20 at least | " + " | ".join(SYSTEMS.values()) + " |\n" + "|---" * (len(SYSTEMS) + 1) + "|")
    for level in LEVELS:
        cells = []
        for _, rows, _ in measured.values():
            best = max((row.per_second for row in rows if row.recall >= level), default=None)
            cells.append(f"{best:,.0f} ({best / speed:.1f}x flat)" if best else "none")
        print(f"| {level} | " + " | ".join(cells) + " |")


def main() -> None:
    """Reads the flags; prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/scann"), help="a new folder for what is made")
    parser.add_argument("--vectors", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls, of which the median counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(child(flags.child, flags.folder, flags.repeats)))
        return
    if flags.folder.exists():
        raise SystemExit(f"--folder: {flags.folder} is there; give the name of a new one")
    flags.folder.mkdir(parents=True)
    write_vectors(flags.folder, flags.vectors)
    print(f"{flags.vectors:,} x {WIDTH} vectors, {QUESTIONS:,} questions\n", flush=True)
    print(f"{scann.stated(scann.parameters(flags.vectors, {'method': 'tree'}))}\n", flush=True)
    tables(measure(flags.folder, flags.repeats))


if __name__ == "__main__":
    main()
