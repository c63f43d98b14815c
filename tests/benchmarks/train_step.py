"""A training step beside transformers: time, share of the machine's speed, peak memory; same weights, same run.

    python -m tests.benchmarks.train_step                                    # BERT-base and BART-base, fp32
    python -m tests.benchmarks.train_step --shapes=large --dtype=bfloat16    # on a GPU
    python -m tests.benchmarks.train_step --shapes=wide --rows=RAG-Token --sides ours 'ours, whole logits'
    python -m tests.benchmarks.train_step --shapes=tiny --repeats=1          # does it run?

A step is what the training loop calls: query, scores, both halves forward and backward, clipping, AdamW. Parameters
are fp32 in all of them and computed with in --dtype; transformers gets autocast for it, and torch its fused AdamW,
without and, where there is a GPU or --compile, with torch.compile. 'whole logits' is our own step with a likelihood
that holds them, 'all kept' the one with remat='none'. Batches have no padding. Medians after two steps that compile
and warm up; the sides take turns, so that a busy moment harms all, and a product of two square matrices in XLA takes
its turn among them: the share is the step's multiplications, counted once (recomputed ones are not), a second of that
product's. Peak memory is a process's own in its third step, with each side in a process that does nothing else. The
losses are those of the last common step. GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before the command serves both sides
on a CPU: pages of 2 MiB.

Last, exact search on the device: bytes of passage vectors a second, and a copy's.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is shared with torch

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from rag_jax.config import default_config
from rag_jax.core import likelihood
from rag_jax.core.marginal import widen
from rag_jax.hub import rules
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.hub.convert import to_huggingface
from rag_jax.index.exact import ExactSearcher
from rag_jax.models import rag
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.parallel import Pmap
from rag_jax.training.optim import ADAM_EPSILON, learning_rate, optimizer
from rag_jax.training.step import Batch, Objective, TrainState, train_step

WARM_UP = 2
PEAKS = {"H100": 989e12, "H200": 989e12}  # dense bf16 FLOP/s of the SXM cards, NVIDIA's data sheets
K, SEARCHED = 5, 16  # documents of a question; questions of a search


@dataclass(frozen=True)
class Shapes:
    """Sizes: those of the two models; B questions of Q tokens, sources of S, targets of T; N passages searched."""

    bert: dict[str, int]
    bart: dict[str, int]
    B: int
    Q: int
    S: int
    T: int
    N: int


SHAPES = {
    "tiny": Shapes(
        {"vocab_size": 60, "width": 32, "layers": 1, "heads": 2, "ffn": 64},
        {"vocab_size": 100, "width": 32, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "ffn": 64},
        B=2, Q=8, S=16, T=6, N=20_000,
    ),
    "base": Shapes(
        {}, {"width": 768, "encoder_layers": 6, "decoder_layers": 6, "ffn": 3072, "heads": 12},
        B=4, Q=32, S=128, T=16, N=500_000,
    ),
    "large": Shapes({}, {}, B=16, Q=32, S=256, T=32, N=4_000_000),
    "wide": Shapes({}, {}, B=8, Q=32, S=128, T=64, N=0),  # as many positions as B=4, K=10
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One row of the table: sizes, precision, marginal, dropout."""

    shapes: str
    dtype: str
    kind: str
    dropout: bool
    remat: str = "dots"

    @property
    def config(self) -> rag.RagConfig:
        """Both models' sizes; dropout at their own rates, or none."""
        sizes, rates = SHAPES[self.shapes], {} if self.dropout else {"dropout": 0.0, "attention_dropout": 0.0}
        common = {"dtype": self.dtype, "remat": self.remat} | rates
        return rag.RagConfig(BertConfig(**sizes.bert, **common), BartConfig(**sizes.bart, **common), self.kind)

    @property
    def stage(self) -> ConfigDict:
        """The joint stage's learning rate, decay and clipping."""
        return default_config().joint

    def batch(self) -> Batch:
        """Random tokens without padding, and vectors whose scores lie some units apart."""
        random, sizes, config = np.random.default_rng(0), SHAPES[self.shapes], self.config

        def tokens(vocabulary: int, *shape: int) -> np.ndarray:
            return random.integers(5, vocabulary, shape).astype(np.int32)

        words = config.generator.vocab_size
        token_BT = tokens(words, sizes.B, sizes.T)
        document_BKE = 0.1 * random.standard_normal((sizes.B, K, config.question_encoder.embedding_width), np.float32)
        return Batch(
            question_BQ=tokens(config.question_encoder.vocab_size, sizes.B, sizes.Q),
            document_BKE=document_BKE,
            mask_BK=np.ones((sizes.B, K), bool),
            source_BKS=tokens(words, sizes.B, K, sizes.S),
            token_BT=token_BT,
            target_BT=np.pad(token_BT[:, 1:], [(0, 0), (0, 1)], constant_values=config.generator.pad_id),  # as theirs
            weight_B=np.ones(sizes.B, np.float32),
        )

    def flops(self) -> float:
        """Multiplications and additions of a step's matrix products, the backward pass at twice the forward."""
        sizes, bert, bart = SHAPES[self.shapes], self.config.question_encoder, self.config.generator
        sources, targets = sizes.B * K * sizes.S, sizes.B * K * sizes.T

        def layer(model: Any, length: int) -> int:  # of one token: projections, feed-forward, scores and values
            return 8 * model.width**2 + 4 * model.width * model.ffn + 4 * length * model.width

        crossing = 4 * bart.width**2 + 4 * sizes.S * bart.width
        forward = (
            sizes.B * sizes.Q * bert.layers * layer(bert, sizes.Q)
            + sources * bart.encoder_layers * layer(bart, sizes.S)
            + sources * bart.decoder_layers * 4 * bart.width**2  # the memory's keys and values
            + targets * bart.decoder_layers * (layer(bart, sizes.T) + crossing)
            + targets * 2 * bart.width * bart.vocab_size
        )
        return 3.0 * forward


class Ours:
    """This package's step on one device, mapped as the training loop maps it."""

    def __init__(self, problem: Problem):
        self.config, parallel = problem.config, Pmap(jax.devices()[:1])
        tx = optimizer(problem.stage, ("question_encoder", "generator"))
        params = weights(problem)
        self.state = parallel.put_state(TrainState(jnp.int32(0), params, jax.jit(tx.init)(params)))
        self.batch = parallel.put_batch(problem.batch())
        objective = Objective(train_question_encoder=True, label_smoothing=0.0, accumulation=1, seed=0)
        self.step = parallel.step(train_step, config=self.config, optimizer=tx, objective=objective)

    def __call__(self) -> float:
        """One step; returns its loss a token."""
        self.state, metrics = self.step(self.state, self.batch)
        return float(jax.block_until_ready((self.state, metrics))[1]["loss"])

    def peak(self) -> float | None:
        """Most bytes that the accelerator held, or None on a CPU."""
        stats = jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats and jax.default_backend() == "gpu" else None


class AllKept(Ours):
    """The same, whose backward pass computes nothing again."""

    def __init__(self, problem: Problem):
        super().__init__(replace(problem, remat="none"))


class WholeLogits(Ours):
    """Ours with [B, K, T, V] logits, kept for the backward pass."""

    def __call__(self) -> float:
        """As ours; the first call traces the step with the other likelihood."""
        with mock.patch.object(likelihood, "token_log_likelihood", whole_logits):
            return super().__call__()


def whole_logits(hidden_BKTD, embedding_VD, bias_V, target_BT, prior_BK, smoothing) -> likelihood.TokenLikelihood:
    """token_log_likelihood without smoothing, written down plainly."""
    assert not smoothing
    logit_BKTV = jnp.einsum(
        "bktd,vd->bktv", hidden_BKTD, embedding_VD.astype(hidden_BKTD.dtype), precision="highest",
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    logp_BKTV = jax.nn.log_softmax(logit_BKTV + widen(bias_V)[None, None, None])
    index_BKT1 = jnp.broadcast_to(target_BT[:, None, :, None], (*hidden_BKTD.shape[:3], 1))
    logp_BKT = jnp.take_along_axis(logp_BKTV, index_BKT1, axis=3)[..., 0]
    return likelihood.TokenLikelihood(logp_BKT, None, None, len(embedding_VD))


class Theirs:
    """transformers and torch on the device that jax uses, with as many threads as there are cores."""

    compiled = False

    def __init__(self, problem: Problem):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.manual_seed(0)
        self.torch, self.dtype, self.steps = torch, getattr(torch, problem.dtype), 0
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        config, stage, batch = problem.config, problem.stage, problem.batch()
        encoder = transformers.DPRConfig(**bert_json(config.question_encoder))
        generator = transformers.BartConfig(**bart_json(config.generator))
        both = transformers.RagConfig.from_question_encoder_generator_configs(encoder, generator, n_docs=K)
        name = {"token": "RagTokenForGeneration", "sequence": "RagSequenceForGeneration"}[problem.kind]
        parts = transformers.DPRQuestionEncoder(encoder), transformers.BartForConditionalGeneration(generator)
        self.model = getattr(transformers, name)(both, *parts)
        arrays = to_huggingface(jax.device_get(weights(problem)), rules.rag())
        found = self.model.load_state_dict({name: torch.tensor(x) for name, x in arrays.items()}, strict=False)
        tied = ("lm_head.weight", "embed_tokens.weight")  # to the one table that is given
        assert not found.unexpected_keys and all(name.endswith(tied) for name in found.missing_keys), found
        self.model.to(self.device).train()
        self.clip, self.rate = stage.clip, learning_rate(stage)
        self.optimizer = self._adamw(stage)
        self.inputs = {
            "question": self._put(batch.question_BQ),
            "document": torch.from_numpy(batch.document_BKE).to(self.device),
            "source": self._put(batch.source_BKS.reshape(-1, batch.source_BKS.shape[2])),
            "labels": self._put(batch.token_BT),
        }
        self.tokens = int((batch.target_BT != config.generator.pad_id).sum())
        self.loss = torch.compile(self._loss) if self.compiled else self._loss

    def _put(self, ids: np.ndarray) -> Any:
        return self.torch.from_numpy(ids).long().to(self.device)

    def _adamw(self, stage: ConfigDict) -> Any:
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        plain = [p for name, p in trained if p.ndim == 1]
        matrices = [p for name, p in trained if p.ndim > 1]
        groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return self.torch.optim.AdamW(groups, eps=ADAM_EPSILON, fused=True)

    def _loss(self, question: Any, document: Any, source: Any, labels: Any) -> Any:
        low = self.dtype == self.torch.bfloat16
        with self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=low):
            query = self.model.question_encoder(question, self.torch.ones_like(question))[0]
            scores = (query.float()[:, None] * document).sum(2)
            said = self.model(
                context_input_ids=source, context_attention_mask=self.torch.ones_like(source), doc_scores=scores,
                labels=labels, n_docs=K,
            )  # fmt: skip
        return said.loss.sum() / self.tokens

    def __call__(self) -> float:
        """One step; returns its loss a token."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.rate(self.steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(**self.inputs)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.steps += 1
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return loss.item()

    def peak(self) -> float | None:
        """Most bytes that the accelerator held, or None on a CPU."""
        return self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None


class Compiled(Theirs):
    """The same through torch.compile."""

    compiled = True


SIDES = {
    "ours": Ours,
    "ours, all kept": AllKept,
    "ours, whole logits": WholeLogits,
    "transformers": Theirs,
    "transformers, compiled": Compiled,
}
ROWS = {  # name: (marginal, dropout, sides)
    "RAG-Token": ("token", False, tuple(SIDES)),
    "RAG-Sequence": ("sequence", False, ("ours", "transformers", "transformers, compiled")),
    "RAG-Token, dropout on": ("token", True, ("ours", "transformers", "transformers, compiled")),
}


def weights(problem: Problem) -> dict[str, Any]:
    """Fresh parameters, the same in every process."""
    return rag.init_params(problem.config, jax.random.key(0))


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes that waits for its result."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def product(dtype: str) -> tuple[Callable[[], Any], float]:
    """A product of square matrices in XLA, and its multiplications and additions."""
    size = 8192 if jax.default_backend() == "gpu" else 2048
    x, multiply = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    return lambda: multiply(x, x).block_until_ready(), 2.0 * size**3


def time_row(problem: Problem, names: list[str], repeats: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Median seconds and last losses of the sides, and the product's median FLOP/s."""
    sides = {name: SIDES[name](problem) for name in names}
    multiply, work = product(problem.dtype)
    for side in sides.values():
        for _ in range(WARM_UP):
            side()
    taken, products, losses = {name: [] for name in names}, [], {}
    for _ in range(repeats):
        for name, side in sides.items():
            products.append(seconds(multiply))
            taken[name].append(seconds(lambda name=name, side=side: losses.update({name: side()})))
    return {name: statistics.median(times) for name, times in taken.items()}, losses, work / statistics.median(products)


def peak_alone(name: str, problem: Problem) -> float:
    """Runs one side in a process of its own; returns its peak in GiB, weights and optimizer included."""
    question = json.dumps({"side": name, "problem": vars(problem)})
    command = [sys.executable, "-m", "tests.benchmarks.train_step", f"--child={question}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: the process that measures memory failed\n{done.stderr}")
    return float(done.stdout.split()[-1]) / 2**30


def child(side: str, problem: dict[str, Any]) -> float:
    """Peak bytes of a step after those that warm up: the accelerator's, or the process's resident memory."""
    model = SIDES[side](Problem(**problem))
    for _ in range(WARM_UP):
        model()
    ctypes.CDLL(None).malloc_trim(0)  # what loading and compiling needed is given back,
    Path("/proc/self/clear_refs").write_text("5")  # and its peak forgotten
    model()
    if (peak := model.peak()) is not None:
        return peak
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def table(shapes: str, dtype: str, repeats: int, rows: list[str], chosen: set[str]) -> None:
    """Prints the rows as they come; peak memory of the first and the last."""
    sizes, device = SHAPES[shapes], jax.devices()[0].device_kind
    print(
        f"{shapes}, {dtype}, {device}: {sizes.B} questions of {sizes.Q} tokens, {K} documents, source {sizes.S}, "
        f"target {sizes.T}; {Problem(shapes, dtype, 'token', False).flops() / 1e12:.3f} TFLOP a step\n"
    )
    peak = next((most for card, most in PEAKS.items() if card in device and dtype == "bfloat16"), None)
    mfu = " of the card's peak |" if peak else ""
    print(f"| step | seconds | times ours | TFLOP/s | of XLA's product |{mfu} peak, GiB | loss |")
    print("|---|---|---|---|---|---|---|" + ("---|" if peak else ""))
    for row in rows:
        kind, dropout, names = ROWS[row]
        problem, names = Problem(shapes, dtype, kind, dropout), [name for name in names if name in chosen]
        taken, losses, rate = time_row(problem, names, repeats)
        for name in names:
            speed = problem.flops() / taken[name]
            cells = [f"{row}: {name}", f"{taken[name]:.3f}", f"{taken[name] / taken[names[0]]:.2f}x"]
            cells += [f"{speed / 1e12:.3f}", f"{speed / rate:.0%} of {rate / 1e12:.3f}"]
            cells += [f"{speed / peak:.0%}"] if peak else []
            cells += [f"{peak_alone(name, problem):.2f}" if row != "RAG-Sequence" else "–", f"{losses[name]:.4f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


class RandomVectors:
    """[N, E] vectors in bf16, for ExactSearcher: one block again and again, each time scaled a little less."""

    def __init__(self, N: int, E: int):
        self.shape, self.dtype = (N, E), np.dtype(ml_dtypes.bfloat16)
        self.block_CE = np.random.default_rng(0).standard_normal((8192, E), np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), which lie within one block."""
        return (self.block_CE[: stop - start] * (1 - start / (2 * len(self)))).astype(self.dtype)


def search(N: int, repeats: int) -> None:
    """Prints how fast passage vectors are searched on one device, and how fast it copies."""
    vectors = RandomVectors(N, 768)
    searcher = ExactSearcher(vectors, devices=jax.local_devices()[:1])
    query_BE = vectors.block_CE[:SEARCHED]
    found_BK, _ = searcher.search(query_BE, K)
    assert (found_BK[:, 0] == np.arange(SEARCHED)).all(), "each question is a passage's own vector"
    spent = statistics.median(seconds(lambda: searcher.search(query_BE, K)) for _ in range(repeats))
    x, copy = jnp.zeros(2**29, jnp.bfloat16), jax.jit(jnp.negative)
    copy(x).block_until_ready()
    copied = statistics.median(seconds(lambda: copy(x).block_until_ready()) for _ in range(repeats))
    rates = N * 768 * 2 / spent / 1e9, 2 * x.nbytes / copied / 1e9
    print(
        f"\nexact search of {SEARCHED} questions in {N:,} x 768 bf16 vectors: {1e3 * spent:.1f} ms, "
        f"{rates[0]:.1f} GB/s; a copy {rates[1]:.1f} GB/s; {rates[0] / rates[1]:.0%}"
    )


def main() -> None:
    """Reads the flags; prints the table and the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="base", help="the models' sizes and the batch's")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps, of which the median counts")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU too, which needs a C++ compiler")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(child(**flags.child))
        return
    compiles = flags.compile or jax.default_backend() == "gpu"
    sides = {*flags.sides} - (set() if compiles else {"transformers, compiled"})
    table(flags.shapes, flags.dtype, flags.repeats, flags.rows, sides)
    if N := SHAPES[flags.shapes].N:
        search(N, flags.repeats)


if __name__ == "__main__":
    main()
