import jax
import numpy as np
import pytest
import torch
import transformers
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.decode import generate as module
from rag_jax.decode.generate import DecodeConfig, answer_posterior, generate, texts
from rag_jax.errors import UserError
from rag_jax.hub import rules
from rag_jax.hub.convert import to_huggingface

LENGTH = 8
HUGGING_FACE = {
    "num_beams": 1,
    "do_sample": False,
    "max_length": LENGTH + 1,  # theirs counts the start token
    "min_length": 0,
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}


@pytest.fixture(scope="module")
def oracle(tiny):
    """(class, K, params) -> the transformers model with our generator's weights."""
    sizes = tiny[0].generator
    question_encoder = transformers.DPRConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    generator = transformers.BartConfig(
        vocab_size=sizes.vocab_size,
        d_model=sizes.width,
        encoder_layers=sizes.encoder_layers,
        decoder_layers=sizes.decoder_layers,
        encoder_attention_heads=sizes.heads,
        decoder_attention_heads=sizes.heads,
        encoder_ffn_dim=sizes.ffn,
        decoder_ffn_dim=sizes.ffn,
        max_position_embeddings=sizes.positions,
        forced_eos_token_id=None,
    )
    models = {}

    def load(kind, K, params):
        if (kind, K) not in models:
            config = transformers.RagConfig.from_question_encoder_generator_configs(
                question_encoder, generator, n_docs=K
            )
            models[kind, K] = getattr(transformers, kind)(config=config).eval()
        model = models[kind, K]
        arrays = to_huggingface(params["generator"], rules.bart())
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        missing, surplus = model.rag.generator.load_state_dict(tensors, strict=False)
        assert not surplus
        assert {name.rsplit(".", 2)[-2] for name in missing} <= {"embed_tokens", "lm_head"}
        return model

    return load


def contexts(source_BKS, prior_BK):
    """What transformers' generate and forward want instead of a retriever."""
    source_RS = torch.tensor(source_BKS.reshape(-1, source_BKS.shape[-1])).long()
    return {
        "context_input_ids": source_RS,
        "context_attention_mask": (source_RS != 1).long(),
        "doc_scores": torch.tensor(prior_BK),
    }


def without_start(output):
    """Their token_BT in our layout: no start token, padded to LENGTH."""
    output = output.numpy()
    assert (output[:, 0] == 2).all()
    return np.pad(output[:, 1:], ((0, 0), (0, LENGTH + 1 - output.shape[1])), constant_values=1)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_rag_token_parity(tiny, oracle, make_params, make_inputs, K):
    config, _ = tiny
    for seed in range(5):
        params, (source_BKS, prior_BK) = make_params(seed, pad_bias=-30.0), make_inputs(seed, 2, K)
        model, inputs = oracle("RagTokenForGeneration", K, params), contexts(source_BKS, prior_BK)
        with torch.no_grad():
            output = model.generate(**inputs, n_docs=K, **HUGGING_FACE)
            loss_B = model(**inputs, n_docs=K, labels=output).loss.numpy()
        generated = generate(config, DecodeConfig("token", LENGTH), params, source_BKS, prior_BK)
        assert_array_equal(generated.token_BT, without_start(output))
        # Theirs pays for a leading <s>.
        plain_B = np.asarray(generated.token_BT[:, 0]) != 0
        assert_allclose(-np.asarray(generated.log_prob_B)[plain_B], loss_B[plain_B], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("K", [1, 3])
def test_rag_sequence_parity(tiny, oracle, make_params, make_inputs, beginning_with_bos, K):
    config, naive = tiny
    compared = 0
    for seed in range(40):
        # No padding: 5.23 infers no mask for it when it proposes, and masks it when it judges.
        source_BKS, prior_BK = make_inputs(seed, 1, K, shortest=6)
        params, source_BKS = beginning_with_bos(make_params(seed, -0.5, pad_bias=-30.0), source_BKS)
        first_K = naive.logp_KTV(params, source_BKS[0], [])[:, 0].argmax(axis=1)
        if 0 in first_K and (first_K != 0).any():
            continue  # theirs then makes the candidates that begin with <s> pay for it
        compared += 1
        if compared > 4:
            break
        model, inputs = oracle("RagSequenceForGeneration", K, params), contexts(source_BKS, prior_BK)
        with torch.no_grad():
            output = model.generate(**inputs, n_docs=K, **HUGGING_FACE)
            loss_B = model(**inputs, labels=output, exclude_bos_score=True).loss.numpy()
        generated = generate(config, DecodeConfig("sequence", LENGTH), params, source_BKS, prior_BK)
        assert_array_equal(generated.token_BT, without_start(output))
        assert_allclose(-np.asarray(generated.log_prob_B), loss_B, rtol=1e-4, atol=1e-4)
    assert compared > 4


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_a_shape_is_compiled_once(tiny, make_params, make_inputs, kind):
    config, _ = tiny
    inputs = make_inputs(0, 2, 3)
    generate(config, DecodeConfig(kind, LENGTH), make_params(0), *inputs)
    programs = module._compiled._cache_size()
    generate(config, DecodeConfig(kind, LENGTH), make_params(1), *inputs)
    assert module._compiled._cache_size() == programs


def test_answer_posterior_by_hand(tiny):
    config, _ = tiny
    sequence = module.rag_sequence.Generated(None, None, np.log([[0.25, 0.75]]))
    assert_allclose(answer_posterior(config, sequence), [[0.25, 0.75]], rtol=1e-6)
    posterior_BKT = np.log([[[0.9, 0.2, 0.4, 0.5], [0.1, 0.8, 0.6, 0.5]]] * 2).astype(np.float32)
    token = module.rag_token.Generated(np.array([[0, 5, 6, 2], [2, 1, 1, 1]]), None, posterior_BKT)
    assert_allclose(answer_posterior(config, token), [[0.3, 0.7], [0.5, 0.5]], rtol=1e-5)


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_posteriors_sum_to_one(tiny, make_params, make_inputs, kind):
    config, _ = tiny
    generated = generate(config, DecodeConfig(kind, LENGTH), make_params(0), *make_inputs(0, 2, 3))
    assert_allclose(np.sum(answer_posterior(config, generated), axis=1), [1.0, 1.0], rtol=1e-5)


def test_refuses_what_it_cannot_do(tiny, make_params, make_inputs):
    arrays = make_params(0), *make_inputs(0, 1, 2)
    with pytest.raises(UserError, match=r"decode.kind: found 'tokens', expected 'token' or 'sequence'"):
        generate(tiny[0], DecodeConfig("tokens", LENGTH), *arrays)
    with pytest.raises(UserError, match=r"decode.max_length: found 17, expected 1 to 16"):
        generate(tiny[0], DecodeConfig("token", 17), *arrays)


class WordTokenizer:
    """Ids to words, without the specials."""

    def decode(self, ids):
        return "".join(f" w{i}" for i in ids if i > 2)


def test_texts():
    token_BT = jax.numpy.array([[0, 5, 6, 2, 1], [2, 1, 1, 1, 1]])
    assert texts(token_BT, WordTokenizer()) == ["w5 w6", ""]
