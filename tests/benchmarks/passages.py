"""The passage store at size: reading, building, opening, gathering; and gathering beside transformers' RagRetriever.

    python -m tests.benchmarks.passages                    # a million passages
    python -m tests.benchmarks.passages --passages=20000   # does it run?

The corpus is made of windows of 100 words from the real passages in DATA/squad_open, tokenised with BART's vocabulary
from DATA/vocab; it and its store are kept in --folder. Opening is measured in a process of its own. Gathering is from
rows drawn at random to generator inputs, questions tokenised: the first call on a store just opened, and the median of
the later ones, the file being in the system's page cache. transformers gets the titles and texts of the same rows as
strings that are ready; the calls take turns.
"""

import argparse
import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rag_jax.data.corpus import read_passages
from rag_jax.data.lines import Meter, read_records
from rag_jax.data.passages import PassageStore, build_store
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.index.base import Index
from rag_jax.retrieve import Retriever
from tests.data.bart import bart_folder

BATCH, LENGTH, WORDS = 64, 300, 100


def write_corpus(data: Path, path: Path, count: int) -> None:
    """A DPR file of `count` passages, each WORDS words from somewhere in the real ones."""
    real = list(read_passages(data / "squad_open" / "passages.tsv.gz"))
    words = [word for passage in real for word in passage.text.split()]
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "text", "title"])
        for number in range(1, count + 1):
            start = draw.randrange(len(words) - WORDS)
            writer.writerow([number, " ".join(words[start : start + WORDS]), draw.choice(real).title])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def anonymous() -> float:
    """This process's anonymous memory, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def reading(path: Path) -> tuple[float, float]:
    """Seconds to read the corpus and what it added to this process's peak memory, in MB."""
    next(read_passages(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = timed(lambda: sum(1 for _ in read_passages(path)))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def opening(folder: Path) -> tuple[float, float]:
    """Seconds to open a store and the anonymous memory that it took, in MB."""
    before = anonymous()
    seconds, store = timed(lambda: PassageStore.open(folder))
    return seconds, anonymous() - before if len(store) else 0.0


def alone(*arguments: Any) -> list[float]:
    """What `reading` or `opening` measures in a process of its own."""
    child = [sys.executable, "-m", "tests.benchmarks.passages", "--child", *map(str, arguments)]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: the process that measures it failed\n{done.stderr}")
    return json.loads(done.stdout)


class Theirs:
    """transformers' RagRetriever, as far as postprocess_docs needs it."""

    def __init__(self, tokenizer: Path) -> None:
        from transformers import BartTokenizer
        from transformers.models.rag.retrieval_rag import RagRetriever

        config = SimpleNamespace(title_sep=" / ", doc_sep=" // ", max_combined_length=LENGTH)
        self._call = RagRetriever.postprocess_docs
        self._self = SimpleNamespace(config=config, generator_tokenizer=BartTokenizer.from_pretrained(tokenizer))

    def __call__(self, docs: list[dict[str, list[str]]], questions: list[str], k: int) -> np.ndarray:
        ids, _ = self._call(self._self, docs, questions, None, k, return_tensors="np")
        return np.asarray(ids).reshape(len(questions), k, -1)


def gathering(
    folder: Path, tokenizer: Tokenizer, theirs: Theirs, questions: list[str], k: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds of the first and the median call, ours and theirs, and how many rows of tokens are the same."""
    rng, batches = np.random.default_rng(k), []
    store = PassageStore.open(folder)
    for number in range(repeats + 1):
        ids_BK = rng.integers(0, len(store), (BATCH, k))
        found = [[store[row] for row in ids_K] for ids_K in ids_BK.tolist()]
        docs = [{"title": [p.title for p in row], "text": [p.text for p in row]} for row in found]
        batches.append((ids_BK, docs, [questions[(number * BATCH + row) % len(questions)] for row in range(BATCH)]))
    index = Index(folder, None, None, PassageStore.open(folder, tokenizer=tokenizer), None)
    retriever = Retriever(index, None, tokenizer, SimpleNamespace(source=LENGTH), "huggingface", "raw")
    taken, same = {"ours": [], "theirs": []}, 0
    for ids_BK, docs, asked in batches:
        seconds, ours = timed(lambda: retriever.sources(retriever.documents(ids_BK), asked))  # noqa: B023
        taken["ours"].append(1e3 * seconds)
        seconds, other = timed(lambda: theirs(docs, asked, k))  # noqa: B023
        taken["theirs"].append(1e3 * seconds)
        same += int((ours == other).all(axis=-1).sum())
    medians = {side: statistics.median(times[1:]) for side, times in taken.items()}
    return {"first": taken["ours"][0], **medians, "same": same, "rows": (repeats + 1) * BATCH * k}


def table(data: Path, folder: Path, count: int, repeats: int) -> None:
    """Prints both tables."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, store = folder / f"passages_{count}.tsv", folder / f"store_{count}"
    tokens = folder / "bart"
    if not tokens.is_dir():
        bart_folder(data, tokens)
    if not corpus.is_file():
        write_corpus(data, corpus, count)
    tokenizer = Tokenizer.load(tokens)
    print("| passages | | |\n|---|---|---|")
    seconds, memory = alone("reading", corpus)
    print(f"| read and checked | {count / seconds:,.0f} a second | {memory:.0f} MB more at the peak |", flush=True)
    if not store.is_dir():
        meter = Meter()
        passages = read_passages(corpus, meter=meter)
        log = lambda line: print(line, file=sys.stderr)  # noqa: E731
        seconds, _ = timed(lambda: build_store(passages, store, tokenizer, share=meter.share, log=log))
        print(f"| stored | {count / seconds:,.0f} a second | {seconds:.0f} s |", flush=True)
    seconds, memory = alone("opening", store)
    print(f"| opened | {1e3 * seconds:.0f} ms | {memory:.1f} MB anonymous |\n", flush=True)
    questions = [record["question"] for _, _, record in read_records(data / "squad_open" / "questions_valid.jsonl.gz")]
    theirs = Theirs(tokens)
    print("| gathered | ours, first | ours, median | transformers, median | ratio | same tokens |")
    print("|---|---|---|---|---|---|")
    for k in (5, 10):
        row = gathering(store, tokenizer, theirs, questions, k, repeats)
        print(
            f"| {BATCH} x {k} | {row['first']:.1f} ms | {row['ours']:.2f} ms | {row['theirs']:.1f} ms "
            f"| {row['theirs'] / row['ours']:.0f}x | {row['same']:,} of {row['rows']:,} |",
            flush=True,
        )


def main() -> None:
    """Reads the flags; prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of squad_open and vocab")
    parser.add_argument("--folder", type=Path, default=Path("runs/passages"), help="keeps the corpus and its store")
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20, help="timed calls, of which the median counts")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        name, path = flags.child
        print(json.dumps({"reading": reading, "opening": opening}[name](Path(path))))
        return
    if not (flags.data / "squad_open").is_dir():
        raise SystemExit(f"--data: no squad_open in {flags.data}")
    table(flags.data, flags.folder, flags.passages, flags.repeats)


if __name__ == "__main__":
    main()
