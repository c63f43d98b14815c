"""The bi-encoder's training: the in-batch softmax by hand, gathered negatives on eight devices, and its batches."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rag_jax.config import default_config
from rag_jax.data.formats import Passage, Question, qa
from rag_jax.data.tokenizer import train_wordpiece
from rag_jax.training import retriever, retriever_loop
from rag_jax.training.retriever import (
    PairBatch,
    Pairs,
    encode_passages,
    init_params,
    passage_encoder,
    retriever_step,
)
from rag_jax.training.step import TrainState

B, Q, P, SCALE, LEARNED = 8, 5, 7, 0.3, 0.5
LONG, ONE_ENCODER = pytest.mark.long, ("shared", "learned scale")
CASES = {
    "shared": 1,
    "two encoders": 3,
    "learned scale": 3,
}  # passages a question: the positive, and 0 or 2 hard negatives


def pair_batch(N, seed=0):
    """Random ids with padding; about a quarter of the passages is no negative, among them all of column `masked`."""
    rng = np.random.default_rng(seed)
    question_BQ, passage_BNP = (rng.integers(1, 20, shape).astype(np.int32) for shape in ((B, Q), (B, N, P)))
    question_BQ[2, 3:] = passage_BNP[5, :, 4:] = 0
    passage_BNP[:3, 0, :Q], passage_BNP[:3, 0, Q:] = question_BQ[:3], 0  # easy ones
    negative_BC = rng.random((B, B * N)) < 0.75
    if N > 1:
        negative_BC[:, MASKED] = False
    return PairBatch(question_BQ, passage_BNP, negative_BC)


MASKED = 4  # the first hard negative of question 1, where there are three passages a question


@pytest.fixture(scope="module")
def weights(tiny, params):
    """name of a case -> its parameters; two encoders differ."""
    encoder = params["question_encoder"]
    other = jax.tree.map(lambda leaf: leaf * np.float32(0.9) + np.float32(0.02), encoder)
    return {
        "shared": {"question_encoder": encoder},
        "two encoders": {"question_encoder": encoder, "passage_encoder": other},
        "learned scale": {"question_encoder": encoder, "log_score_scale": np.log(np.float32(LEARNED))},
    }


@pytest.fixture(scope="module")
def stepped(tiny, weights, devices):
    """(case, devices) -> function(batch) -> (gradient, metrics, state) of a step of SGD."""

    @cache
    def program(case, count):
        parallel = devices[count]
        step = parallel.step(retriever_step, config=tiny.bert, optimizer=tiny.sgd(), scale=SCALE, seed=0)

        def run(batch):
            state = TrainState(jnp.int32(0), weights[case], tiny.sgd().init(weights[case]))
            after, metrics = jax.device_get(step(parallel.put_state(state), parallel.put_batch(batch)))
            return after.opt_state[0].trace, metrics, after

        return run

    return program


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_softmax_computed_by_hand(tiny, weights, stepped, case):
    batch = pair_batch(CASES[case])
    encode = jax.jit(partial(encode_passages, tiny.bert))
    query_BE = np.asarray(encode(weights[case]["question_encoder"], batch.question_BQ), np.float64)
    passage_CE = np.asarray(encode(passage_encoder(weights[case]), batch.passage_BNP.reshape(-1, P)), np.float64)
    losses, hits, scale = [], 0, LEARNED if case == "learned scale" else SCALE
    for b, query_E in enumerate(query_BE):
        score_C, positive = scale * passage_CE @ query_E, b * CASES[case]
        rivals = [c for c in range(len(score_C)) if c != positive and batch.negative_BC[b, c]]
        losses.append(np.log(1 + sum(np.exp(score_C[c] - score_C[positive]) for c in rivals)))
        hits += all(score_C[positive] > score_C[c] for c in rivals)
    _, metrics, state = stepped(case, 1)(batch)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=3e-6)
    assert metrics["in_batch_accuracy"] == pytest.approx(hits / B) and 0 < hits < B
    assert state.step == 1


@pytest.mark.parametrize("mode", [8, "sharded"])
@pytest.mark.parametrize("case", ["two encoders", *(pytest.param(name, marks=LONG) for name in ONE_ENCODER)])
def test_eight_devices_make_the_step_of_one(tiny, weights, devices, case, mode):
    """In float64, where only a mistake shows; in fp32 the scale's gradient, a sum that cancels, has 3e-6 of noise."""
    with jax.enable_x64(True):
        params, batch = tiny.cast(weights[case], np.float64), pair_batch(CASES[case])
        config, outcomes = tiny.config(dtype="float64").question_encoder, []
        for parallel in (devices[1], devices[mode]):
            step = parallel.step(retriever_step, config=config, optimizer=tiny.sgd(), scale=SCALE, seed=0)
            state = parallel.put_state(TrainState(jnp.int32(0), params, tiny.sgd().init(params)))
            outcomes.append(jax.device_get(step(state, parallel.put_batch(batch))))
    (alone, metrics), (together, metrics_of_8) = outcomes
    tiny.assert_close(together.opt_state[0].trace, alone.opt_state[0].trace, 1e-12)
    tiny.assert_close(together.params, alone.params, 1e-13)
    assert metrics_of_8["loss"] == pytest.approx(metrics["loss"], rel=1e-13)
    assert metrics_of_8["in_batch_accuracy"] == metrics["in_batch_accuracy"]
    assert together.step == 1 and jax.tree.structure(together) == jax.tree.structure(alone)


@pytest.mark.parametrize("count", [1, 8])
def test_both_encoders_learn_and_masked_passages_teach_nothing(tiny, stepped, count):
    run, batch = stepped("two encoders", count), pair_batch(3)
    gradient, metrics, _ = run(batch)
    for tree in gradient.values():
        kernels = [leaf for path, leaf in jax.tree.leaves_with_path(tree) if path[-1].key == "kernel"]
        assert len(kernels) == 6 and all(np.abs(leaf).max() > 1e-5 for leaf in kernels)
    other = batch.passage_BNP.copy()
    other.reshape(-1, P)[MASKED] = 11
    changed, changed_metrics, _ = run(batch._replace(passage_BNP=other))
    assert tiny.bits((changed, changed_metrics)) == tiny.bits((gradient, metrics))
    # The positive of question 7 is a negative of others, which live on other devices where there are eight.
    assert batch.negative_BC[:7, 21].any()
    other = batch.passage_BNP.copy()
    other[7, 0] = 11
    assert tiny.bits(run(batch._replace(passage_BNP=other))[0]) != tiny.bits(gradient)


def test_an_encoder_of_its_own_starts_from_the_same_weights(tiny):
    shared, both = (init_params(tiny.config(), jax.random.key(5), shared=shared) for shared in (True, False))
    assert list(shared) == ["question_encoder"] and list(both) == ["question_encoder", "passage_encoder"]
    assert tiny.bits(both["passage_encoder"]) == tiny.bits(both["question_encoder"]) == tiny.bits(shared)
    assert passage_encoder(shared) is shared["question_encoder"]
    assert passage_encoder(both) is both["passage_encoder"]
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(both)}
    assert len(pointers) == len(jax.tree.leaves(both))  # donating one must not take the other


PASSAGES = [
    Passage("p0", "radium", "marie curie discovered radium in her shed at paris long ago"),
    Passage("p1", "radium", "radium glows with a pale blue light for many quiet years"),
    Passage("p2", "polonium", "the metal was named by marie curie after poland her home"),
    Passage("p3", "rivers", "one long river runs through warsaw on its way to danzig"),
    Passage("p4", "rivers", "another water east of there is called narew by everybody"),
    Passage("p5", "rivers", "vistula means this long river in older books and maps"),
]
QUESTIONS = [
    Question("q0", "who discovered radium", ("Marie Curie",), ("p0",)),
    Question("q1", "radium was found by whom", ("nobody else", "The marie CURIE!"), ("p0",)),
    Question("q2", "what was named after poland", ("metal",), ("p2", "p0")),
    Question("q3", "what runs through warsaw", ("The long river",), ("p3",)),
    Question("q4", "who knows", ("x",)),
]
LENGTH = ConfigDict({"question": 24, "passage": 32})


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    texts = [f"{passage.title} {passage.text}" for passage in PASSAGES] + [question.text for question in QUESTIONS]
    return train_wordpiece(texts, 400, tmp_path_factory.mktemp("wordpiece") / "encoder")


@pytest.fixture(scope="module")
def make_pairs(wordpiece):
    def make(questions=QUESTIONS, inverse_cloze=0.0, hard_negatives=0, passages=PASSAGES, **kinds):
        shares = {"inverse_cloze": inverse_cloze, "hard_negatives": hard_negatives}
        return Pairs(passages, questions, wordpiece, LENGTH, **shares, **kinds)

    return make


def rng(seed=0):
    return np.random.default_rng(seed)


def encoded(wordpiece, rows, texts=None):
    texts = texts or [PASSAGES[row].text for row in rows]
    return wordpiece.passage_ids([PASSAGES[row].title for row in rows], texts, LENGTH.passage)


def test_questions_come_with_their_passages(wordpiece, make_pairs):
    pairs = make_pairs()
    assert [question.id for question, _ in pairs.asked] == ["q0", "q1", "q2", "q3"]
    batch = pairs.batch(np.array([2, 0, 3]), rng())
    asked = [QUESTIONS[i].text for i in (2, 0, 3)]
    np.testing.assert_array_equal(batch.question_BQ, wordpiece.question_ids(asked, LENGTH.question))
    np.testing.assert_array_equal(batch.passage_BNP[:, 0], encoded(wordpiece, [2, 0, 3]))
    assert batch.passage_BNP.shape == (3, 1, LENGTH.passage) and batch.passage_BNP.dtype == np.int32


def test_passages_that_the_question_names_or_that_hold_the_answer_are_no_negatives(make_pairs):
    negative_BC = make_pairs().batch(np.arange(4), rng()).negative_BC
    expected = [  # passages p0, p0, p2, p3
        [0, 0, 0, 1],  # p0 is the positive, twice; p2 holds "marie curie"
        [0, 0, 0, 1],  # another answer does not, but one suffices
        [0, 0, 0, 1],  # p2 is the positive; p0 is named beside it
        [1, 1, 1, 0],
    ]
    np.testing.assert_array_equal(negative_BC, np.array(expected, bool))


def test_passages_in_which_an_answer_pattern_finds_something_are_no_negatives(wordpiece, make_pairs):
    asked = [
        Question("q0", "who discovered radium", (r"(Marie|M\.)\s?Curie", "("), ("p0",)),
        Question("q1", "what runs through warsaw", (r"vistula|long\s+river",), ("p3",)),
        Question("q2", "what is it", ("(",), ("p2",)),  # a pattern that does not compile is found nowhere
    ]
    pairs = make_pairs(asked, hard_negatives=1, patterns=True)
    negative_BC, rows = pairs.batch(np.arange(3), rng()).negative_BC, {0: 1, 1: 4}
    for seed in range(10):  # p2 and p5 hold the answers
        batch = pairs.batch(np.arange(2), rng(seed))
        assert {row: find(wordpiece, ids_P) for row, (_, ids_P) in enumerate(batch.passage_BNP)} == rows
    expected = [[0, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 1, 1, 1, 0]]  # p0, p1, p3, p4, p2
    np.testing.assert_array_equal(negative_BC[:, :5], np.array(expected, bool))


def test_the_task_says_whether_answers_are_patterns(tmp_path, wordpiece):
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f'{{"id": "p{n}", "text": "word {n}"}}\n' for n in range(2)))
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "q", "answers": ["w.rd"], "passage_ids": ["p0"]}\n')
    config = default_config()
    config.data.update(passages=str(path), train=str(questions))
    for task, patterns in (("curatedtrec", True), ("qa", False)):
        config.data.task = task
        assert retriever_loop.make_pairs(config, wordpiece).patterns is patterns


def test_hard_negatives_that_a_question_names_come_first(wordpiece, make_pairs):
    asked = [
        replace(QUESTIONS[0], hard_negatives=("p4", "elsewhere", "p5")),
        replace(QUESTIONS[3], hard_negatives=("x",)),
        replace(QUESTIONS[2], hard_negatives=("p0", "p5")),
    ]
    chosen = {0: set(), 1: set(), 2: set()}
    for seed in range(20):
        batch = make_pairs(asked, hard_negatives=2).batch(np.arange(3), rng(seed))
        for row, ids_NP in enumerate(batch.passage_BNP):
            chosen[row].update(find(wordpiece, ids_P) for ids_P in ids_NP[1:])
    # Those in the corpus; without any, as of old; and none that is said to hold the answer.
    assert chosen == {0: {4, 5}, 1: {4}, 2: {5}}


def test_hard_negatives_share_the_title_and_do_not_hold_the_answer(wordpiece, make_pairs):
    pairs, chosen = make_pairs(hard_negatives=2), Counter()
    for seed in range(20):
        batch = pairs.batch(np.array([0, 3, 2]), rng(seed))
        np.testing.assert_array_equal(batch.passage_BNP[:, 0], encoded(wordpiece, [0, 3, 2]))
        np.testing.assert_array_equal(batch.passage_BNP[0, 1:], encoded(wordpiece, [1, 1]))
        np.testing.assert_array_equal(batch.passage_BNP[1, 1:], encoded(wordpiece, [4, 4]))  # p5 holds "long river"
        rows = [find(wordpiece, ids) for ids in batch.passage_BNP[2, 1:]]  # no sibling: any that it does not name
        chosen.update(rows)
        allowed = [0, 1, 1, 3, 4, 4, 2, *rows]
        for row in (0, 2):  # p0 and p2 are named by question 2, and hold the answer of question 0
            np.testing.assert_array_equal(batch.negative_BC[row], [row not in (0, 2) for row in allowed])
    assert set(chosen) == {1, 3, 4, 5}


def test_passages_without_a_title_are_no_siblings(wordpiece, make_pairs):
    passages = [replace(passage, title="" if row < 3 else passage.title) for row, passage in enumerate(PASSAGES)]
    pairs, ids_DP = make_pairs(hard_negatives=1, passages=passages), encoded(wordpiece, range(3, 6))
    drawn = [pairs.batch(np.array([2]), rng(seed)).passage_BNP[0, 1] for seed in range(20)]
    assert any((ids_DP == ids_P).all(axis=1).any() for ids_P in drawn)  # of q2, whose passages have no title


@pytest.mark.parametrize("title", ["", "one large file"])
@pytest.mark.parametrize("word", ["elsewhere", "everywhere"])
def test_a_batch_looks_at_few_passages(monkeypatch, make_pairs, title, word):
    """Also where all have one title or none, and where all hold the answer, of which then one is drawn, and masked."""
    passages = [Passage(f"p{row}", title, f"word {row} everywhere") for row in range(2000)]
    asked, looked = [Question("q", "where", (word,), ("p7",))], []
    monkeypatch.setattr(retriever, "normalise", lambda text: looked.append(text) or text)
    pairs = make_pairs(asked, hard_negatives=2, passages=passages)
    assert not looked and pairs.passages is passages  # nothing is held beside them
    negative_BC = pairs.batch(np.zeros(2, int), rng()).negative_BC
    assert 0 < len(looked) <= 2 + 4 * (1 if word == "elsewhere" else 2 * retriever.TRIES) + 2
    expected = word == "elsewhere"
    np.testing.assert_array_equal(negative_BC, 2 * [2 * [False, expected, expected]])


def test_a_step_is_told_as_a_file_of_questions_has_it(make_pairs):
    pairs = make_pairs([replace(QUESTIONS[2], hard_negatives=("p5",))], hard_negatives=1)
    (record,) = pairs.told(np.zeros(1, int), rng())
    assert record["hard_negatives"] == ["p5"]
    assert qa.own(json.loads(json.dumps(record)), 0) == QUESTIONS[2]


def test_a_pair_without_a_question_is_told_by_its_passage(make_pairs):
    (record,) = make_pairs(inverse_cloze=1.0).told(np.zeros(1, int), rng())
    assert record["id"] == f"passage {record['passage_ids'][0]}" and record["answers"] == ()


def find(wordpiece, ids_P):
    (row,) = np.flatnonzero((encoded(wordpiece, range(len(PASSAGES))) == ids_P).all(axis=1))
    return int(row)


def test_inverse_cloze_spans_come_from_their_passage(wordpiece, make_pairs):
    batch = make_pairs(inverse_cloze=1.0).batch(np.zeros(96, int), rng())
    kept, rows = 0, []
    for question_Q, (passage_P,) in zip(batch.question_BQ, batch.passage_BNP, strict=True):
        span = wordpiece.decode(question_Q).split()
        (row,) = [row for row, passage in enumerate(PASSAGES) if " ".join(span) in passage.text]
        words = PASSAGES[row].text.split()
        (start,) = [i for i in range(len(words)) if words[i : i + len(span)] == span]
        assert len(words) // 4 <= len(span) <= 0.67 * len(words)
        rest = " ".join(words[:start] + words[start + len(span) :])
        whole = (passage_P == encoded(wordpiece, [row])[0]).all()
        assert whole or (passage_P == encoded(wordpiece, [row], [rest])[0]).all()
        kept += whole
        rows.append(row)
    assert 0.35 < kept / 96 < 0.65 and set(rows) == set(range(6))
    np.testing.assert_array_equal(batch.negative_BC, np.array(rows)[:, None] != np.array(rows)[None, :])


def test_inverse_cloze_takes_its_share_and_all_where_no_question_is_known(wordpiece, make_pairs):
    asked = {question.text for question in QUESTIONS}

    def share(pairs):
        batch = pairs.batch(np.arange(400), rng())
        return np.mean([wordpiece.decode(ids) not in asked for ids in batch.question_BQ])

    assert share(make_pairs()) == 0
    assert share(make_pairs(inverse_cloze=0.25)) == pytest.approx(0.25, abs=0.06)
    assert share(make_pairs(questions=QUESTIONS[4:])) == 1


def test_batches_are_a_function_of_indices_and_random_numbers(tiny, make_pairs):
    def batch(seed, indices=(0, 1, 2, 3, 3, 1)):
        return make_pairs(inverse_cloze=0.5, hard_negatives=1).batch(np.array(indices), rng(seed))

    assert tiny.bits(batch(7)) == tiny.bits(batch(7))
    assert len({tuple(tiny.bits(batch(seed))) for seed in range(5)}) == 5
    assert tiny.bits(batch(7)) != tiny.bits(batch(7, (3, 2, 1, 0, 0, 2)))


def test_two_processes_make_the_batch_of_one(make_pairs):
    """Each has its own questions and passages; whose passages oppose them is told of all."""
    indices, halves = np.array([0, 1, 2, 3, 3, 1]), (slice(0, 3), slice(3, 6))
    pairs = make_pairs(inverse_cloze=0.5, hard_negatives=1)
    whole, parts = pairs.batch(indices, rng(7)), [pairs.batch(indices, rng(7), own) for own in halves]
    for name, array in whole._asdict().items():
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), array)


def test_a_passage_of_one_word_stays_whole(wordpiece):
    passages = [Passage("a", "t", "paris"), Passage("b", "t", "river")]
    pairs = Pairs(passages, [], wordpiece, LENGTH, inverse_cloze=1.0, hard_negatives=0)
    batch = pairs.batch(np.zeros(8, int), rng())
    for question_Q, (passage_P,) in zip(batch.question_BQ, batch.passage_BNP, strict=True):
        assert wordpiece.decode(passage_P) == "t " + wordpiece.decode(question_Q)
