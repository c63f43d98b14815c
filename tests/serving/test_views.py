"""One model seen in several ways: what they share, and what cannot be asked of a model."""

import pytest

from rag_jax import Rag
from rag_jax.config import default_config
from rag_jax.errors import UserError
from rag_jax.serving.views import Views


def test_ways_share_weights_and_indexes_share_programs(views, tiny_rag):
    own, way = views.own, views.settings(kind="sequence")
    assert (way.kind, way.mode, way.beams) == ("sequence", "thorough", 1)
    assert views._way(way).params is tiny_rag.params
    assert views._way(views.settings(index="after")) is views._way(own) is tiny_rag
    assert views._way(views.settings(kind="sequence", index="after")) is views._way(way)


def test_an_index_of_another_encoder_is_refused(tiny_run, tiny_rag):
    with pytest.raises(UserError, match="made by passage encoder another"):
        Views(tiny_rag, {"own": tiny_run.workdir / "index", "other": tiny_run.foreign_index})
    assert tiny_rag.retriever.index.folder == tiny_run.workdir / "index"


def test_a_model_may_always_read_as_many_passages_as_its_own_configuration_says(views, monkeypatch):
    monkeypatch.setattr("rag_jax.serving.views.MOST_K", 1)
    assert views.most_k("before") == views.own.k > 1 and views.settings().k == views.own.k


def test_a_closed_book_has_no_passages_to_choose(tiny_rag):
    book = Rag(
        tiny_rag.model, tiny_rag.params, tiny_rag.retriever._replace(index=None), tiny_rag.config, tiny_rag.parallel
    )
    views = Views(book, {})
    assert (views.indexes, views.own.index, views.own.k) == ([], "", 0)
    assert not views.tells_tokens(views.own)
    with pytest.raises(
        UserError, match=r"index: found .a., expected none.*\nk: found 5, expected none: this is a closed"
    ):
        views.settings(index="a", k=5)


def test_labels_are_not_decoded(tiny_rag):
    config = default_config()
    config.update(tiny_rag.config)
    config.data.update(task="fever3", classify="token")
    teller = Rag(tiny_rag.model, tiny_rag.params, tiny_rag.retriever, config, tiny_rag.parallel)
    views = Views(teller, {"own": tiny_rag.retriever.index.folder})
    assert views.labelled and not views.tells_tokens(views.own)
    with pytest.raises(UserError, match="beams: found 4, expected none: this model tells labels"):
        views.settings(beams=4)
