"""A tiny random generator that says varied things, and a decoding reference without cache or batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core.marginal import document_log_prior
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.models.rag import RagConfig, token_likelihood

SOURCE = 6
LENGTH = 8


class Naive:
    """Next-token probabilities by running the whole model on the whole prefix of one question at a time."""

    def __init__(self, config):
        self.config = config

    @partial(jax.jit, static_argnums=0)
    def _logits(self, params, source_KS, token_KT):
        model, variables = Bart(self.config.generator), {"params": params["generator"]}
        mask_KS = source_KS != self.config.generator.pad_id
        return model.apply(variables, model.apply(variables, source_KS, mask_KS, token_KT), method="logits")

    def logp_KTV(self, params, source_KS, said):
        """log p(. | x, z, said_<t) in float64 at each of LENGTH places of the decoder."""
        token_T = np.full(LENGTH, self.config.generator.pad_id, np.int32)
        token_T[0] = self.config.generator.start_id
        said = said[: LENGTH - 1]
        token_T[1 : 1 + len(said)] = said
        logits = self._logits(params, source_KS, np.tile(token_T, (len(source_KS), 1)))
        return np.asarray(jax.nn.log_softmax(logits), np.float64)

    def greedy(self, params, source_KS, prior_K):
        """(token_T, log-probability, log posterior [K, T or less]) of the RAG-Token mixture, step by step."""
        generator, said, log_prob, posterior = self.config.generator, [], 0.0, []
        while len(said) < LENGTH and (not said or said[-1] != generator.eos_id):
            joint_KV = prior_K[:, None] + self.logp_KTV(params, source_KS, said)[:, len(said)]
            marginal_V = np.logaddexp.reduce(joint_KV, axis=0)
            best = int(marginal_V.argmax())
            if said or best != generator.bos_id:
                log_prob += marginal_V[best]
            posterior.append(joint_KV[:, best] - marginal_V[best])
            said.append(best)
        return self.padded(said), log_prob, np.stack(posterior, axis=1)

    def joint_K(self, params, source_KS, prior_K, token_T):
        """log p(z|x) + log p(y|x,z) of an answer up to its `</s>`, without a leading `<s>`."""
        generator, token_T = self.config.generator, list(token_T)
        logp_KTV, joint_K = self.logp_KTV(params, source_KS, token_T), prior_K.astype(np.float64)
        length = token_T.index(generator.eos_id) + 1 if generator.eos_id in token_T else len(token_T)
        for t in range(int(token_T[0] == generator.bos_id), length):
            joint_K = joint_K + logp_KTV[:, t, token_T[t]]
        return joint_K

    def padded(self, said):
        """The tokens, padded to LENGTH."""
        return np.array(list(said) + [self.config.generator.pad_id] * (LENGTH - len(said)), np.int32)


@pytest.fixture(scope="session")
def tiny():
    """(config, naive): the configuration is fixed, so that compiled programs are shared by the tests."""
    generator = BartConfig(
        vocab_size=20,
        width=16,
        encoder_layers=2,
        decoder_layers=2,
        heads=2,
        ffn=32,
        positions=16,
        init_std=0.5,
    )
    config = RagConfig(
        question_encoder=BertConfig(vocab_size=20, width=16, layers=1, heads=2, ffn=32), generator=generator
    )
    return config, Naive(config)


@pytest.fixture(scope="session")
def make_params(tiny):
    """seed -> parameters, scaled so that answers vary with document and place, and end at several lengths."""
    config, _ = tiny
    ids = jnp.zeros((1, 2), jnp.int32)
    init = jax.jit(Bart(config.generator).init)

    def make(seed, eos_bias=0.5, pad_bias=0.0):
        params = init(jax.random.key(seed), ids, ids == 0, ids)["params"]
        for side in ("encoder", "decoder"):
            layers = params[side]["layers"]
            params[side]["layers"] = jax.tree.map(lambda x: x * 0.5 if x.ndim > 2 else x, layers)
        params["decoder"]["placement"]["position"] *= 6
        generator = config.generator
        bias_V = params["final_logits_bias"].at[generator.eos_id].set(eos_bias)
        params["final_logits_bias"] = bias_V.at[generator.pad_id].set(pad_bias)
        return {"generator": params}

    return make


@pytest.fixture(scope="session")
def beginning_with_bos(tiny):
    """Renames tokens in model and source: the first word under the first document becomes `<s>`."""
    config, naive = tiny

    def rename(params, source_BKS):
        generator = config.generator
        first = int(naive.logp_KTV(params, source_BKS[0], [])[0, 0].argmax())
        name_V = np.arange(generator.vocab_size)
        if first not in (generator.eos_id, generator.pad_id):
            name_V[[generator.bos_id, first]] = first, generator.bos_id
        tables = params["generator"]
        renamed = {
            "shared": {"embedding": tables["shared"]["embedding"][name_V]},
            "final_logits_bias": tables["final_logits_bias"][name_V],
        }
        return {"generator": {**tables, **renamed}}, name_V[source_BKS].astype(np.int32)

    return rename


@pytest.fixture(scope="session")
def taught(tiny):
    """(params, source_BKS, prior_BK, token_BT) -> logp_BKT of given answers, by the model's training path."""
    config, _ = tiny

    @jax.jit
    def logp_BKT(params, source_BKS, prior_BK, token_BT):
        input_BT = jnp.roll(token_BT, 1, axis=1).at[:, 0].set(config.generator.start_id)
        return token_likelihood(config, params, source_BKS, input_BT, token_BT, prior_BK).logp_BKT

    return logp_BKT


@pytest.fixture(scope="session")
def make_inputs(tiny):
    """(seed, B, K) -> source_BKS with padding of different lengths, prior_BK."""
    config, _ = tiny

    def make(seed, B, K, shortest=2):
        rng = np.random.default_rng(seed)
        source_BKS = rng.integers(3, config.generator.vocab_size, (B, K, SOURCE)).astype(np.int32)
        length_BK1 = rng.integers(shortest, SOURCE + 1, (B, K, 1))
        source_BKS = np.where(np.arange(SOURCE) < length_BK1, source_BKS, config.generator.pad_id)
        return source_BKS.astype(np.int32), np.asarray(
            document_log_prior(jnp.asarray(rng.normal(size=(B, K)), jnp.float32))
        )

    return make
