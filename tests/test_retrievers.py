"""Runs whose passages are found by words, or by words and vectors, as a user types them."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.checkpoint import Checkpoints
from rag_jax.errors import UserError
from rag_jax.index.base import Queries, open_index
from rag_jax.models import rag as models

from .runs import begun, numbers
from .test_commands import DIES, same

pytest.importorskip("bm25s")
pytestmark = pytest.mark.long
QUESTIONS = ["who is mayor of Cladow?", "Jarrow: which year?", "zebra"]
BM25 = (
    "--config=tiny.py",
    "--config.index.kind=bm25",
    "--config.denoise.train_question_encoder=False",
    "--config.joint.train_question_encoder=False",
)
SHORT = "--config.denoise.steps=0", "--config.reader.steps=0", "--config.joint.steps=2"


@pytest.fixture(scope="module")
def by_words(tiny_run, tmp_path_factory):
    """The folder of a run with BM25, which began without any retriever."""
    workdir = tmp_path_factory.mktemp("words") / "run"
    for name in ("build_index", "train"):
        tiny_run.command(name, *BM25, *SHORT, f"--workdir={workdir}")
    return workdir


@pytest.fixture(scope="module")
def words_rag(by_words):
    return Rag.load(by_words)


def test_a_run_by_words_needs_no_retriever_and_trains_none(tiny_run, by_words, words_rag):
    records = tiny_run.records(by_words / "metrics.jsonl")
    assert [record["stage"] for record in records] == ["joint"] * 2
    assert all(record["loss"] > 0 and record["mutual_information"] > 0 for record in records)
    assert not (by_words / "retriever").exists() and not list((by_words / "index").glob("vectors*"))
    fresh = models.init_params(words_rag.model, jax.random.key(words_rag.config.seed))
    difference = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), words_rag.params, fresh)
    assert max(jax.tree.leaves(difference["question_encoder"])) < 1e-6  # another program may round otherwise
    assert max(jax.tree.leaves(difference["generator"])) > 1e-4


def test_scores_of_words_are_the_logits_of_the_prior(by_words, words_rag):
    index = open_index(by_words / "index")
    ids_BK, score_BK = index.search(Queries(QUESTIONS, None), 3)
    weight_BK = np.exp(score_BK - score_BK.max(axis=1, keepdims=True))
    prior_BK = weight_BK / weight_BK.sum(axis=1, keepdims=True)
    for answer, *expected in zip(words_rag.answer(QUESTIONS), ids_BK, score_BK, prior_BK, strict=True):
        found = {document.id: (document.score, document.prior) for document in answer.documents}
        for row, score, prior in zip(*expected, strict=True):
            assert found[index.passages[int(row)].id] == (score, pytest.approx(prior, rel=1e-5))
    assert words_rag.answer(["a " * 18])  # longer than an encoder's question; nothing was cut, hence no warning
    with pytest.warns(UserWarning, match="1 of 1 questions exceed 40 tokens"):  # of a source
        words_rag.answer(["a " * 50])


def test_the_export_of_a_run_by_words_has_no_index(by_words, words_rag, tmp_path):
    with pytest.raises(UserError, match=r"--with_index: found .*index, an index of kind 'bm25'.*no BM25; leave"):
        words_rag.save_pretrained(tmp_path / "out", with_index=True)
    assert not list(tmp_path.iterdir())
    words_rag.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "BM25 finds\n3 passages" in card and "DPR" not in card and "question encoder is not\n  trained" in card
    again = Rag.load(tmp_path / "out", index=by_words / "index")
    for one, other in zip(again.retrieve(QUESTIONS), words_rag.retrieve(QUESTIONS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_killed_run_by_words_goes_on_to_the_same_end(tiny_run, by_words, tmp_path):
    """Killed between two checkpoints and in the next stage before its first; then evaluated, and asked."""
    places = {}
    for name in ("whole", "killed"):
        places[name] = begun(tiny_run, tmp_path / name, "tokenizers")
        (places[name] / "index").symlink_to(by_words / "index")
    whole, killed = places.values()
    tiny_run.command("train", *BM25, f"--workdir={whole}")
    for step, latest in ((5, 4), (7, 6)):
        tiny_run.command("train", *BM25, f"--workdir={killed}", prelude=DIES.format(step=step), code=9)
        assert Checkpoints(killed / "checkpoints").latest() in (latest - 2, latest)  # written in the background
    tiny_run.command("train", *BM25, f"--workdir={killed}")
    assert numbers(killed / "metrics.jsonl") == numbers(whole / "metrics.jsonl")
    same(*(Rag.load(place, checkpoint="last").params for place in (whole, killed)))

    tiny_run.command("evaluate", f"--workdir={killed}")
    found = json.loads((killed / "metrics.json").read_text())["test"]
    assert found["recall@1"]["percent"] > 50  # the questions name town and relation
    answer = json.loads(tiny_run.command("answer", f"--workdir={killed}", "--json", QUESTIONS[0]).stdout)
    assert sum(document["prior"] for document in answer["documents"]) == pytest.approx(1, abs=1e-5)
    frozen = "--config.denoise.train_question_encoder=False", "--config.joint.train_question_encoder=False"
    said = tiny_run.command("train", "--config=tiny.py", *frozen, f"--workdir={killed}", code=2).stderr
    assert "config.index.kind: found 'exact'" in said and "was made for 'bm25'" in said


def test_a_run_by_words_and_vectors(tiny_run, tmp_path):
    """The vectors are the dense index's, the question encoder is trained, and questions get other passages."""
    pytest.importorskip("scann")
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "tokenizers", "index")
    common = "--config=tiny.py", "--config.index.kind=hybrid", f"--workdir={workdir}"
    assert "vectors taken over" in tiny_run.command("build_index", *common).stdout
    tiny_run.command("train", *common)
    tiny_run.command("evaluate", f"--workdir={workdir}")
    found = json.loads((workdir / "metrics.json").read_text())["test"]
    assert found["recall@3"]["percent"] > 50
    answer = json.loads(tiny_run.command("answer", f"--workdir={workdir}", "--json", QUESTIONS[0]).stdout)
    weights = {document["id"]: np.exp(document["score"]) for document in answer["documents"]}
    for document in answer["documents"]:
        assert document["prior"] == pytest.approx(weights[document["id"]] / sum(weights.values()), rel=1e-5)
    rag = Rag.load(workdir, checkpoint="last")
    found = rag.retrieve(QUESTIONS, k=8)
    if importlib.util.find_spec("datasets") and importlib.util.find_spec("faiss"):
        rag.save_pretrained(tmp_path / "out", with_index=True)
        card = (tmp_path / "out" / "README.md").read_text()
        assert "encoder and BM25 find\n" in card and "transformers searches the vectors alone" in card
        again = Rag.load(tmp_path / "out").retrieve(QUESTIONS, k=8)
        np.testing.assert_array_equal(again.ids_BK, found.ids_BK)
    rag.retriever = rag.retriever._replace(index=open_index(workdir / "index", kind="scann"))
    dense = rag.retrieve(QUESTIONS, k=8)
    assert (found.ids_BK[:2] != dense.ids_BK[:2]).any(axis=1).all()
    np.testing.assert_array_equal(found.ids_BK[2], dense.ids_BK[2])  # no passage has the word
    np.testing.assert_allclose(found.prior_BK[2], dense.prior_BK[2], rtol=1e-4, atol=1e-6)
    retriever, after = Checkpoints(workdir / "retriever"), rag.params["question_encoder"]
    whole = {"question_encoder": rag.parallel.abstract_state(jax.eval_shape(lambda tree: tree, after))}
    before = retriever.restore(retriever.latest(), params=whole)["params"]["question_encoder"]
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), before, after)
    assert any(jax.tree.leaves(moved))
