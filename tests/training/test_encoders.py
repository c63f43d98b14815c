"""The bi-encoder's parameters: the trained ones, the given ones, and what is said where there are neither."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rag_jax.errors import UserError
from rag_jax.parallel import Pmap
from rag_jax.training import encoders
from rag_jax.workdir import Workdir


@pytest.fixture
def config():
    parts = {"question_encoder": "", "passage_encoder": "", "generator": ""}
    return ConfigDict({"seed": 1, "init_from": "", "parts": parts, "retriever": {"shared": True}})


@pytest.mark.parametrize("shared", [True, False])
def test_the_trained_retriever_is_read_whole(tiny, params, save_retriever, config, tmp_path, shared):
    encoder, config.retriever.shared = params["question_encoder"], shared
    trees = {"question_encoder": encoder} | ({} if shared else {"passage_encoder": jax.tree.map(np.negative, encoder)})
    save_retriever(tmp_path / "retriever", trees)
    read = encoders.retriever_params(config, Workdir(tmp_path), tiny.config(), Pmap())
    assert jax.tree.structure(read) == jax.tree.structure(trees) and tiny.bits(read) == tiny.bits(trees)
    assert all(leaf.is_fully_replicated and len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(read))
    names = {name: encoders.passage_fingerprint(tiny.bert, {"question_encoder": tree}) for name, tree in trees.items()}
    assert encoders.passage_fingerprint(tiny.bert, read) == names["question_encoder" if shared else "passage_encoder"]
    assert len(set(names.values())) == len(trees)


@pytest.mark.parametrize("made", [False, True])
def test_without_a_retriever_both_ways_to_one_are_named(config, tmp_path, made):
    place = Workdir(tmp_path / "run")
    if made:
        place.retriever.mkdir(parents=True)
    message = r"retriever: holds no trained retriever; run `python -m rag_jax.train_retriever` first, or name its enc"
    with pytest.raises(UserError, match=message):
        encoders.check_retriever(config, place)
    assert place.folder.exists() == made


@pytest.mark.parametrize(
    ("given", "shared", "enough"),
    [
        ({"question_encoder": "q"}, True, True),
        ({"question_encoder": "q"}, False, False),
        ({"passage_encoder": "p"}, False, False),
        ({"question_encoder": "q", "passage_encoder": "p"}, False, True),
        ({"init_from": "r", "passage_encoder": "p"}, False, True),
        ({"init_from": "r", "question_encoder": "q"}, True, False),  # its passages may be another encoder's
        ({"generator": "g"}, True, False),
    ],
)
def test_which_parts_are_enough(config, tmp_path, given, shared, enough):
    config.init_from, config.retriever.shared = given.pop("init_from", ""), shared
    config.parts.update(given)
    if enough:
        encoders.check_retriever(config, Workdir(tmp_path))
    else:
        with pytest.raises(UserError, match=r"no trained ret.*; for build_index alone, --index_encoder is enough"):
            encoders.check_retriever(config, Workdir(tmp_path))


def test_a_retriever_of_another_size_is_told_from_ours(tiny, params, save_retriever, config, tmp_path):
    save_retriever(tmp_path / "retriever", {"question_encoder": params["question_encoder"]})
    config.retriever.shared = False
    with pytest.raises(UserError, match="another configuration") as error:
        encoders.retriever_params(config, Workdir(tmp_path), tiny.config(), Pmap())
    assert "params/passage_encoder/embeddings/token: found nothing, expected (20, 16)" in str(error.value)


def test_training_starts_from_given_encoders(tiny, hub, config):
    """One that is not given is a copy of the question encoder, as in DPR; with nothing given, all is fresh."""
    fresh = encoders.first_params(config, tiny.config(), Pmap())
    assert set(fresh) == {"question_encoder"}
    config.parts.question_encoder, config.retriever.shared = hub.question, False
    params = encoders.first_params(config, tiny.config(), Pmap())
    for name in ("question_encoder", "passage_encoder"):
        np.testing.assert_array_equal(params[name]["embeddings"]["token"], hub.tokens["question"])
    config.parts.passage_encoder = hub.passage
    params = encoders.first_params(config, tiny.config(), Pmap())
    np.testing.assert_array_equal(params["passage_encoder"]["embeddings"]["token"], hub.tokens["passage"])
    assert jax.tree.structure(params["passage_encoder"]) == jax.tree.structure(fresh["question_encoder"])


def test_given_encoders_build_an_index(tiny, hub, config, tmp_path):
    config.parts.question_encoder = hub.question
    read = encoders.retriever_params(config, Workdir(tmp_path), tiny.config(), Pmap())
    np.testing.assert_array_equal(read["question_encoder"]["embeddings"]["token"], hub.tokens["question"])
    assert set(read) == {"question_encoder"}


def test_an_encoder_named_for_an_index_goes_before_the_trained_one(tiny, params, hub, save_retriever, config, tmp_path):
    """With the name that a configuration's own would have."""
    save_retriever(tmp_path / "retriever", {"question_encoder": params["question_encoder"]})
    config.parts.passage_encoder = hub.passage
    read = encoders.named_passage_encoder(config, tiny.config(), Pmap())
    assert set(read) == {"passage_encoder"}
    np.testing.assert_array_equal(read["passage_encoder"]["embeddings"]["token"], hub.tokens["passage"])
    given = encoders.given_fingerprint(config, tiny.config())
    assert encoders.passage_fingerprint(tiny.bert, read) == given
