"""Rag in Python: what an answer holds, that neighbours do not change it, and that an index is swapped with care."""

import gc
import math
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import jax
import numpy as np
import pytest

import rag_jax
from rag_jax import Answer, Document, Rag
from rag_jax.errors import UserError
from rag_jax.index.base import open_index, write_index_manifest
from rag_jax.index.vectors import write_shard
from rag_jax.workdir import Workdir

QUESTIONS = ["who is mayor of Cladow?", "Jarrow: which year?", "what is the river of Hexwold?", "why?", "Gritsea"]


@pytest.fixture(scope="module")
def answers(tiny_rag):
    return tiny_rag.answer(QUESTIONS)


@pytest.fixture
def swapped(tiny_rag, tiny_run):
    yield tiny_rag
    tiny_rag.swap_index(tiny_run.workdir / "index")


def close(left, right):
    """The same answer up to rounding."""
    assert (left.question, left.text) == (right.question, right.text)
    assert left.log_prob == pytest.approx(right.log_prob, abs=1e-4)
    assert {d.id for d in left.documents} == {d.id for d in right.documents}
    other = {document.id: document for document in right.documents}
    for document in left.documents:
        for name in ("score", "prior", "posterior"):
            assert getattr(document, name) == pytest.approx(getattr(other[document.id], name), abs=1e-4)


def test_importing_does_not_touch_jax():
    """Nor does a command before its flags are read; asking for Rag does."""
    code = """
import sys, rag_jax.train
assert "jax" not in sys.modules
assert rag_jax.Rag and "jax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_three_names():
    assert rag_jax.Answer is Answer and rag_jax.Document is Document
    with pytest.raises(AttributeError, match="no attribute 'Retriever'"):
        _ = rag_jax.Retriever


def test_an_answer_has_text_and_a_log_probability(answers):
    assert [answer.question for answer in answers] == QUESTIONS
    for answer in answers:
        assert isinstance(answer, Answer) and answer.text == answer.text.strip()
        assert -math.inf < answer.log_prob <= 0


def test_prior_and_posterior_are_distributions_over_the_documents(answers):
    for answer in answers:
        assert len({document.id for document in answer.documents}) == 3
        for name in ("prior", "posterior"):
            values = [getattr(document, name) for document in answer.documents]
            assert sum(values) == pytest.approx(1, abs=1e-5) and min(values) >= 0


def test_documents_come_by_falling_posterior(answers):
    for answer in answers:
        posteriors = [document.posterior for document in answer.documents]
        assert posteriors == sorted(posteriors, reverse=True)


def test_the_prior_is_the_softmax_of_the_scores(answers):
    for answer in answers:
        weights = [math.exp(document.score) for document in answer.documents]
        for document, weight in zip(answer.documents, weights, strict=True):
            assert document.prior == pytest.approx(weight / sum(weights), rel=1e-5)


def test_documents_are_passages_of_the_corpus(answers, tiny_run):
    corpus = {passage["id"]: passage for passage in tiny_run.records("passages_before.jsonl")}
    for document in (document for answer in answers for document in answer.documents):
        assert (document.title, document.text) == (corpus[document.id]["title"], corpus[document.id]["text"])


def test_a_question_is_answered_the_same_alone_and_among_others(tiny_rag, answers):
    for question, among in zip(QUESTIONS[:2], answers[:2], strict=True):
        close(tiny_rag.answer([question])[0], among)
    close(tiny_rag.answer(QUESTIONS[::-1])[-1], answers[0])


def test_more_questions_than_a_batch_holds(tiny_rag, answers):
    """config.evaluate.batch is 8: the fifth of eleven stands in the first batch, the eleventh in the second."""
    batches = [len(batch) for batch in tiny_rag.answer_batch(QUESTIONS + QUESTIONS + QUESTIONS[:1])]
    assert batches == [8, 3]
    many = tiny_rag.answer(QUESTIONS + QUESTIONS + QUESTIONS[:1])
    for place, answer in enumerate(many):
        close(answer, answers[place % len(QUESTIONS)])


def test_k_documents_are_read(tiny_rag):
    (answer,) = tiny_rag.answer(QUESTIONS[:1], k=1)
    (document,) = answer.documents
    assert document.prior == document.posterior == 1


def test_the_best_documents_are_the_ones_with_the_largest_scores(tiny_rag, answers):
    found = tiny_rag.retrieve(QUESTIONS, k=30)
    assert (np.sort(found.ids_BK) == np.arange(30)).all() and (np.diff(found.score_BK) <= 0).all()
    np.testing.assert_allclose(np.exp(found.prior_BK).sum(axis=1), 1, rtol=1e-5)
    for ids_K, answer in zip(found.ids_BK, answers, strict=True):
        ids = {tiny_rag.retriever.index.passages[row].id for row in ids_K[:3].tolist()}
        assert ids == {document.id for document in answer.documents}


@pytest.fixture(scope="module")
def decoding(tiny_run):
    """decode.* settings -> the same run, decoded so."""

    def load(**settings):
        config = Workdir(tiny_run.workdir).load_config()
        config.kind = settings.pop("kind", "token")
        config.decode.update(settings)
        return Rag.load(tiny_run.workdir, config=config)

    return load


def test_several_answers_by_falling_score(decoding):
    for answer in decoding(beams=4, num_return_sequences=3).answer(QUESTIONS[:2]):
        assert len(answer.others) == 2 and not answer.lower_bound
        for one in (answer, *answer.others):
            assert one.question == answer.question and one.log_prob <= 0
            assert {document.id for document in one.documents} == {document.id for document in answer.documents}


def test_the_tokens_of_an_answer_and_where_they_came_from(tiny_rag):
    (plain,) = tiny_rag.answer(QUESTIONS[:1])
    (answer,) = tiny_rag.answer(QUESTIONS[:1], token_posterior=True)
    assert plain.tokens == () and answer.text == plain.text
    assert "".join(token.text for token in answer.tokens).strip() == answer.text
    shares = np.array([token.posterior for token in answer.tokens])
    assert shares.shape == (len(answer.tokens), 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(shares.mean(axis=0), [d.posterior for d in answer.documents], rtol=1e-4, atol=1e-6)


def test_rag_sequence_has_one_posterior_and_fast_a_lower_bound(decoding):
    slow, quick = (
        decoding(kind="sequence", mode=mode, beams=2, num_return_sequences=2) for mode in ("thorough", "fast")
    )
    with pytest.raises(UserError, match="token_posterior: found kind 'sequence'"):
        slow.answer(QUESTIONS[:1], token_posterior=True)
    (judged,), (found,) = slow.answer(QUESTIONS[:1]), quick.answer(QUESTIONS[:1])
    assert found.lower_bound and not judged.lower_bound
    assert found.log_prob <= judged.log_prob + 1e-5
    for answer in (judged, *judged.others, found):
        assert sum(document.posterior for document in answer.documents) == pytest.approx(1, abs=1e-5)


def test_devices_draw_each_its_own(decoding):
    """The same question in every place of a batch, of which each of 8 devices reads one."""
    drawn = decoding(mode="sample", temperature=3.0).answer(QUESTIONS[:1] * 8)
    assert len({answer.log_prob for answer in drawn}) == 8


def test_words_never_said(decoding, answers):
    word = next(word for answer in answers for word in answer.text.split())
    for answer in decoding(beams=2, bad_words=(word,)).answer(QUESTIONS):
        assert word not in answer.text.split()


def test_a_stream_of_questions_compiles_a_handful_of_programs(decoding, compiled):
    """Differently many, differently long, in several batches: programs of the encoder and of the reader."""
    rag, before = decoding(beams=2), len(compiled)
    for count in (1, 2, 3, 5):
        rag.answer(["where is Jarrow" + " now" * (n % 4) for n in range(count)])
    seen = len(compiled)
    assert 0 < seen - before < 12, compiled
    for count in (3, 7, 4, 11, 6):
        rag.answer(["who is mayor" + " now" * (n % 3) for n in range(count)])
    assert len(compiled) == seen, compiled[seen:]


def test_sources_lose_the_padding_that_all_share(tiny_rag, decoding):
    pad, source_BKS = tiny_rag.model.generator.pad_id, np.full((2, 3, 40), 5)
    source_BKS[..., 33:] = pad
    assert tiny_rag._shorter(source_BKS).shape == (2, 3, 40)
    source_BKS[..., 20:] = pad
    np.testing.assert_array_equal(tiny_rag._shorter(source_BKS), source_BKS[..., :32])
    assert decoding(kind="sequence", compat="huggingface")._shorter(source_BKS).shape == (2, 3, 40)


def test_long_questions_are_counted(tiny_rag):
    with pytest.warns(UserWarning, match="1 of 2 questions exceed 16 tokens and were cut"):
        tiny_rag.answer([QUESTIONS[0], "who is mayor of " * 12 + "Cladow?"])


def test_documents_that_do_not_fit_the_prior(tiny_rag):
    found = tiny_rag.retrieve(QUESTIONS[:2])
    documents = tiny_rag.retriever.documents(found.ids_BK)
    with pytest.raises(UserError, match="documents: found 1 lists for 2 questions"):
        tiny_rag.read(QUESTIONS[:2], documents[:1], found.prior_BK)
    with pytest.raises(UserError, match="documents of question 2: found 2, expected 3"):
        tiny_rag.read(QUESTIONS[:2], [documents[0], documents[1][:2]], found.prior_BK)


def test_no_questions_no_answers(tiny_rag):
    assert tiny_rag.answer([]) == []


@pytest.mark.parametrize(
    ("questions", "k", "message"),
    [
        (["why?", " \t"], None, "question 2: empty"),
        ("why?", None, r"found the string 'why\?', expected a list"),
        (["why?"], 31, "found 31, expected at most 30"),
        (["why?"], 0, "found 0, expected"),
    ],
)
def test_what_cannot_be_answered(tiny_rag, questions, k, message):
    with pytest.raises(UserError, match=message):
        tiny_rag.answer(questions, k=k)


def test_a_swapped_index_brings_its_passages(swapped, tiny_run, answers):
    """Same encoder, other texts: another edition of the mayors, the same scores for what did not change."""
    swapped.swap_index(tiny_run.index_after)
    after = {passage["id"]: passage["text"] for passage in tiny_run.records("passages_after.jsonl")}
    before = {passage["id"]: passage["text"] for passage in tiny_run.records("passages_before.jsonl")}
    for old, new in zip(answers, swapped.answer(QUESTIONS), strict=True):
        scores = {document.id: document.score for document in old.documents}
        for document in new.documents:
            assert document.text == after[document.id]
            if document.id in scores and after[document.id] == before[document.id]:
                assert document.score == pytest.approx(scores[document.id], abs=1e-4)
    swapped.swap_index(tiny_run.workdir / "index")
    for old, again in zip(answers, swapped.answer(QUESTIONS), strict=True):
        close(again, old)


def test_a_swap_compiles_nothing_and_lets_the_old_index_go(swapped, smaller_index, compiled):
    """Another number of passages: the same programs, other answers, and no trace of the old vectors on a device."""
    old = swapped.answer(QUESTIONS)
    index, seen = swapped.retriever.index, len(compiled)
    left = [weakref.ref(thing) for thing in (index, index.searcher, index.vectors, index.passages)]
    left += [weakref.ref(shard[0]) for shard in index.searcher._shards]
    held = sum(array.nbytes for array in jax.live_arrays())
    del index
    swapped.swap_index(smaller_index)
    new = swapped.answer(QUESTIONS)
    gc.collect()
    assert compiled[seen:] == []
    assert [ref() for ref in left] == [None] * len(left)
    assert sum(array.nbytes for array in jax.live_arrays()) == held
    assert {document.id for answer in new for document in answer.documents} <= {f"new {n}" for n in range(20)}
    assert all(after.log_prob != before.log_prob for before, after in zip(old, new, strict=True))


def test_an_index_of_another_encoder_is_refused_and_the_old_one_stays(swapped, tiny_run):
    with pytest.raises(UserError, match="made by passage encoder another, not by"):
        swapped.swap_index(tiny_run.foreign_index)
    assert swapped.retriever.index.folder == tiny_run.workdir / "index"


def test_identity_is_that_of_weights_passages_and_settings(swapped, decoding, tiny_run, tmp_path):
    first = swapped.identity()
    assert Rag.load(tiny_run.workdir).identity() == first != decoding(beams=2).identity()
    weights = jax.tree.map(lambda x: x, swapped.params)
    weights["generator"]["final_logits_bias"] += 1
    assert Rag(swapped.model, weights, swapped.retriever, swapped.config, swapped.parallel).identity() != first
    index = swapped.retriever.index
    # The same passages, rounded or searched otherwise.
    for change in ({"kind": "scann"}, {"dtype": "bfloat16"}, {"search": {"scann": {"leaves_to_search": 7}}}):
        other = replace(index, manifest=replace(index.manifest, **change))
        retriever = swapped.retriever._replace(index=other)
        assert Rag(swapped.model, swapped.params, retriever, swapped.config, swapped.parallel).identity() != first
    # The same passages, cut elsewhere: one encoder made other vectors of them.
    shutil.copytree(index.folder, cut := tmp_path / "index")
    write_shard(cut, 0, -index.vectors.read(0, len(index.vectors)))
    write_index_manifest(cut, index.manifest)
    for folder, alike in ((index.folder, True), (cut, False)):
        swapped.swap_index(folder)
        assert (swapped.identity() == first) == alike
    swapped.swap_index(tiny_run.index_after)
    assert swapped.identity() != first


def test_a_checkpoint_is_the_best_or_the_last(tiny_run):
    with pytest.raises(UserError, match="checkpoint: found 'bset', expected 'best' or 'last'"):
        Rag.load(tiny_run.workdir, checkpoint="bset")


def test_loading_with_another_index(tiny_run):
    assert Rag.load(tiny_run.workdir, index=tiny_run.index_after).retriever.index.folder == tiny_run.index_after
    with pytest.raises(UserError, match="made by passage encoder another"):
        Rag.load(tiny_run.workdir, index=tiny_run.foreign_index)


def test_loading_what_is_not_there(tmp_path, tiny_run):
    with pytest.raises(UserError, match="holds no trained model"):
        Rag.load(tmp_path / "nothing")
    (tmp_path / "config.json").write_bytes((tiny_run.workdir / "config.json").read_bytes())
    with pytest.raises(UserError, match="checkpoints: holds no checkpoint"):
        Rag.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_index_remembers_the_encoder_of_the_checkpoint(tiny_run):
    first, after = (open_index(folder).manifest for folder in (tiny_run.workdir / "index", tiny_run.index_after))
    assert first.encoder_fingerprint == after.encoder_fingerprint
    assert first.passages_checksum != after.passages_checksum
