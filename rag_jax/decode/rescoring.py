"""The probability of given answers under single documents, in few decoder passes and each beginning read once.

Answers of one document share beginnings, so they are laid out as a tree: one node for every distinct beginning, which
sees the nodes it continues. Letters beside the usual: C candidate, G candidates judged at once, N node.
"""

import jax
import jax.numpy as jnp

from rag_jax.core.likelihood import log_normaliser
from rag_jax.decode.rag_token import Memory
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.layers import applied
from rag_jax.models.rag import RagConfig

# Tokens judged at once: enough to fill a device, and few enough that the widest layer's states stay small.
_TOKENS = 8192
# Sizes of tree a program is compiled for, of the size without shared beginnings; one where there is little to do.
_SHARES, _LITTLE = (0.25, 0.5, 0.75, 1.0), 1024


def judge(
    config: RagConfig,
    params: dict,
    memory: Memory,
    candidate_BCT: jax.Array,
    missing_BKC: jax.Array,
    paid_BCT: jax.Array,
    most: int,
) -> jax.Array:
    """log p(y|x,z) [B, K, C] of the candidates marked missing, summed over the tokens marked paid; 0 elsewhere.

    most: how many candidates a document can miss.
    """
    (B, C, T), K = candidate_BCT.shape, missing_BKC.shape[1]
    R = B * K
    missing_RC = missing_BKC.reshape(R, C)
    count_R = jnp.sum(missing_RC, axis=1)
    if most == 0:
        return jnp.zeros((B, K, C), jnp.float32)
    G = together(R, T, most)
    order_RC = jnp.pad(jnp.argsort(~missing_RC, axis=1, stable=True), ((0, 0), (0, -C % G)))
    row_R1 = jnp.arange(R)[:, None]

    def some_left(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return state[0] * G < jnp.max(count_R)

    def some_more(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        turn, logp_RC = state
        index_RG = jax.lax.dynamic_slice_in_dim(order_RC, turn * G, G, axis=1)
        live_RG = (turn * G + jnp.arange(G))[None] < count_R[:, None]
        token_RGT, paid_RGT = (x[row_R1 // K, index_RG] for x in (candidate_BCT, paid_BCT))
        paid_RGT = paid_RGT & live_RG[:, :, None]
        logp_RGT = _by_tree(config, params, memory, token_RGT, paid_RGT)
        return turn + 1, logp_RC.at[row_R1, index_RG].add(jnp.sum(jnp.where(paid_RGT, logp_RGT, 0.0), axis=2))

    nothing = jnp.int32(0), jnp.zeros((R, C), jnp.float32)
    return jax.lax.while_loop(some_left, some_more, nothing)[1].reshape(B, K, C)


def together(rows: int, length: int, most: int) -> int:
    """How many of a document's candidates, at most so many, are judged at once: G."""
    return min(most, max(1, _TOKENS // (rows * length)))


def _by_tree(config: RagConfig, params: dict, memory: Memory, token_RGT: jax.Array, paid_RGT: jax.Array) -> jax.Array:
    """log p(y_t|x,z,y_<t) [R, G, T] of the tokens marked paid."""
    R, G, T = token_RGT.shape
    home_RGT, node_RGT = beginnings(token_RGT, paid_RGT)
    shares = _SHARES if R * G * T > _LITTLE and G > 1 else _SHARES[-1:]
    sizes = [-(-int(share * G * T) // 8) * 8 for share in shares]
    most = jnp.max(jnp.sum(node_RGT, axis=(1, 2)))

    def with_room(N: int):
        return lambda: _decode_tree(config, params, memory, token_RGT, home_RGT, node_RGT, N)

    return jax.lax.switch(jnp.sum(most > jnp.array(sizes)), [with_room(min(N, G * T)) for N in sizes])


def beginnings(token_RGT: jax.Array, paid_RGT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each candidate's beginnings y_<t are read: (the first candidate with the same [R, G, T],

    whether that is itself and it is still to be paid for [R, G, T]).
    """
    unpaid_RGT = jax.lax.cumsum(paid_RGT.astype(jnp.int32), axis=2, reverse=True) > 0
    same_RGGT = jnp.cumprod(token_RGT[:, :, None] == token_RGT[:, None], axis=3, dtype=jnp.int32) > 0
    same_RGGT = jnp.pad(same_RGGT[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)), constant_values=True)
    home_RGT = jnp.argmax(same_RGGT & unpaid_RGT[:, None], axis=2)
    itself_RGT = home_RGT == jnp.arange(token_RGT.shape[1])[None, :, None]
    return home_RGT, itself_RGT & unpaid_RGT


def _decode_tree(config, params, memory: Memory, token_RGT, home_RGT, node_RGT, N: int) -> jax.Array:
    """One decoder pass over the first N nodes, each seeing those that it continues: logp_RGT."""
    generator, (R, G, T) = config.generator, token_RGT.shape
    row_R1 = jnp.arange(R)[:, None]
    node_RX = node_RGT.reshape(R, G * T)
    flat_RN = jnp.argsort(~node_RX, axis=1, stable=True)[:, :N]
    place_RN, input_RGT = flat_RN % T, _inputs(generator, token_RGT)
    # Where in the list of nodes a candidate's beginning stands.
    rank_RX = jnp.cumsum(node_RX, axis=1) - 1
    at_RGT = jnp.take_along_axis(rank_RX, (home_RGT * T + jnp.arange(T)[None, None]).reshape(R, G * T), axis=1)
    at_RGT = jnp.clip(at_RGT, 0, N - 1).reshape(R, G, T)

    path_RNT = at_RGT[row_R1, flat_RN // T]
    step_RNN = jnp.take_along_axis(path_RNT, jnp.broadcast_to(place_RN[:, None], (R, N, N)), axis=2)
    sees_RNN = (step_RNN == jnp.arange(N)[None, None]) & (place_RN[:, None] <= place_RN[:, :, None])

    hidden_RND = applied(
        Bart(generator),
        params["generator"],
        input_RGT.reshape(R, G * T)[row_R1, flat_RN],
        memory.cross,
        memory.mask_RS,
        place_RT=place_RN,
        sees_RTT=sees_RNN,
        method="decode",
    )
    embedding_VD, bias_V = params["generator"]["shared"]["embedding"], params["generator"]["final_logits_bias"]
    total_RN = log_normaliser(hidden_RND, embedding_VD, bias_V)
    wide = total_RN.dtype
    hidden_RGTD = hidden_RND[row_R1[..., None], at_RGT]
    table_RGTD = embedding_VD[token_RGT].astype(hidden_RGTD.dtype)  # as in the normaliser
    target_RGT = jnp.sum(hidden_RGTD.astype(wide) * table_RGTD.astype(wide), axis=3) + bias_V[token_RGT].astype(wide)
    return target_RGT - total_RN[row_R1[..., None], at_RGT]


def _inputs(generator: BartConfig, token_RGT: jax.Array) -> jax.Array:
    """What the decoder reads at each place: the token before."""
    return jnp.roll(token_RGT, 1, axis=2).at[:, :, 0].set(generator.start_id)
