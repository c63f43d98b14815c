"""Asks a run for answers from many threads while its index is swapped; prints what that cost as a JSON object.

    python tests/reliability/load.py runs/demo runs/demo/index_2018 --answers=10000 --threads=8

The second is another index of the same encoder. Requests ask 1 to 64 questions of 1 to 30 words, which are drawn from
the demo's; no two are alike. At the end one thread asks every tenth again, or with --compare=1 each, of each index:
what was said under load must be what one of both says, to the last bit.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from rag_jax import Answer, Rag
from rag_jax.data import demo

SIZES, WORDS = (1, 2, 3, 5, 8, 16, 64), (1, 4, 12, 30)
TOLD = 1_000  # answers between two looks at the process
ASKED = [question.text for question in demo.questions("test")]
Request = list[str]


def question(words: int, chosen: random.Random) -> str:
    """So many words from the demo's questions."""
    texts = iter(lambda: chosen.choice(ASKED).split(), None)
    return " ".join(itertools.islice(itertools.chain.from_iterable(texts), words))


def warming() -> Iterator[Request]:
    """A request of every size with questions of every length."""
    chosen = random.Random("warming")
    return ([question(words, chosen) for _ in range(size)] for size in SIZES for words in WORDS)


def requests(name: str, answers: int) -> list[Request]:
    """Requests of mixed sizes and lengths that ask so many questions together; other ones for every name."""
    chosen, made, left = random.Random(name), [], answers
    while left:
        size = min(chosen.choice(SIZES), left)
        made.append([question(chosen.randint(1, WORDS[-1]), chosen) for _ in range(size)])
        left -= size
    return made


def parts(asked: Sequence[Request]) -> Iterator[list[Request]]:
    """The requests in parts of TOLD questions or a few more."""
    part: list[Request] = []
    for request in asked:
        part.append(request)
        if sum(map(len, part)) >= TOLD:
            yield part
            part = []
    if part:
        yield part


def digest(answers: Sequence[Answer]) -> str:
    """Stands for answers to the last bit of every number."""
    return hashlib.sha256(repr(answers).encode()).hexdigest()


def look(folders: Sequence[Path]) -> dict[str, int]:
    """This process's resident bytes, maps of files in the folders, open files and threads."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = sum(any(f"{folder.resolve()}/" in line for folder in folders) for line in maps)
    places = {"files": "/proc/self/fd", "threads": "/proc/self/task"}
    return {"resident": resident, "maps": mapped} | {name: len(os.listdir(place)) for name, place in places.items()}


def speed(rag: Rag, threads: int) -> float:
    """Answers a second to so many threads that ask one request after the other."""
    asked, began = requests(f"{threads} threads", TOLD), time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        answers = sum(map(len, pool.map(rag.answer, asked)))
    return answers / (time.monotonic() - began)


def under_swaps(
    rag: Rag, folders: Sequence[Path], asked: Sequence[Request], threads: int, swap: int
) -> tuple[list[str], list[dict[str, int]], int]:
    """The digest of what every request was answered, a look after every part, and how often the index was swapped."""
    said, looks, swaps = [], [], 0
    with ThreadPoolExecutor(threads) as pool:
        for part in parts(asked):
            since = 0
            answered = pool.map(lambda request: digest(rag.answer(request)), part)
            for request, found in zip(part, answered, strict=True):
                said.append(found)
                since += len(request)
                if since >= swap:
                    since, swaps = 0, swaps + 1
                    rag.swap_index(folders[swaps % 2])
            looks.append(look(folders))
    return said, looks, swaps


def compared(
    rag: Rag, folders: Sequence[Path], asked: Sequence[Request], said: Sequence[str], every: int
) -> dict[str, Any]:
    """Of which index the answers to every so manieth request were: of both, which may agree, or of none, wrong ones."""
    numbers, whose = range(0, len(asked), every), []
    for folder in folders:
        rag.swap_index(folder)
        whose.append([digest(rag.answer(asked[number])) == said[number] for number in numbers])
    first, second = (sum(own) for own in whose)
    return {"compared": len(numbers), "wrong": sum(not any(own) for own in zip(*whose, strict=True)),
            "of_first": first, "of_second": second}  # fmt: skip


def main() -> None:
    """Warms up, measures the speed, asks under swaps, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("index")
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--swap", type=int, default=300, help="answers between two swaps")
    parser.add_argument("--compare", type=int, default=10, help="1: every request is asked again; 10: every tenth")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", ".* questions exceed")
    compiled: list[str] = []

    def note(event: str, _: float, fun_name: str = "", **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    rag = Rag.load(given.run)
    folders = [rag.retriever.index.folder, Path(given.index)]
    for folder in reversed(folders):
        rag.swap_index(folder)
        for request in warming():
            rag.answer(request)
    programs, asked = len(compiled), requests("load", given.answers)
    pace = {threads: round(speed(rag, threads), 1) for threads in (1, given.threads)}
    began = time.monotonic()
    said, looks, swaps = under_swaps(rag, folders, asked, given.threads, given.swap)
    seconds, later = time.monotonic() - began, compiled[programs:]
    found = {"answers": sum(map(len, asked)), "requests": len(asked), "lost": len(asked) - len(said), "swaps": swaps}
    found |= {"seconds": round(seconds, 1), "programs": programs, "compiled_later": later}
    found |= compared(rag, folders, asked, said, given.compare)
    print(json.dumps(found | {"answers_per_second": pace, "looks": looks}))


if __name__ == "__main__":
    main()
