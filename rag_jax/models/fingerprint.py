"""A short name for an encoder: equal for equal weights and pooling, so that an index can remember who made it."""

import hashlib
from typing import Any

import jax
import numpy as np

from rag_jax.models.bert import BertConfig


def encoder_fingerprint(config: BertConfig, params: Any) -> str:
    """16 hexadecimal digits over the encoder's weights and over what it does with them."""
    digest = hashlib.sha256(f"{config.pooling} {config.normalize} {config.heads}".encode())
    for path, leaf in sorted(jax.tree.leaves_with_path(params), key=lambda item: jax.tree_util.keystr(item[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
