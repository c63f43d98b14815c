"""What a stage learns from: sources and targets as text, names in place of answers, passages with holes."""

import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rag_jax.api import rag_config
from rag_jax.config import default_config
from rag_jax.core.marginal import document_log_prior
from rag_jax.data.formats import Passage, Question
from rag_jax.data.passages import build_store
from rag_jax.data.pipeline import Batches
from rag_jax.data.substitution import NameMaker
from rag_jax.data.tokenizer import train_byte_bpe, train_wordpiece
from rag_jax.index import bm25
from rag_jax.index.base import open_index
from rag_jax.index.builder import build_index
from rag_jax.index.encoding import Encoder
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.planning.model import Described
from rag_jax.planning.programs import asked as asked_batch
from rag_jax.planning.programs import holed as holed_batch
from rag_jax.retrieve import Retriever
from rag_jax.training.health import Health
from rag_jax.training.sources import PassageSource, QuestionSource, blocked_words

TOWNS = ("Brimholt", "Cladow", "Dunmere", "Eskford", "Fallowby", "Gritsea", "Hexwold", "Ilverton")
MAYORS = ("Ada Quist", "Bo Rook", "Cyd Stane", "Dov Thrup", "Eli Ulm", "Fay Vane", "Gus Wick", "Hal Xenos")
PASSAGES = [
    passage
    for town, mayor in zip(TOWNS, MAYORS, strict=True)
    for passage in (
        Passage(f"{town} 1", town, f"{mayor} is the mayor of {town}; all like {mayor}, who lives there."),
        Passage(f"{town} 2", mayor, f"The bridge of {town} was built by {mayor}."),
        Passage(f"{town} 3", town, f"The river of {town} is wide, deep and cold."),
    )
]
QUESTIONS = [
    Question(town, f"who is the mayor of {town}?", (mayor, mayor.split()[0]), (f"{town} 1",))
    for town, mayor in zip(TOWNS, MAYORS, strict=True)
]
BLOCKED = [Question("v", "?", ("Zoe Bramble", "the 1898 Oak-tree")), Question("w", "?", ("Mora",))]
WIDTH, SEED = 16, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Configuration, model, parameters, and a retriever over an exact index of made-up vectors."""
    folder = tmp_path_factory.mktemp("world")
    texts = [f"{p.title} / {p.text} // {q.text}" for p, q in zip(PASSAGES, 3 * QUESTIONS, strict=True)]
    encoder, generator = train_wordpiece(texts, 330, folder / "e"), train_byte_bpe(texts, 400, folder / "g")
    config = default_config()
    config.seed = SEED
    config.length.update(question=16, passage=24, source=96, target=32)
    config.encoder.update(width=WIDTH, layers=1, heads=2, ffn=16, positions=16, init_std=0.3)
    config.generator.update(width=WIDTH, encoder_layers=1, decoder_layers=1, heads=2, ffn=16, positions=96)
    config.retrieval.score_scale = 0.5
    table = np.random.default_rng(0).normal(size=(encoder.vocab_size, WIDTH)).astype(np.float32)
    build_index(
        folder / "index",
        encoder=Encoder(
            lambda ids: table[ids].mean(axis=1), partial(encoder.passage_ids, length=24), encoder.pad_id, 24, 8
        ),
        store=build_store(PASSAGES, folder / "passages", generator),
        fingerprint="f", score_scale=0.5, kind="exact", log=lambda line: None,
    )  # fmt: skip
    model = rag_config(config, encoder, generator)
    shapes = jax.eval_shape(lambda: rag.init_params(model, jax.random.key(0)))["question_encoder"]
    rng = np.random.default_rng(1)
    params = {"question_encoder": jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)}
    retriever = Retriever.of(config, open_index(folder / "index"), encoder, generator)
    return SimpleNamespace(config=config, model=model, params=params, retriever=retriever, tokenizer=generator)


@pytest.fixture(scope="module")
def names(world):
    return NameMaker(world.tokenizer, blocked_words(BLOCKED), seed=SEED, size=500)


@pytest.fixture(scope="module")
def make_source(world, names, devices):
    def make(substitution=0.0, name="reader", layout="generation", frozen=False, depth=0, parallel=devices[8]):
        config = world.config.copy_and_resolve_references()
        config.data.target_layout = layout
        stage = config.reader
        stage.update(batch=8, k=3, depth=depth, substitution=substitution, train_question_encoder=not frozen)
        return QuestionSource(QUESTIONS, world.retriever, world.model, config, stage, parallel, name=name, names=names)

    return make


@pytest.fixture(scope="module")
def by_words(world, tmp_path_factory):
    """depth -> a source whose passages BM25 finds."""
    pytest.importorskip("bm25s")
    folder, settings = tmp_path_factory.mktemp("words") / "index", dict(world.config.index.bm25)
    build_index(
        folder, encoder=None, store=world.retriever.index.passages, kind="bm25",
        fingerprint=bm25.fingerprint(settings), score_scale=1.0, search={"bm25": settings}, log=lambda line: None,
    )  # fmt: skip
    retriever = world.retriever._replace(index=open_index(folder))

    def make(depth=0):
        config = world.config.copy_and_resolve_references()
        config.reader.update(batch=8, k=3, depth=depth, train_question_encoder=False)
        return QuestionSource(
            QUESTIONS, retriever, world.model, config, config.reader, Pmap(), name="reader", names=None
        )

    return make


def asked(step):
    return [QUESTIONS[i] for i in Batches(len(QUESTIONS), 8, SEED)[step]]


def rows(step, last=2):
    """The passages of each question's town: two with the answer, one without; `last` in place of the third."""
    return np.array([[3 * QUESTIONS.index(q), 3 * QUESTIONS.index(q) + 1, last] for q in asked(step)])


def source_texts(world, batch):
    return [[world.tokenizer.decode(ids) for ids in source_KS] for source_KS in batch.source_BKS]


def target_texts(world, batch):
    return [world.tokenizer.decode(ids).removeprefix(" ") for ids in batch.target_BT]


def whole(row, question):
    return f"{PASSAGES[row].title} / {PASSAGES[row].text} // {question.text}"


def test_search_finds_the_nearest_passages_of_the_encoded_questions(world, make_source):
    source, index = make_source(), world.retriever.index
    query = source.encode(world.params, 3)
    found = source.search(3, query)
    ids_BQ = world.retriever.question_ids([question.text for question in asked(3)])
    query_BE = np.asarray(jax.jit(rag.encode_questions, static_argnums=0)(world.model, world.params, ids_BQ))
    score_BN = query_BE @ index.vectors.read(0, len(PASSAGES)).astype(np.float64).T
    expected_BK = np.argsort(-score_BN, axis=1)[:, :3]
    np.testing.assert_array_equal(found.ids_BK, expected_BK)
    prior_BK = np.asarray(document_log_prior(np.take_along_axis(score_BN, expected_BK, axis=1), None))
    health = Health.of(expected_BK, prior_BK)
    assert (found.health.distinct, found.health.questions) == (health.distinct, 8)
    assert found.health.information == pytest.approx(health.information, rel=1e-3)


def test_passages_that_hold_the_answer_come_first_where_that_is_asked(world, make_source):
    source, plain = make_source(depth=len(PASSAGES)), make_source(depth=0)
    query = source.encode(world.params, 3)
    found_BK = source.search(3, query).ids_BK
    assert (found_BK[:, :2] != plain.search(3, query).ids_BK[:, :2]).any()
    query_BE = np.asarray(query).reshape(8, -1)
    score_BN = query_BE @ world.retriever.index.vectors.read(0, len(PASSAGES)).T
    for question, found_K, score_N in zip(asked(3), found_BK, score_BN, strict=True):
        holds_N = np.array([question.answers[0] in passage.title + passage.text for passage in PASSAGES])
        assert holds_N.sum() == 2
        expected = sorted(range(len(PASSAGES)), key=lambda row: (not holds_N[row], -score_N[row]))
        np.testing.assert_array_equal(found_K, expected[:3])


def test_what_a_frozen_encoder_finds_is_looked_up_once(world, make_source):
    frozen, trained = make_source(frozen=True), make_source()
    epoch = -(-len(QUESTIONS) // 8)
    for step in (*range(epoch), epoch + 1):
        query = frozen.encode(world.params, step)
        assert (query is None) == (step > epoch)
        found, expected = frozen.search(step, query), trained.search(step, trained.encode(world.params, step))
        np.testing.assert_array_equal(found.ids_BK, expected.ids_BK)
        assert found.health.information == pytest.approx(expected.health.information, rel=1e-5)


def test_words_bring_scores_which_go_into_the_batch(world, by_words):
    """And nothing is encoded: no vector, no question."""
    source = by_words()
    for step in (3, 4, 3 + len(QUESTIONS)):
        assert source.encode(None, step) is None
        found = source.search(step, None)
        texts = [question.text for question in asked(step)]
        ids_BK, score_BK = source._retriever.search(texts, None, 3)
        assert [PASSAGES[row].id for row in ids_BK[:, 0]] == [question.passage_ids[0] for question in asked(step)]
        np.testing.assert_array_equal(found.ids_BK, ids_BK)
        np.testing.assert_array_equal(found.score_BK, score_BK)
        assert found.health == Health.of(ids_BK, np.asarray(document_log_prior(score_BK)))
        batch = source.batch(step, found.ids_BK, found.score_BK)
        assert batch.question_BQ is None and batch.document_BKE is None and batch.mask_BK.all()
        np.testing.assert_array_equal(batch.score_BK, score_BK)
        assert source_texts(world, batch) == [
            [whole(row, question) for row in ids_K] for ids_K, question in zip(ids_BK, asked(step), strict=True)
        ]


def test_scores_of_words_follow_the_passages_that_hold_the_answer(by_words):
    found = by_words(depth=len(PASSAGES)).search(3, None)
    texts = [question.text for question in asked(3)]
    ids_BN, score_BN = by_words()._retriever.search(texts, None, len(PASSAGES))
    for ids_K, score_K, ids_N, score_N in zip(found.ids_BK, found.score_BK, ids_BN, score_BN, strict=True):
        scores = dict(zip(ids_N.tolist(), score_N.tolist(), strict=True))
        assert score_K.tolist() == [scores[row] for row in ids_K.tolist()]
    assert (np.diff(found.score_BK) > 0).any()


def test_a_batch_holds_questions_passages_and_answers(world, make_source):
    ids_BK = rows(4)
    batch = make_source().batch(4, ids_BK)
    assert source_texts(world, batch) == [
        [whole(row, question) for row in ids_K] for ids_K, question in zip(ids_BK, asked(4), strict=True)
    ]
    assert target_texts(world, batch) == [question.answers[0] for question in asked(4)]
    np.testing.assert_array_equal(
        batch.question_BQ, world.retriever.question_ids([question.text for question in asked(4)])
    )
    vector_NE = world.retriever.index.vectors.read(0, len(PASSAGES))
    np.testing.assert_array_equal(batch.document_BKE, vector_NE[ids_BK])
    assert batch.mask_BK.all() and (batch.weight_B == 1).all()
    tokenizer = world.tokenizer
    assert (batch.target_BT[:, 0] == tokenizer.bos_id).all() and (batch.token_BT[:, 0] == tokenizer.eos_id).all()
    ends_B = (batch.target_BT == tokenizer.eos_id).argmax(axis=1)
    for token_T, target_T, end in zip(batch.token_BT, batch.target_BT, ends_B, strict=True):
        np.testing.assert_array_equal(token_T[1 : end + 1], target_T[:end])
        assert (target_T[end + 1 :] == tokenizer.pad_id).all() and (token_T[end + 1 :] == tokenizer.pad_id).all()


def test_a_head_s_batch_holds_claims_and_classes(world, devices):
    config = world.config.copy_and_resolve_references()
    config.data.update(task="fever2", classify="head")
    claims = [replace(q, answers=("REFUTES" if n % 3 else "SUPPORTS",)) for n, q in enumerate(QUESTIONS)]
    model = replace(world.model, classes=2)
    source = QuestionSource(claims, world.retriever, model, config, config.reader, devices[8], name="joint", names=None)
    order = Batches(len(QUESTIONS), config.reader.batch, SEED)[4]
    batch = source.batch(4, np.zeros((len(order), 3), np.int64))
    assert batch.target_BT is None and batch.label_B.tolist() == [int(n % 3 > 0) for n in order]
    texts = [world.tokenizer.decode(ids).removeprefix(" ") for ids in batch.token_BT]
    assert texts == [QUESTIONS[n].text for n in order]
    assert (batch.token_BT[:, :2] == [world.tokenizer.eos_id, world.tokenizer.bos_id]).all()


def test_the_other_layout_has_no_bos_in_the_target(world, make_source):
    batch = make_source(layout="huggingface_finetune").batch(4, rows(4))
    assert (batch.token_BT[:, 0] == world.tokenizer.bos_id).all()
    assert (batch.target_BT != world.tokenizer.bos_id).all()
    assert target_texts(world, batch) == [question.answers[0] for question in asked(4)]


@pytest.mark.parametrize("substitution", [0.0, 1.0])
def test_missing_passages_are_masked_and_empty(world, make_source, substitution):
    ids_BK = rows(2, last=-1)
    batch = make_source(substitution).batch(2, ids_BK)
    np.testing.assert_array_equal(batch.mask_BK, [[True, True, False]] * 8)
    assert not batch.document_BKE[:, 2].any() and batch.document_BKE[:, :2].any()
    assert [texts[2] for texts in source_texts(world, batch)] == [f" / // {question.text}" for question in asked(2)]


def test_one_name_takes_the_answers_place_in_every_passage_and_in_the_target(world, make_source):
    source, seen = make_source(1.0), set()
    before = world.retriever.documents(np.arange(len(PASSAGES))[None])[0]
    checksum = world.retriever.index.passages.checksum
    for step in range(6):
        ids_BK = rows(step)
        batch = source.batch(step, ids_BK)
        for question, ids_K, texts_K, name in zip(
            asked(step), ids_BK, source_texts(world, batch), target_texts(world, batch), strict=True
        ):
            answer = question.answers[0]
            assert name != answer
            assert texts_K == [whole(row, question).replace(answer, name) for row in ids_K]
            assert [text.count(name) for text in texts_K] == [2, 2, 0]  # in the title too
            seen.add(name)
        np.testing.assert_array_equal(batch.question_BQ, make_source().batch(step, ids_BK).question_BQ)
        np.testing.assert_array_equal(batch.document_BKE, make_source().batch(step, ids_BK).document_BKE)
    assert len(seen) > 40
    words = {re.sub(r"\W", "", word).lower() for name in seen for word in name.split()}
    assert not words & blocked_words(BLOCKED)
    after = world.retriever.documents(np.arange(len(PASSAGES))[None])[0]
    for pair in zip(before, after, strict=True):
        assert all(np.array_equal(*pieces) for pieces in zip(*pair, strict=True))
    assert [world.retriever.index.passages[row] for row in range(len(PASSAGES))] == PASSAGES
    assert world.retriever.index.passages.checksum == checksum


def test_an_answer_that_no_passage_holds_stays_the_target(world, make_source):
    ids_BK = np.array([[2, 5, 8]] * 8)  # rivers alone
    batch = make_source(1.0).batch(1, ids_BK)
    assert target_texts(world, batch) == [question.answers[0] for question in asked(1)]
    assert source_texts(world, batch) == [[whole(row, question) for row in (2, 5, 8)] for question in asked(1)]


def test_about_a_share_of_the_questions_is_renamed(world, make_source):
    source, renamed = make_source(0.5), []
    for step in range(12):
        said = target_texts(world, source.batch(step, rows(step)))
        renamed += [name != question.answers[0] for name, question in zip(said, asked(step), strict=True)]
    assert 0.3 < np.mean(renamed) < 0.7


def test_a_batch_depends_on_seed_stage_and_step_alone(tiny, world, make_source):
    source = make_source(1.0)
    forward = [tiny.bits(source.batch(step, rows(step))) for step in range(3)]
    again = make_source(1.0)
    assert [tiny.bits(again.batch(step, rows(step))) for step in (2, 1, 0)] == forward[::-1]
    names_of = [set(target_texts(world, source.batch(step, rows(step)))) for step in range(3)]
    assert not names_of[0] & names_of[1] and not names_of[1] & names_of[2]
    other_stage = target_texts(world, make_source(1.0, name="joint").batch(0, rows(0)))
    assert not set(other_stage) & names_of[0]


def test_blocked_words_are_those_of_all_answers():
    assert blocked_words(BLOCKED[:1], BLOCKED[1:]) == {"zoe", "bramble", "1898", "oaktree", "mora"}
    assert blocked_words([], []) == set()


@pytest.fixture(scope="module")
def repairs(world, devices):
    def make(length=96, parallel=devices[8]):
        config = world.config.copy_and_resolve_references()
        config.length.source = length
        config.denoise.batch = 8
        retriever = world.retriever._replace(length=config.length)
        return PassageSource(retriever, config, config.denoise, parallel)

    return make


class Half(Pmap):
    """What the first or the second of two processes sees."""

    def __init__(self, number):
        super().__init__()
        self.number, self.processes = number, 2

    def share(self, batch):
        return slice(self.number * batch // 2, (self.number + 1) * batch // 2)


def joined(parts):
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


@pytest.mark.parametrize("kind", ["questions", "passages"])
def test_two_processes_make_the_batch_of_one(tiny, make_source, repairs, kind):
    """Made-up names and holes are drawn for the whole batch, whoever takes its rows."""
    make = {"questions": partial(make_source, 0.5), "passages": repairs}[kind]
    for step in range(2):
        ids_BK = make().search(step, None).ids_BK if kind == "passages" else rows(step)
        parts = []
        for number in range(2):
            source, own = make(parallel=Half(number)), Half(number).share(8)
            parts.append(source.batch(step, ids_BK[own]))
            if kind == "passages":
                np.testing.assert_array_equal(source.search(step, None).ids_BK, ids_BK[own])
        assert tiny.bits(joined(parts)) == tiny.bits(make().batch(step, ids_BK))


def test_passages_are_to_be_repaired_whole(world, repairs):
    source, tokenizer, holes = repairs(), world.tokenizer, 0
    for step in range(3):
        found = source.search(step, source.encode(None, step))
        assert found.health is None
        np.testing.assert_array_equal(found.ids_BK[:, 0], Batches(len(PASSAGES), 8, SEED)[step])
        batch = source.batch(step, found.ids_BK)
        assert batch.source_BKS.shape == (8, 1, 96) and batch.target_BT.shape == (8, 96)
        assert batch.mask_BK.all() and (batch.weight_B == 1).all()
        assert batch.document_BKE is None and not batch.score_BK.any()  # one document, whatever the index
        assert target_texts(world, batch) == [
            f"{PASSAGES[row].title} / {PASSAGES[row].text}" for (row,) in found.ids_BK
        ]
        for (source_S,), target_T in zip(batch.source_BKS, batch.target_BT, strict=True):
            masks = source_S == tokenizer.mask_id
            assert masks.any() and not (masks[1:] & masks[:-1]).any()
            assert source_S[0] == tokenizer.bos_id
            left, text = source_S[~masks & (source_S != tokenizer.pad_id)], target_T[target_T != tokenizer.pad_id]
            assert subsequence(left.tolist(), text.tolist())
            holes += 1 - len(left) / len(text)
    assert holes / 24 == pytest.approx(0.3, abs=0.05)


def subsequence(part, text):
    rest = iter(text)
    return all(token in rest for token in part)


def test_long_passages_are_cut_and_still_framed(world, repairs):
    batch = repairs(length=12).batch(0, np.arange(8)[:, None])
    for array in (batch.source_BKS[:, 0], batch.target_BT):
        assert array.shape == (8, 12)
        assert (array[:, 0] == world.tokenizer.bos_id).all()
        assert ((array == world.tokenizer.eos_id).sum(axis=1) == 1).all()
    assert (batch.target_BT[:, -1] == world.tokenizer.eos_id).all()


def test_repairs_depend_on_seed_and_step_alone(tiny, repairs):
    ids_BK = np.arange(8)[:, None]
    first = [tiny.bits(repairs().batch(step, ids_BK)) for step in range(3)]
    source = repairs()
    assert [tiny.bits(source.batch(step, ids_BK)) for step in (2, 1, 0)] == first[::-1]
    assert len({tuple(bits) for bits in first}) == 3


@pytest.mark.parametrize("substitution", [0.0, 1.0])
def test_a_null_document_is_the_question_alone_behind_the_passages(world, make_source, substitution):
    """One source more than passages, whatever happens to these."""
    source, ids_BK = make_source(substitution), rows(2, last=-1)
    plain = source.batch(2, ids_BK)
    source._retriever = source._retriever._replace(alone=True)
    batch = source.batch(2, ids_BK)
    assert batch.source_BKS.shape[1] == 4 and batch.mask_BK.shape[1] == batch.document_BKE.shape[1] == 3
    np.testing.assert_array_equal(batch.source_BKS[:, :3], plain.source_BKS)
    assert [texts[3] for texts in source_texts(world, batch)] == [question.text for question in asked(2)]


def test_a_closed_book_has_the_question_alone_and_a_prior_of_1(world):
    config = world.config.copy_and_resolve_references()
    config.index.kind = "none"
    config.reader.update(batch=8, train_question_encoder=False)
    retriever = Retriever.of(config, None, None, world.tokenizer)
    source = QuestionSource(QUESTIONS, retriever, world.model, config, config.reader, Pmap(), name="reader", names=None)
    for step in (3, 4, 3 + len(QUESTIONS)):
        assert source.encode(None, step) is None
        found = source.search(step, None)
        assert found.ids_BK.shape == (8, 0) and found.health is None
        batch = source.batch(step, found.ids_BK, found.score_BK)
        assert batch.question_BQ is None and batch.document_BKE is None and batch.mask_BK.shape == (8, 1)
        np.testing.assert_array_equal(document_log_prior(batch.score_BK, batch.mask_BK), np.zeros((8, 1)))
        assert source_texts(world, batch) == [[question.text] for question in asked(step)]
        assert target_texts(world, batch) == [question.answers[0] for question in asked(step)]


def shapes(tree):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def test_batches_have_the_shapes_that_are_planned_for(world, make_source, by_words):
    described, ids_BK = Described(world.config, world.model, ()), np.zeros((8, 3), np.int64)
    assert shapes(make_source().batch(0, ids_BK)) == shapes(asked_batch(described, 8, 3))
    config = world.config.copy_and_resolve_references()
    stage, config.index.kind = config.denoise, "bm25"
    scored = by_words().batch(0, ids_BK, np.zeros((8, 3), np.float32))
    assert shapes(scored) == shapes(asked_batch(described._replace(config=config), 8, 3))
    stage.batch = 8
    holes = PassageSource(world.retriever, config, stage, Pmap()).batch(0, ids_BK[:, :1])
    assert shapes(holes) == shapes(holed_batch(config, 8))
