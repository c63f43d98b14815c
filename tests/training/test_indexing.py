"""The passages of an index: tokenised once, though a build be killed after them; and never those of another corpus."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from rag_jax.config import default_config
from rag_jax.data.passages import PassageStore
from rag_jax.data.tokenizer import train_byte_bpe
from rag_jax.errors import PassingError, UserError
from rag_jax.files import write_json, write_manifest
from rag_jax.index import builder
from rag_jax.index.base import FOLDER_KIND, Contents, open_index
from rag_jax.team import Team
from rag_jax.training import indexing
from rag_jax.training.indexing import added_already, passage_store, with_added
from rag_jax.workdir import Workdir


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


def test_passages_that_were_added_last_are_known_again(data, grown, tokenizer, tmp_path):
    """Not those of other texts, nor all but one, nor those of the first build; with skip_bad others may stand there."""
    folder, _ = grown
    base, last = Contents(None, None, PassageStore.open(folder / "passages")), LETTERS[310:]
    assert added_already(base, data, str(tmp_path / "more2.jsonl"))
    store = passage_store(data, tmp_path / "again", tokenizer, source=str(tmp_path / "more2.jsonl"), base=base)
    assert store.checksum == base.passages.checksum and list(store) == list(base.passages)
    for names in (last[:-1], ["x", *last], [*last, "x"], ["x"]):
        assert not added_already(base, data, write(tmp_path / "other.jsonl", names))
    other = write(tmp_path / "other.jsonl", last)
    (tmp_path / "other.jsonl").write_text((tmp_path / "other.jsonl").read_text().replace(f"of {last[-1]}", "of old"))
    assert not added_already(base, data, other)
    mixed = write(tmp_path / "other.jsonl", [*last[:3], LETTERS[5], *last[3:]])
    with pytest.raises(UserError, match=r"other\.jsonl:4: id in the index already, 'p5'"):
        added_already(base, data, mixed)
    data.skip_bad = True
    assert added_already(base, data, mixed)
    tell(folder, {"count": 600})
    assert not added_already(base, data, str(tmp_path / "more2.jsonl")), "nothing was added to it"


LETTERS = [f"p{number}" for number in range(600)]


@pytest.fixture
def grown(data, tokenizer, tmp_path):
    """An index, as far as its passages go, to which some were added twice; and its first ones."""
    data.passages = write(tmp_path / "p.jsonl", LETTERS[:300])
    first = store = passage_store(data, tmp_path / "0", tokenizer)
    for turn, (start, stop) in enumerate([(300, 310), (310, 600)], start=1):
        more = write(tmp_path / f"more{turn}.jsonl", LETTERS[start:stop])
        base = Contents(None, None, store)
        store = passage_store(data, tmp_path / str(turn), tokenizer, source=more, base=base)
    tell(tmp_path / "2", {"grown_from": base.passages.checksum, "count": 600})
    return tmp_path / "2", first


def tell(folder, recipe):
    """Of which recipe an index was made."""
    write_json(folder / builder.RECIPE, recipe)
    write_manifest(folder, {"kind": FOLDER_KIND})


def test_added_passages_stay_in_an_index_that_is_built_again(grown, tokenizer, capsys):
    folder, first = grown
    assert [passage.id for passage in with_added(folder, first, tokenizer)] == LETTERS
    with pytest.raises(UserError, match=r"--embeddings: .* holds passages that were added; leave it out to keep all"):
        with_added(folder, first, tokenizer, "vectors.npy")
    assert capsys.readouterr().out.endswith(f"{folder}: keeps its 600 passages, 300 of them added\n")
    (folder / "vectors-00000.npy").write_bytes(b"vectors")
    tell(folder, {"grown_from": "a", "count": 600})
    (folder / "vectors-00000.npy").write_bytes(b"cut")  # is made again
    assert len(with_added(folder, first, tokenizer)) == 600
    tell(folder, {"count": 600})
    assert with_added(folder, first, tokenizer) is first, "nothing was added to it"
    (folder / builder.RECIPE).write_text((folder / builder.RECIPE).read_text().replace("count", "cound"))
    with pytest.raises(
        UserError, match=r"recipe\.json: differs from its checksum .* nobody knows whether passages were"
    ):
        with_added(folder, first, tokenizer)
    assert with_added(folder / "nowhere", first, tokenizer) is first


def test_added_passages_are_not_lost_to_another_corpus(grown, data, tokenizer, tmp_path):
    folder, first = grown
    found = f"^{folder}: holds 600 passages, some of them added; config.data.passages has "
    for number, names in enumerate((["x", *LETTERS[1:300]], [*LETTERS[:299], "x"], [*LETTERS, "x"])):
        data.passages = write(tmp_path / "q.jsonl", names)
        other = passage_store(data, tmp_path / f"other{number}", tokenizer)
        with pytest.raises(UserError, match=f"{found}{len(names)}, which are not its first ones; .*--index=FOLDER"):
            with_added(folder, other, tokenizer)
    another = train_byte_bpe(["words of another corpus"], 310, tmp_path / "another")
    with pytest.raises(UserError, match=f"{found}300, and its own cannot be kept .*; the generator's tokenizer is"):
        with_added(folder, first, another)


@pytest.fixture
def words(tmp_path):
    """A configuration of an index by words, of three passages, and its workdir."""
    pytest.importorskip("bm25s")
    config = default_config()
    config.index.kind, config.data.passages = "bm25", write(tmp_path / "p.jsonl", "abc")
    config.tokenizer.update(encoder_vocab=320, generator_vocab=340)
    return config, Workdir(tmp_path / "run")


class Reached(Exception):
    """A process has come to where the tokenizers are waited for."""


class Second(Team):
    """The second process of two; the first gives the index its name while this one waits for that."""

    def wait(self, name, value=""):
        if name == "the tokenizers":
            raise Reached
        builder.name_finished(self.client)


def test_a_process_looks_for_the_index_when_the_first_has_given_it_its_name(words, tmp_path):
    config, place = words
    indexing.build(config, place, place.index)
    place.index.rename(place.folder / "index.partial")
    with pytest.raises(Reached):
        indexing.build(config, place, place.index, add=config.data.passages, team=Second(1, 2, place.index))


def test_a_command_that_adds_may_be_given_again_wherever_it_was_killed(words, tmp_path, monkeypatch):
    """Also when the larger index was in place and only its publication was left; and nothing is left beside it."""
    (config, place), more = words, write(tmp_path / "more.jsonl", "de")
    indexing.build(config, place, place.index)

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(indexing, "publish", killed)
        indexing.build(config, place, place.index, add=more)
    for _ in range(2):
        indexing.build(config, place, place.index, add=more)
        assert [passage.id for passage in open_index(place.index, verify=True).passages] == list("abcde")
        assert sorted(path.name for path in place.folder.iterdir()) == ["index", "tokenizers"]
    with pytest.raises(UserError, match=r"p\.jsonl:1: id in the index already, 'a'"):
        indexing.build(config, place, place.index, add=str(tmp_path / "p.jsonl"))


def test_a_build_ends_well_on_nfs(words, monkeypatch):
    """There a file that is mapped into memory keeps a name, and its folder cannot be removed."""
    (config, place), remove, mapped = words, shutil.rmtree, []

    def rmtree(folder, ignore_errors=False, **settings):
        if f"{folder}/" in Path("/proc/self/maps").read_text():
            mapped.append(folder)
            if not ignore_errors:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
        remove(folder, ignore_errors=ignore_errors, **settings)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    indexing.build(config, place, place.index)
    assert mapped == [] and sorted(path.name for path in place.folder.iterdir()) == ["index", "tokenizers"]


@pytest.mark.parametrize("error", [UserError, PassingError])
def test_what_may_pass_leaves_the_passages_to_the_same_command(words, monkeypatch, builds, error):
    config, place = words

    def failing(*_, **__):
        raise error("process 1 of 2 failed: killed")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="process 1 of 2 failed"):
        patch.setattr(indexing, "build_index", failing)
        indexing.build(config, place, place.index)
    indexing.build(config, place, place.index)
    assert len(builds) == (1 if error is PassingError else 2)
