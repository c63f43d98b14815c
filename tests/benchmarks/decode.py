"""Decoding beside transformers: time, peak memory, distinct candidates, as a table; same weights, same run.

    python tests/benchmarks/decode.py                                    # BART-base shapes, fp32
    python tests/benchmarks/decode.py --shapes=large --dtype=bfloat16    # on a GPU
    python tests/benchmarks/decode.py --shapes=tiny --repeats=1          # does it run?

Every question generates exactly NEW tokens. Documents are given, so the question encoder takes no part. Medians
after one call that compiles; ours and theirs take turns. Peak memory is a process's own, from when its weights are
there, with each side and row in a process that does nothing else.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is shared with torch

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.marginal import document_log_prior
from rag_jax.decode.generate import DecodeConfig, generate
from rag_jax.hub import rules
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.hub.convert import to_huggingface
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.models.rag import RagConfig

BATCH, DOCUMENTS, BEAMS, NEW = 4, 5, 4, 16
SHAPES = {
    "tiny": (
        {"vocab_size": 100, "width": 32, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "ffn": 64},
        (8, 16),
    ),
    "base": ({"width": 768, "encoder_layers": 6, "decoder_layers": 6, "ffn": 3072, "heads": 12}, (128, 256)),
    "large": ({}, (128, 256)),
}


@dataclass(frozen=True)
class Row:
    """A line of the table; not `theirs` where transformers has no such decoding."""

    name: str
    kind: str
    mode: str
    beams: int
    theirs: bool = True


ROWS = (
    Row("RAG-Token, greedy", "token", "search", 1),
    Row(f"RAG-Token, beam {BEAMS}", "token", "search", BEAMS),
    Row("RAG-Sequence thorough, greedy", "sequence", "thorough", 1),
    Row(f"RAG-Sequence thorough, beam {BEAMS}", "sequence", "thorough", BEAMS),
    Row(f"RAG-Sequence fast, beam {BEAMS}", "sequence", "fast", BEAMS, theirs=False),
    Row("its beams alone", "alone", "search", BEAMS, theirs=False),
)


@dataclass(frozen=True)
class Problem:
    """One set of questions, and weights under which documents differ in what they say."""

    shapes: str
    dtype: str
    length: int

    @property
    def generator(self) -> BartConfig:
        """The generator's sizes."""
        return BartConfig(**SHAPES[self.shapes][0], dtype=self.dtype)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """source_BKS without padding, and the documents' scores [B, K]."""
        random = np.random.default_rng(0)
        source_BKS = random.integers(3, self.generator.vocab_size, (BATCH, DOCUMENTS, self.length))
        return source_BKS.astype(np.int32), random.normal(size=(BATCH, DOCUMENTS)).astype(np.float32)

    def weights(self) -> dict[str, Any]:
        """numpy parameters of the generator: unit gains, but louder where documents and places are told apart."""
        ids = jnp.zeros((1, 2), jnp.int32)
        shapes = jax.eval_shape(Bart(self.generator).init, jax.random.key(0), ids, ids == 0, ids)["params"]
        random = np.random.default_rng(1)
        louder = {
            "cross_attention/query/kernel": 2.5,
            "cross_attention/key/kernel": 2.5,
            "decoder/placement/position": 4,
        }

        def draw(path, shape):
            name = "/".join(key.key for key in path)
            if name.endswith(("scale", "bias")):
                return np.full(shape.shape, name.endswith("scale"), np.float32)
            gain = self.generator.width**-0.5 * max((louder[part] for part in louder if part in name), default=1)
            return random.standard_normal(shape.shape, np.float32) * np.float32(gain)

        return jax.tree_util.tree_map_with_path(draw, shapes)


class Ours:
    """This package; parameters rest in the dtype that they are used in."""

    def __init__(self, problem: Problem):
        self.problem, generator = problem, problem.generator
        self.config = RagConfig(question_encoder=BertConfig(), generator=generator)
        params = jax.tree.map(lambda x: jnp.asarray(x, generator.dtype), problem.weights())
        self.params = jax.block_until_ready({"generator": params})

    def __call__(self, row: Row) -> np.ndarray:
        """Returns token_BNT; of beams alone, [B * K, M, T]."""
        source_BKS, score_BK = self.problem.arrays()
        kind, answers = row.kind, 1
        if kind == "alone":  # every document is a question of its own
            kind, answers = "token", row.beams
            source_BKS, score_BK = source_BKS.reshape(-1, 1, self.problem.length), score_BK.reshape(-1, 1)
        decode = DecodeConfig(
            kind=kind, mode=row.mode, beams=row.beams, num_return_sequences=answers, max_length=NEW, min_length=NEW
        )
        prior_BK = document_log_prior(jnp.asarray(score_BK))
        return np.asarray(generate(self.config, decode, self.params, source_BKS, prior_BK).token_BNT)

    def peak(self) -> float | None:
        """Most bytes that the accelerator held, or None on a CPU."""
        stats = jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats and jax.default_backend() == "gpu" else None


class Theirs:
    """transformers, on the device that jax uses."""

    def __init__(self, problem: Problem):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.torch, self.problem = torch, problem
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        generator = transformers.BartConfig(**bart_json(problem.generator))
        encoder = transformers.DPRConfig(**bert_json(BertConfig(vocab_size=20, width=16, layers=1, heads=2, ffn=32)))
        config = transformers.RagConfig.from_question_encoder_generator_configs(encoder, generator, n_docs=DOCUMENTS)
        bart = transformers.BartForConditionalGeneration(generator)
        arrays = to_huggingface(problem.weights(), rules.bart())
        bart.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
        parts = {"config": config, "question_encoder": transformers.DPRQuestionEncoder(encoder), "generator": bart}
        dtype = getattr(torch, problem.dtype)
        self.models = {
            kind: getattr(transformers, name)(**parts).to(self.device, dtype).eval()
            for kind, name in (("token", "RagTokenForGeneration"), ("sequence", "RagSequenceForGeneration"))
        }

    def __call__(self, row: Row) -> np.ndarray:
        """Returns token_BNT."""
        source_BKS, score_BK = self.problem.arrays()
        source_RS = self.torch.tensor(source_BKS.reshape(-1, self.problem.length)).long().to(self.device)
        settings = {
            "do_sample": False,
            "num_beams": row.beams,
            "num_return_sequences": 1,
            "max_length": NEW + 1,  # theirs counts the start token
            "min_length": NEW + 1,
            "length_penalty": 1.0,
            "early_stopping": False,
            "forced_bos_token_id": None,
            "forced_eos_token_id": None,
            "decoder_start_token_id": 2,
        }
        with self.torch.no_grad():
            output_RT = self.models[row.kind].generate(
                context_input_ids=source_RS,
                context_attention_mask=self.torch.ones_like(source_RS),
                doc_scores=self.torch.tensor(score_BK).to(self.device),
                **settings,
            )
        return output_RT.cpu().numpy()[:, None, 1:]

    def peak(self) -> float | None:
        """Most bytes that the accelerator held, or None on a CPU."""
        return self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None


SIDES = {"ours": Ours, "theirs": Theirs}


def seconds(call: Any) -> float:
    """How long a call takes that waits for its result."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def matmul_rates(dtype: str) -> dict[str, float]:
    """Each side's TFLOP/s in the product of two square matrices: what the machine gives them at this hour."""
    import torch

    size = 8192 if jax.default_backend() == "gpu" else 2048
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    y = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)
    calls = {"ours": lambda: product(x, x).block_until_ready(), "theirs": lambda: (y @ y)[0, 0].item()}
    rates = {}
    for side, call in calls.items():
        call()
        rates[side] = 2 * size**3 / statistics.median(seconds(call) for _ in range(5)) / 1e12
    return rates


def time_row(row: Row, sides: dict[str, Any], repeats: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds and answers of each side; they take turns, so that a busy moment harms both."""
    sides = {name: side for name, side in sides.items() if name == "ours" or row.theirs}
    answers = {name: side(row) for name, side in sides.items()}
    taken = [{name: seconds(lambda side=side: side(row)) for name, side in sides.items()} for _ in range(repeats)]
    return {name: statistics.median(times[name] for times in taken) for name in sides}, answers


def distinct(ours: Ours, beams: int) -> list[int]:
    """How many different candidates each question's documents propose."""
    token_RMT = ours(Row("", "alone", "search", beams))
    token_BCT = token_RMT.reshape(BATCH, DOCUMENTS * beams, NEW)
    return [len(np.unique(token_CT, axis=0)) for token_CT in token_BCT]


def peak_alone(side: str, row: Row, problem: Problem) -> float:
    """Runs one side's row in a process of its own; returns its peak in GiB, weights included."""
    question = json.dumps({"side": side, "row": ROWS.index(row), "problem": vars(problem)})
    done = subprocess.run([sys.executable, __file__, f"--child={question}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side}, {row.name}: the process that measures memory failed\n{done.stderr}")
    return float(done.stdout.split()[-1]) / 2**30


def child(side: str, row: int, problem: dict[str, Any]) -> float:
    """Peak bytes of one call after a first that compiles: the accelerator's, or the process's resident memory."""
    model = SIDES[side](Problem(**problem))
    model(ROWS[row])
    ctypes.CDLL(None).malloc_trim(0)  # what loading and compiling needed is given back,
    Path("/proc/self/clear_refs").write_text("5")  # and its peak forgotten
    model(ROWS[row])
    if (peak := model.peak()) is not None:
        return peak
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def table(problem: Problem, repeats: int) -> None:
    """Prints one source length's rows as they come."""
    sides = {name: side(problem) for name, side in SIDES.items()}
    rates = matmul_rates(problem.dtype)
    print(
        f"\n{problem.shapes}, {problem.dtype}, source {problem.length}, batch {BATCH}, {DOCUMENTS} documents, "
        f"{NEW} new tokens; matrix products: ours {rates['ours']:.3f} TFLOP/s, "
        f"transformers {rates['theirs']:.3f} TFLOP/s"
    )
    print(f"Distinct candidates of each question, beam {BEAMS}: {distinct(sides['ours'], BEAMS)}", end="; ")
    print(f"greedy: {distinct(sides['ours'], 1)}\n")
    print("| decoding | ours, s | transformers, s | ratio | same answers | our peak, GiB | their peak, GiB |")
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        taken, answers = time_row(row, sides, repeats)
        peaks = {side: f"{peak_alone(side, row, problem):.2f}" for side in taken}
        cells = ["–", "–", "–"]
        if row.theirs:
            same = (answers["ours"] == answers["theirs"]).all(axis=(1, 2)).sum()
            cells = [f"{taken['theirs']:.3f}", f"{taken['theirs'] / taken['ours']:.2f}x", f"{same} of {BATCH}"]
        print(
            f"| {row.name} | {taken['ours']:.3f} | {' | '.join(cells)} | {peaks['ours']} | {peaks.get('theirs', '–')} |"
        )
        sys.stdout.flush()


def main() -> None:
    """Reads the flags; prints a table for each source length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="base", help="the generator's sizes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls, of which the median counts")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(child(**flags.child))
        return
    for length in SHAPES[flags.shapes][1]:
        table(Problem(flags.shapes, flags.dtype, length), flags.repeats)


if __name__ == "__main__":
    main()
