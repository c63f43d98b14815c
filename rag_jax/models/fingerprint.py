"""A short name for an encoder: equal for encoders that give a passage one vector; an index remembers who made it."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from rag_jax.models.bert import BertConfig

PLAIN = {"passage_prefix": "", "title": "pair"}


def encoder_fingerprint(config: BertConfig, params: Any) -> str:
    """16 hexadecimal digits over the encoder's weights and over what it does with them and with a passage's text.

    The question prefix is left out: no vector depends on it, so that an index serves whatever it is.
    """
    digest = hashlib.sha256(f"{config.pooling} {config.normalize} {config.heads}".encode())
    text = {"passage_prefix": config.passage_prefix, "title": config.title}
    if text != PLAIN:  # the name of a plain encoder is older than these settings
        digest.update(json.dumps(text).encode())
    return _with_weights(digest, params)


def model_fingerprint(settings: str, params: Any) -> str:
    """16 hexadecimal digits over any weights and what is said of their use."""
    return _with_weights(hashlib.sha256(settings.encode()), params)


def _with_weights(digest: Any, params: Any) -> str:
    for path, leaf in sorted(jax.tree.leaves_with_path(params), key=lambda item: jax.tree_util.keystr(item[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
