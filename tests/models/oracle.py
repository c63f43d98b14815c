"""Tiny random transformers models to compare with, and our configs of the same sizes."""

import numpy as np
import torch
import transformers

from rag_jax.hub.configs import bert_json
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig

BERT = {
    "vocab_size": 40,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "ffn": 24,
    "positions": 12,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
BART = {
    "vocab_size": 44,
    "width": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "heads": 2,
    "ffn": 24,
    "positions": 12,
    "dropout": 0.0,
}


def randomise(model, seed=0):
    """Gives every parameter a value that matters, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
                if "norm" in name.lower() and name.endswith("weight"):
                    tensor.add_(1.0)
    return model.eval()


def state(model):
    """The model's tensors as numpy."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def dpr_config(**changes):
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return transformers.DPRConfig(**sizes | changes)


def bart_config(**changes):
    sizes = {
        "vocab_size": 44,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 12,
        "dropout": 0.0,
    }
    return transformers.BartConfig(**sizes | changes)


class Oracle:
    """What tests share."""

    randomise = staticmethod(randomise)
    state = staticmethod(state)
    dpr_config = staticmethod(dpr_config)
    bart_config = staticmethod(bart_config)

    @staticmethod
    def bert_json():
        """The sizes in transformers' words."""
        return bert_json(BertConfig(**BERT))

    @staticmethod
    def bert(**changes):
        return BertConfig(**BERT | changes)

    @staticmethod
    def bart(**changes):
        return BartConfig(**BART | changes)

    @staticmethod
    def tokens(shape, vocabulary, lengths=None, pad=0, first=5, seed=0):
        """Random ids from `first` on, right-padded where `lengths` (one a row) says so."""
        ids = np.random.default_rng(seed).integers(first, vocabulary, shape).astype(np.int32)
        if lengths is not None:
            ids = np.where(np.arange(shape[-1]) < np.asarray(lengths)[..., None], ids, pad).astype(np.int32)
        return ids
