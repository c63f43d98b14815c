"""Tiny random generators, in transformers and in ours with the same weights, made to say varied things."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import torch
import transformers

from rag_jax.hub import rules
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.hub.convert import from_huggingface
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.models.rag import RagConfig

from .watch import BOS, EOS, PAD, WatchedBart, WatchedSequence, WatchedToken

POSITIONS = 24
# Standard deviations of the weights by parts of their names, the last that fits; found by measuring, so that
# test_the_cases_are_worth_asking holds: transformers' own would say one word for ever, whatever the document. Sharper
# attention would let float32's rounding decide more than the ties.
SCALES = {
    "": 0.3,
    "shared": 0.4,
    "decoder.embed_positions": 1.5,
    "encoder_attn": 1.0,
    "encoder_attn.q_proj": 0.4,
    "encoder_attn.k_proj": 0.4,
    "bias": 0.3,
}


@dataclass(frozen=True)
class World:
    """A tiny random model: its vocabulary, its weights' seed, what it starts from and likes to say, and how surely.

    loudness multiplies the logits: a long answer of a loud model may be likelier than a short one.
    """

    vocab: int
    seed: int = 0
    start_id: int = 2
    eos_bias: float = 4.0
    bos_bias: float = 0.0
    pad_bias: float = -30.0
    loudness: float = 1.0

    @property
    def sizes(self) -> BartConfig:
        """Our side's configuration; worlds that differ in weights alone share compiled programs."""
        return BartConfig(
            vocab_size=self.vocab,
            width=16,
            encoder_layers=1,
            decoder_layers=2,
            heads=2,
            ffn=32,
            positions=POSITIONS,
            start_id=self.start_id,
        )


def _draw(model: transformers.BartForConditionalGeneration, world: World) -> None:
    random = torch.Generator().manual_seed(world.seed * 1000 + world.vocab)
    for name, weight in [*model.named_parameters(), ("bias", model.final_logits_bias)]:
        if "norm" not in name:
            scale = [scale for part, scale in SCALES.items() if part in name][-1]
            weight.data.normal_(0.0, scale, generator=random)
    model.model.shared.weight.data *= world.loudness
    for token, bias in ((BOS, world.bos_bias), (PAD, world.pad_bias), (EOS, world.eos_bias)):
        model.final_logits_bias[0, token] = bias


class Models:
    """One world's models on both sides."""

    def __init__(self, world: World):
        sizes, encoder = world.sizes, BertConfig(vocab_size=20, width=16, layers=1, heads=2, ffn=32)
        question_encoder = transformers.DPRConfig(**bert_json(encoder))
        generator = transformers.BartConfig(**bart_json(sizes))
        config = transformers.RagConfig.from_question_encoder_generator_configs(question_encoder, generator)
        self.world = world
        self.plain, self.watched = (self._models(config, watched) for watched in (False, True))
        bart = self.plain["bart"]
        self.config = RagConfig(question_encoder=encoder, generator=sizes)
        ids = jnp.zeros((1, 2), jnp.int32)
        shapes = jax.eval_shape(Bart(sizes).init, jax.random.key(0), ids, ids == 0, ids)["params"]
        tensors = {name: tensor.numpy() for name, tensor in bart.state_dict().items()}
        self.params = {"generator": jax.tree.map(jnp.asarray, from_huggingface(tensors, rules.bart(), shapes))}

    def _models(self, config: Any, watched: bool) -> dict[str, Any]:
        bart = (WatchedBart if watched else transformers.BartForConditionalGeneration)(config.generator)
        _draw(bart, self.world)
        encoder = transformers.DPRQuestionEncoder(config.question_encoder)
        token = WatchedToken if watched else transformers.RagTokenForGeneration
        sequence = WatchedSequence if watched else transformers.RagSequenceForGeneration
        parts = {"config": config, "question_encoder": encoder, "generator": bart}
        models = {"bart": bart, "token": token(**parts), "sequence": sequence(**parts)}
        return {name: (model.double() if watched else model).eval() for name, model in models.items()}
