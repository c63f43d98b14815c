"""A model small enough for a test, batches for it, and what tells gradients apart."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax.checkpoint import Checkpoints
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.models import rag
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.parallel import Pmap, Sharded
from rag_jax.training.step import Batch

BERT = BertConfig(
    vocab_size=20, width=16, layers=1, heads=2, ffn=24, positions=12, dropout=0.0, attention_dropout=0.0, init_std=0.3
)
BART = BartConfig(
    vocab_size=24,
    width=16,
    encoder_layers=1,
    decoder_layers=1,
    heads=2,
    ffn=24,
    positions=12,
    dropout=0.0,
    init_std=0.3,
)
MASKED = ((0, 2), (3, 0), (3, 1), (5, 1))  # (question, document) without a passage
PADDING = 7  # the question with weight 0, which has no passage at all


class Tiny:
    """Configurations, parameters and batches of one size, so that compiled programs are shared."""

    bert, bart = BERT, BART
    masked, padding = MASKED, PADDING
    B, K, Q, S, T = 8, 3, 5, 6, 5

    # The optimizer's state holds the gradient itself: momentum 0.
    sgd = staticmethod(lambda: optax.sgd(0.1, momentum=0.0))

    @staticmethod
    def config(kind="token", dtype="float32"):
        encoder, generator = (replace(config, dtype=dtype) for config in (BERT, BART))
        return rag.RagConfig(encoder, generator, kind=kind, score_scale=0.5)

    @staticmethod
    def cast(tree, dtype):
        """The tree with its floating point numbers in another type."""
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == np.float32 else leaf, tree)

    @classmethod
    def batch(cls, seed=0):
        """Answers of different lengths after `<s>`, some documents missing, and one question of weight 0."""
        rng = np.random.default_rng(seed)
        words = rng.integers(5, BART.vocab_size, (cls.B, cls.T))
        token_BT, target_BT = np.full((2, cls.B, cls.T), BART.pad_id, np.int32)
        for row in range(cls.B):
            length = row % (cls.T - 2) + 1
            label = [BART.bos_id, *words[row, :length], BART.eos_id]
            target_BT[row, : len(label)], token_BT[row, : len(label)] = label, [BART.eos_id, *label[:-1]]
        mask_BK = np.ones((cls.B, cls.K), bool)
        mask_BK[tuple(zip(*MASKED, strict=True))] = mask_BK[PADDING] = False
        return Batch(
            question_BQ=rng.integers(1, BERT.vocab_size, (cls.B, cls.Q)).astype(np.int32),
            document_BKE=rng.normal(size=(cls.B, cls.K, BERT.width)).astype(np.float32),
            mask_BK=mask_BK,
            source_BKS=rng.integers(5, BART.vocab_size, (cls.B, cls.K, cls.S)).astype(np.int32),
            token_BT=token_BT,
            target_BT=target_BT,
            weight_B=(np.arange(cls.B) != PADDING).astype(np.float32),
        )

    @staticmethod
    def bits(tree):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]

    @staticmethod
    def assert_close(found, expected, tolerance=1e-6):
        """Every array within `tolerance` of the norm of its encoder or generator."""
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for half in expected:
            norm = float(optax.tree.norm(expected[half]))
            pairs = zip(jax.tree.leaves_with_path(expected[half]), jax.tree.leaves(found[half]), strict=True)
            for (path, leaf), other in pairs:
                difference = np.linalg.norm(np.asarray(other) - np.asarray(leaf)) / norm
                assert difference <= tolerance, (half + jax.tree_util.keystr(path), difference)


@pytest.fixture(scope="module", autouse=True)
def in_haste(compiled_in_haste):
    """Of every test here."""


@pytest.fixture(scope="session")
def tiny():
    return Tiny


@pytest.fixture(scope="session")
def params(tiny):
    """Parameters that matter everywhere: biases and norms are random too."""
    rng = np.random.default_rng(3)

    def fill(path, leaf):
        kind = path[-1].key
        value = rng.normal(size=leaf.shape) * (0.1 if kind in ("bias", "scale", "final_logits_bias") else 0.3)
        return (value + (kind == "scale")).astype(np.float32)

    shapes = jax.eval_shape(lambda: rag.init_params(tiny.config(), jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture
def save_retriever():
    """(folder, trees): what train_retriever leaves there."""

    def save(folder, trees):
        checkpoints = Checkpoints(folder)
        checkpoints.save(3, trees, {"step": jnp.int32(3)}, score=3, extra={})
        checkpoints.close()

    return save


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """Folders that transformers wrote, of random models of Tiny's sizes, and the token tables in them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    bert, bart = transformers.DPRConfig(**bert_json(BERT)), transformers.BartConfig(**bart_json(BART))
    both = transformers.RagConfig.from_question_encoder_generator_configs(bert, bart)
    models = {
        "question": transformers.DPRQuestionEncoder(bert),
        "passage": transformers.DPRContextEncoder(bert),
        "generator": transformers.BartForConditionalGeneration(bart),
        "rag": transformers.RagTokenForGeneration(both),
    }
    folder = tmp_path_factory.mktemp("hub")
    for name, model in models.items():
        model.save_pretrained(folder / name)
    tables = {
        "question": models["question"].base_model.bert_model.embeddings.word_embeddings,
        "passage": models["passage"].base_model.bert_model.embeddings.word_embeddings,
        "generator": models["generator"].model.shared,
        "rag question": models["rag"].rag.question_encoder.question_encoder.bert_model.embeddings.word_embeddings,
        "rag generator": models["rag"].rag.generator.model.shared,
    }
    tokens = {name: table.weight.detach().numpy() for name, table in tables.items()}
    return SimpleNamespace(tokens=tokens, **{name: str(folder / name) for name in models})


@pytest.fixture(scope="session")
def devices():
    """{1: Pmap of one device, 8: Pmap of eight, "sharded": the state split over eight}."""
    return {1: Pmap(jax.devices()[:1]), 8: Pmap(), "sharded": Sharded()}
