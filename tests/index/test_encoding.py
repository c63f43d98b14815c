"""Batches of like length: narrow, few widths, one shape each; vectors do not depend on the padding."""

import threading
from functools import partial

import jax
import numpy as np
import pytest

from rag_jax import progress
from rag_jax.index.encoding import WIDTH, Encoder, Work, ahead, lengths
from rag_jax.models.bert import BertConfig, BertEncoder
from rag_jax.parallel import Pmap
from rag_jax.training.retriever import encode_passages

LENGTH = 80


def vectors(encoder, ids_CP):
    return encoder.vectors(ids_CP, Work("here", len(ids_CP), lambda line: None), lambda: None)


def passages(lengths, seed=0):
    random = np.random.default_rng(seed)
    ids_CP = np.zeros((len(lengths), LENGTH), np.int32)
    for row, length in zip(ids_CP, lengths, strict=True):
        row[:length] = random.integers(1, 50, length)
    return ids_CP


def sums(shapes):
    """Encodes a passage as the sum of its ids and their number, and notes the shapes that it is given."""

    def encode(ids_BP):
        shapes.append(ids_BP.shape)
        return np.stack([ids_BP.sum(axis=1), (ids_BP > 0).sum(axis=1)], axis=1).astype(np.float32)

    return Encoder(encode, None, 0, LENGTH, 4)


def test_each_batch_is_as_wide_as_its_longest_passage_needs():
    length_C = np.array([80, 3, 33, 32, 64, 5, 4, 65, 1, 34])
    ids_CP, shapes = passages(length_C), []
    vector_CE = vectors(sums(shapes), ids_CP)
    # By length: 80 65 64 34 | 33 32 5 4 | 3 1, filled up with the last of them.
    assert WIDTH == 16 and shapes == [(4, 80), (4, 48), (4, 16)]
    np.testing.assert_array_equal(vector_CE, np.stack([ids_CP.sum(axis=1), length_C], axis=1))


def test_batches_are_even_where_lengths_are_all_mixed():
    """Padding takes few of the tokens; in the order of the corpus it takes more than are left."""
    length_C, shapes = np.random.default_rng(1).integers(1, LENGTH + 1, 400), []
    vectors(sums(shapes), passages(length_C))
    spent, needed = sum(B * P for B, P in shapes), length_C.sum()
    in_order = sum(4 * length_C[at : at + 4].max() for at in range(0, 400, 4))
    assert needed < spent < 1.25 * needed < 1.5 * needed < in_order and len(set(shapes)) == 5


def test_the_token_that_pads_may_stand_inside_nowhere_but_at_the_end():
    np.testing.assert_array_equal(lengths(np.array([[5, 6, 0], [5, 0, 0], [5, 6, 7]]), 0), [2, 1, 3])
    np.testing.assert_array_equal(lengths(np.array([[0, 6, 1]]), 1), [2])


def test_vectors_do_not_depend_on_the_padding_beyond_rounding():
    """A real encoder: passages alone, without any padding, against batches of several widths on two devices."""
    tiny = {"vocab_size": 60, "width": 16, "layers": 1, "heads": 2, "ffn": 32, "positions": LENGTH}
    config, parallel = BertConfig(**tiny, init_std=0.2, pooling="mean"), Pmap(jax.devices()[:2])
    ids_CP = passages([7, 31, 40, 80, 65])
    init = jax.jit(BertEncoder(config).init)
    params = init(jax.random.key(0), ids_CP[:1], ids_CP[:1] > 0)["params"]
    encode = partial(encode_passages, config)
    together = parallel.batch(encode)
    encoder = Encoder(lambda ids: together(params, parallel.put_batch(ids)), None, 0, LENGTH, 2)
    vector_CE = vectors(encoder, ids_CP)
    for row in (0, 2, 4):
        alone_E = jax.jit(encode)(params, ids_CP[row : row + 1, ids_CP[row] > 0])[0]
        np.testing.assert_allclose(vector_CE[row], alone_E, rtol=1e-5, atol=1e-5)


def test_an_encoder_that_loses_vectors_is_a_mistake_of_the_program():
    broken = Encoder(lambda ids_BP: np.ones((3, 2), np.float32), None, 0, LENGTH, 4)
    with pytest.raises(ValueError, match="encode returned 3 vectors; expected 4"):
        vectors(broken, passages([1, 2]))


def test_what_comes_next_is_made_while_the_caller_works():
    made = [threading.Event() for _ in range(3)]

    def make(item):
        made[item].set()
        return item * 10

    stream = ahead(make, range(3))
    assert next(stream) == 0 and made[1].wait(10)  # nobody has asked for it yet
    assert list(stream) == [10, 20] and list(ahead(make, [])) == []
    with pytest.raises(IndexError):
        list(ahead(make, [7]))


def test_progress_tells_speed_and_the_time_that_is_left(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = Work("here", 1000, lines.append)
    work.expect(500, 50_000)  # so the other 500 are taken for as long as these
    now[0] += 5
    work.add(100, 5_000)
    assert lines == []  # not so soon
    now[0] += 55
    work.add(100, 5_000)
    assert lines == ["here: 200 of 1,000 passages encoded, 3 a second, 9 minutes left"]
    work.expect(500, 50_000)
    work.add(800, 90_000)
    assert lines[1:] == ["here: 1,000 of 1,000 passages encoded, 17 a second"]
