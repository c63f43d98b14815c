"""The passages of an index: tokenised once, though a build be killed after them; and never those of another corpus."""

import json
import os

import pytest

from rag_jax.config import default_config
from rag_jax.data.tokenizer import train_byte_bpe
from rag_jax.errors import UserError
from rag_jax.index.base import Contents
from rag_jax.training import indexing
from rag_jax.training.indexing import passage_store


def write(path, names):
    path.write_text("".join(json.dumps({"id": name, "text": f"text of {name}"}) + "\n" for name in names))
    return str(path)


@pytest.fixture
def data(tmp_path):
    data = default_config().data
    data.passages = write(tmp_path / "p.jsonl", "abc")
    return data


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_byte_bpe(["text of a passage"], 300, tmp_path_factory.mktemp("tokenizer") / "generator")


@pytest.fixture
def builds(monkeypatch):
    """How often a store has been built."""
    count, build = [], indexing.build_store

    def counted(*given, **settings):
        count.append(1)
        return build(*given, **settings)

    monkeypatch.setattr(indexing, "build_store", counted)
    return count


def test_a_store_that_is_there_is_taken_unless_anything_changed(data, tokenizer, tmp_path, builds):
    folder = tmp_path / "store"
    first = passage_store(data, folder, tokenizer)
    assert list(passage_store(data, folder, tokenizer)) == list(first) and len(builds) == 1
    data.skip_bad = True
    passage_store(data, folder, tokenizer)
    assert len(builds) == 2
    os.utime(data.passages, ns=(0, 0))
    passage_store(data, folder, tokenizer)
    assert len(builds) == 3
    other = train_byte_bpe(["words of another corpus"], 310, tmp_path / "other")
    assert len(passage_store(data, folder, other)) == 3 and len(builds) == 4
    (folder / indexing.MADE_FROM).unlink()  # killed before the store was whole
    passage_store(data, folder, other)
    assert len(builds) == 5


def test_further_passages_stand_behind_the_old_ones(data, tokenizer, tmp_path, builds):
    base = Contents(None, None, passage_store(data, tmp_path / "old", tokenizer))
    more = write(tmp_path / "more.jsonl", "de")
    grown = passage_store(data, tmp_path / "new", tokenizer, source=more, base=base)
    assert [passage.id for passage in grown] == list("abcde")
    passage_store(data, tmp_path / "new", tokenizer, source=more, base=base)
    assert len(builds) == 2
    with pytest.raises(UserError, match=r"more\.jsonl:2: id in the index already, 'b'; ids must differ"):
        passage_store(data, tmp_path / "new", tokenizer, source=write(tmp_path / "more.jsonl", "xb"), base=base)
    assert not (tmp_path / "new").exists()
