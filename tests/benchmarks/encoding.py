"""Encoding passages beside transformers: passages a second by BERT-base in fp32; same weights, same texts, same run.

    python -m tests.benchmarks.encoding                             # 2,000 passages; a quarter of an hour on two cores
    python -m tests.benchmarks.encoding --passages=200 --layers=1   # does it run?

The passages are the first of DATA/squad_open, tokenised with BERT's vocabulary from DATA/vocab and cut at --length.
Ours is what build_index does, from the passage store to the shards on disk, batches sorted by length. transformers'
BertModel gets them in the order of the corpus, BATCH at a time, padded to the longest, tokenised by its own tokenizer.
Each has compiled and warmed up before. They take turns in parts of the corpus, so that a busy moment harms both; a part
is one shard of ours. Last, both at equal padding: whole batches of --length tokens, nothing to tokenise.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from rag_jax.data.corpus import read_passages
from rag_jax.data.passages import build_store
from rag_jax.data.tokenizer import Tokenizer, train_byte_bpe
from rag_jax.hub import rules
from rag_jax.hub.configs import bert_json
from rag_jax.hub.convert import to_huggingface
from rag_jax.index.encoding import WIDTH, Encoder, Work
from rag_jax.index.vectors import write_shard
from rag_jax.models.bert import BertConfig, BertEncoder
from rag_jax.parallel import Pmap
from rag_jax.training.retriever import encode_passages

BATCH, PARTS, EQUAL = 16, 2, 5


class Ours:
    """This package; notes how many tokens it computes with, padding included."""

    def __init__(self, config: BertConfig, params, tokenizer: Tokenizer, length: int, batch: int):
        self.parallel, self.spent = Pmap(), 0
        self.params = self.parallel.put_state(params)
        self.program = self.parallel.batch(partial(encode_passages, config))
        self.encoder = Encoder(self.run, partial(tokenizer.passage_ids, length=length), config.pad_id, length, batch)

    def run(self, ids_BP: np.ndarray) -> jax.Array:
        """Starts a batch."""
        self.spent += ids_BP.size
        return self.program(self.params, self.parallel.put_batch(ids_BP))

    def __call__(self, passages, folder: Path) -> np.ndarray:
        """Vectors of passages, written as a shard as well."""
        ids_CP = self.encoder.passage_ids([p.title for p in passages], [p.text for p in passages])
        vector_CE = self.encoder.vectors(ids_CP, Work(folder, len(passages), lambda line: None), lambda: None)
        write_shard(folder, 0, vector_CE)
        return vector_CE

    def batch(self, ids_BP: np.ndarray) -> np.ndarray:
        """Vectors of one batch as it is."""
        return self.parallel.to_host(self.run(ids_BP))


class Theirs:
    """transformers, with as many threads as there are cores."""

    def __init__(self, config: BertConfig, params, folder: Path, length: int):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.torch, self.length, self.spent = torch, length, 0
        self.tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
        sizes = transformers.BertConfig(**bert_json(config))
        self.model = transformers.BertModel(sizes, add_pooling_layer=False).eval()
        arrays = to_huggingface(params, rules.bert())
        self.model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})

    def run(self, **inputs) -> np.ndarray:
        """Vectors of one batch: the first position of the last layer."""
        self.spent += inputs["input_ids"].numel()
        with self.torch.inference_mode():
            return self.model(**inputs).last_hidden_state[:, 0].numpy()

    def __call__(self, passages, folder: Path) -> np.ndarray:
        """Vectors of passages, in their order."""
        found = []
        for at in range(0, len(passages), BATCH):
            batch = passages[at : at + BATCH]
            texts = [p.title for p in batch], [p.text for p in batch]
            settings = {"padding": "longest", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
            inputs = self.tokenizer(*texts, **settings, return_token_type_ids=False)
            found.append(self.run(**inputs))
        return np.concatenate(found)

    def batch(self, ids_BP: np.ndarray) -> np.ndarray:
        """Vectors of one batch as it is."""
        ids = self.torch.from_numpy(ids_BP).long()
        return self.run(input_ids=ids, attention_mask=self.torch.ones_like(ids))


def draw(config: BertConfig):
    """Random parameters as numpy arrays."""
    ids_BQ = np.ones((1, 8), np.int32)
    return jax.device_get(jax.jit(BertEncoder(config).init)(jax.random.key(0), ids_BQ, ids_BQ > 0)["params"])


def main() -> None:
    """Reads the flags; prints what is measured as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--length", type=int, default=256, help="tokens at which passages are cut, as in DPR")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=BATCH, help="passages that ours takes at a time")
    flags = parser.parse_args()
    vocabulary, config = flags.data / "vocab" / "bert-base-uncased", BertConfig(layers=flags.layers)
    params = draw(config)
    sides = {
        "ours": Ours(config, params, Tokenizer.load(vocabulary), flags.length, flags.batch),
        "transformers": Theirs(config, params, vocabulary, flags.length),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = itertools.islice(read_passages(flags.data / "squad_open" / "passages.tsv.gz"), flags.passages)
        bpe = train_byte_bpe(["a store keeps the generator's tokens too"], 300, folder / "tokenizer")
        store = build_store(found, folder / "passages", bpe)
        measure(sides, store, folder)
    equal(sides, flags.length)


def measure(sides, store, folder: Path) -> None:
    """Passages a second of each side over the whole corpus, and what share of its tokens is padding."""
    random, taken = np.random.default_rng(0), dict.fromkeys(sides, 0.0)
    ours = sides["ours"].encoder
    for width in range(WIDTH, ours.length + WIDTH, WIDTH):
        ids_BP = random.integers(1000, 20000, (ours.batch_size, min(width, ours.length))).astype(np.int32)
        sides["ours"].batch(ids_BP)
    sides["transformers"].batch(ids_BP[:BATCH])
    for side in sides.values():
        side.spent = 0
    apart, needed = [], 0
    for rows in np.array_split(np.arange(len(store)), PARTS):
        vectors = {}
        for name, side in sides.items():
            began = time.perf_counter()
            vectors[name] = side([store[row] for row in rows.tolist()], folder)
            taken[name] += time.perf_counter() - began
        apart.append(np.abs(vectors["ours"] - vectors["transformers"]).max())
        part = [store[row] for row in rows.tolist()]
        ids_CP = ours.passage_ids([p.title for p in part], [p.text for p in part])
        needed += int((ids_CP != ours.pad_id).sum())
    print(f"{len(store):,} passages of {needed / len(store):.0f} tokens; vectors differ by {max(apart):.1e} at most\n")
    print("| | seconds | passages a second | tokens computed of those needed |")
    print("|---|---|---|---|")
    for name, side in sides.items():
        print(f"| {name} | {taken[name]:.1f} | {len(store) / taken[name]:.2f} | {side.spent / needed:.2f} |")
    print(f"\nratio {taken['transformers'] / taken['ours']:.2f}x", flush=True)


def equal(sides, length: int) -> None:
    """Passages a second of each side in whole batches of the same ids: medians of EQUAL, in turns."""
    random, taken = np.random.default_rng(1), {name: [] for name in sides}
    for _ in range(EQUAL + 1):
        ids_BP = random.integers(1000, 20000, (BATCH, length)).astype(np.int32)
        for name, side in sides.items():
            began = time.perf_counter()
            side.batch(ids_BP)
            taken[name].append(time.perf_counter() - began)
    ours, theirs = (BATCH / statistics.median(times[1:]) for times in taken.values())
    print(
        f"equal padding, {BATCH} x {length} tokens: ours {ours:.2f}, transformers {theirs:.2f} passages a second, "
        f"ratio {ours / theirs:.2f}x"
    )


if __name__ == "__main__":
    main()
