"""Decoding problems for both sides: shapes, which cost a compilation each, and options, which cost none."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rag_jax.decode.generate import DecodeConfig

from .worlds import World

SOURCE, QUESTIONS = 8, 2
VOCABULARIES = (24, 40, 67, 101)
SEEDS = 3
CASES = {"token": 20, "sequence": 13}  # of every shape


@dataclass(frozen=True)
class Shape:
    """What a compiled program depends on; N answers are returned of each question."""

    kind: str
    V: int
    K: int
    M: int
    N: int
    T: int
    start_id: int = 2


@dataclass(frozen=True)
class Case:
    """One call: `options` are DecodeConfig's, `padded` says whether sources have different lengths."""

    shape: Shape
    number: int
    world: World
    padded: bool
    options: tuple[tuple[str, Any], ...]

    @property
    def decode(self) -> DecodeConfig:
        """Our side's configuration."""
        shape = self.shape
        return DecodeConfig(
            kind=shape.kind,
            beams=shape.M,
            num_return_sequences=shape.N,
            max_length=shape.T,
            compat="huggingface",
            **dict(self.options),
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """source_BKS and the documents' scores [B, K]."""
        shape, random = self.shape, np.random.default_rng([self.shape.V, self.shape.K, self.shape.M, self.number])
        source_BKS = random.integers(3, shape.V, (QUESTIONS, shape.K, SOURCE)).astype(np.int32)
        if self.padded:
            length_BK1 = random.integers(3, SOURCE + 1, (QUESTIONS, shape.K, 1))
            source_BKS = np.where(np.arange(SOURCE) < length_BK1, source_BKS, 1).astype(np.int32)
        return source_BKS, random.normal(0.0, 0.7, (QUESTIONS, shape.K)).astype(np.float32)


def shapes(kind: str) -> list[Shape]:
    """Three numbers of beams for every number of documents, and the reverse; RAG-Sequence half of them.

    Vocabularies, lengths and start tokens take turns.
    """
    pairs = [(K, M) for K in range(1, 6) for M in range(1, 6) if (K + 2 * M) % 5 < 3]
    found = []
    for turn, (K, M) in enumerate(pairs if kind == "token" else pairs[::2]):
        N, T, start_id = 1 + (2 * turn + K) % M, (8, 12)[turn % 2], (2, 2, 0)[turn % 3]
        found.append(Shape(kind, VOCABULARIES[turn % len(VOCABULARIES)], K, M, N, T, start_id))
    return found


def cases(shape: Shape) -> list[Case]:
    """All cases of a shape."""
    return [_case(shape, number) for number in range(CASES[shape.kind])]


def _case(shape: Shape, number: int) -> Case:
    random = np.random.default_rng([number, shape.kind == "token", shape.K, shape.M])

    def pick(*choices):
        return choices[random.integers(len(choices))]

    # transformers drops the prior of an empty answer, and does not count an <s> that all begin with, nor a pad.
    bias = pick({}, {"loudness": 4.0, "eos_bias": 8.0}, {"bos_bias": 4.0}, {"pad_bias": 0.5})
    world = World(shape.V, seed=number % SEEDS, start_id=shape.start_id, **bias)
    word = [int(token) for token in random.integers(3, shape.V, 4)]
    forbidden = ((word[1],), (word[2], word[3])), ((0, 0), (shape.start_id, word[0]), (2,))
    options = {
        "length_penalty": pick(1.0, 0.0, 0.5, 2.0, -1.0),
        "early_stopping": pick(False, True, "never"),
        "min_length": pick(0, 0, 2, 5),
        "forced_bos_id": pick(None, None, None, 0, word[0]),
        "forced_eos_id": pick(None, None, 2),
        "bad_words": pick(*forbidden) if shape.T == 8 else (),  # they are of one size: one program
        "no_repeat_ngram_size": pick(0, 0, 0, 0, 1, 2, 3),
    }
    return Case(shape, number, world, padded=bool(random.integers(2)), options=tuple(options.items()))


def sampling_cases() -> list[Case]:
    """Every reshaping of the distribution, with the other options; greedy search's shape."""
    shape, found = next(shape for shape in shapes("token") if shape.M == 1 and shape.K > 1), []
    for case in cases(shape)[:18]:  # twice all warps
        turn = case.number
        warps = {"temperature": (1.0, 0.6, 1.8)[turn % 3], "top_k": (0, 4, 12)[turn // 3 % 3], "seed": turn}
        warps["top_p"] = (1.0, 0.9, 0.4)[(turn + turn // 3) % 3]
        found.append(replace(case, options=(("mode", "sample"), *case.options, *warps.items())))
    return found
