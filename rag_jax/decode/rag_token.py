"""RAG-Token decoding: one autoregressive generator whose next token is a mixture over the documents.

Lewis et al. 2020, section 2.5: p(y_i|x,y_<i) = sum_z p(z|x) p(y_i|x,z,y_<i) is an ordinary transition
probability, so an ordinary search runs on it. The search over a single document is plain BART decoding;
RAG-Sequence uses that.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.rag import RagConfig


class Generated(NamedTuple):
    """Answers: tokens (pad after `</s>`), log p(y|x), each token's log-posterior of documents; in nats.

    A token's posterior is proportional to p(z|x) p(y_i|x,z,y_<i); where nothing was said it is the prior.
    """

    token_BT: jax.Array
    log_prob_B: jax.Array
    posterior_BKT: jax.Array


class Memory(NamedTuple):
    """What the decoder reads of each (question, document) row: made once, shared by all beams of the row."""

    cross: Any
    mask_RS: jax.Array


class _State(NamedTuple):
    position: jax.Array
    last_B: jax.Array
    open_B: jax.Array
    cache: Any
    generated: Generated


def greedy(
    config: RagConfig, params: dict, source_BKS: jax.Array, prior_BK: jax.Array, *, max_length: int
) -> Generated:
    """Takes the likeliest next token under the mixture until `</s>` or until there are `max_length` tokens.

    `source_BKS` are generator inputs, `prior_BK` log p(z|x) with -inf for a document that is not there. A
    question without documents gets only pads and log-probability -inf. What counts: see `counted`.
    """
    return search(config, params, read(config, params, source_BKS), prior_BK, max_length=max_length)


def read(config: RagConfig, params: dict, source_BKS: jax.Array) -> Memory:
    """Encodes every (question, document) row of `source_BKS` and makes its cross keys and values."""
    source_RS = source_BKS.reshape(-1, source_BKS.shape[-1])
    mask_RS = source_RS != config.generator.pad_id
    model, variables = Bart(config.generator), {"params": params["generator"]}
    memory_RSD = model.apply(variables, source_RS, mask_RS, method="encode")
    return Memory(model.apply(variables, memory_RSD, method="cross"), mask_RS)


def search(config: RagConfig, params: dict, memory: Memory, prior_BK: jax.Array, *, max_length: int) -> Generated:
    """Greedy search over documents already read: the rows of `memory` are B questions times K documents."""
    generator, (B, K) = config.generator, prior_BK.shape
    open_B = jnp.any(prior_BK > -jnp.inf, axis=1)
    start = _State(
        position=jnp.int32(0),
        last_B=jnp.full((B,), generator.start_id, jnp.int32),
        open_B=open_B,
        cache=Bart(generator).init_cache(B * K, 1, max_length),
        generated=Generated(
            token_BT=jnp.full((B, max_length), generator.pad_id, jnp.int32),
            log_prob_B=jnp.where(open_B, 0.0, -jnp.inf),
            posterior_BKT=jnp.broadcast_to(prior_BK[:, :, None], (B, K, max_length)),
        ),
    )

    def some_open(state: _State) -> jax.Array:
        return (state.position < max_length) & jnp.any(state.open_B)

    def step(state: _State) -> _State:
        joint_BKMV, cache = next_token(
            config, params, state.last_B[:, None], memory, state.cache, state.position, prior_BK
        )
        joint_BKV = joint_BKMV[:, :, 0]
        marginal_BV = jax.nn.logsumexp(joint_BKV, axis=1)
        best_B = jnp.argmax(marginal_BV, axis=-1).astype(jnp.int32)
        return _advance(generator, state, cache, best_B, joint_BKV, marginal_BV)

    return jax.lax.while_loop(some_open, step, start).generated


def next_token(
    config: RagConfig,
    params: dict,
    token_BM: jax.Array,
    memory: Memory,
    cache: Any,
    position: jax.Array,
    prior_BK: jax.Array,
) -> tuple[jax.Array, Any]:
    """Shows the last tokens of M beams to all documents: (log p(z|x) + log p(y_i|x,z,y_<i) [B,K,M,V], cache).

    In fp32. The logsumexp over K is the mixture (section 2.1, equation RAG-Token); less the mixture it is the
    documents' posterior. A document whose prior is -inf is -inf throughout.
    """
    (B, K), M = prior_BK.shape, token_BM.shape[1]
    model, variables = Bart(config.generator), {"params": params["generator"]}
    token_RMT = jnp.repeat(token_BM, K, axis=0)[:, :, None]
    hidden_RMTD, cache = model.apply(
        variables, token_RMT, memory.cross, memory.mask_RS, cache=cache, position=position, method="decode"
    )
    logits_RMTV = model.apply(variables, hidden_RMTD, method="logits")
    logp_BKMV = jax.nn.log_softmax(logits_RMTV.astype(jnp.float32)).reshape(B, K, M, -1)
    return prior_BK[:, :, None, None] + logp_BKMV, cache


def counted(generator: BartConfig, token_BT: jax.Array) -> jax.Array:
    """Marks the tokens whose probability an answer pays, mask_BT: all up to `</s>`, but not a leading `<s>`.

    A pad said before `</s>` is paid for; transformers makes it free, so that an answer of pads wins.
    """
    ends_BT = (token_BT == generator.eos_id).astype(jnp.int32)
    leading_BT = (jnp.arange(token_BT.shape[1]) == 0)[None, :] & (token_BT == generator.bos_id)
    return (jnp.cumsum(ends_BT, axis=1) == ends_BT) & ~leading_BT


def _advance(
    generator: BartConfig,
    state: _State,
    cache: Any,
    best_B: jax.Array,
    joint_BKV: jax.Array,
    marginal_BV: jax.Array,
) -> _State:
    """Appends the chosen tokens to the open questions; a closed one gets a pad and keeps what it has."""
    open_B, position = state.open_B, state.position
    token_BT, log_prob_B, posterior_BKT = state.generated
    logp_B = jnp.take_along_axis(marginal_BV, best_B[:, None], axis=1)[:, 0]
    joint_BK = jnp.take_along_axis(joint_BKV, best_B[:, None, None], axis=2)[:, :, 0]
    posterior_BK = jnp.where(open_B[:, None], joint_BK - logp_B[:, None], posterior_BKT[:, :, position])
    last_B = jnp.where(open_B, best_B, generator.pad_id)
    token_BT = token_BT.at[:, position].set(last_B)
    counts_B = open_B & ((position > 0) | (best_B != generator.bos_id))
    generated = Generated(
        token_BT,
        log_prob_B + jnp.where(counts_B, logp_B, 0.0),
        posterior_BKT.at[:, :, position].set(posterior_BK),
    )
    return _State(position + 1, last_B, open_B & (best_B != generator.eos_id), cache, generated)
