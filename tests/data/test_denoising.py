import numpy as np
import pytest

from rag_jax.data.denoising import mask_spans

MASK = 9999


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(token in rest for token in part)


def test_hidden_share_and_span_length():
    rng = np.random.default_rng(0)
    ids = np.arange(100, dtype=np.int32)
    kept, masks = [], []
    for _ in range(2000):
        source = mask_spans(ids, rng, MASK)
        assert source.dtype == np.int32
        visible = source[source != MASK]
        assert is_subsequence(visible.tolist(), ids.tolist())
        assert not np.any((source[1:] == MASK) & (source[:-1] == MASK))
        kept.append(len(visible))
        masks.append(np.sum(source == MASK))
    assert set(kept) == {70}
    # Thirty tokens in spans of three, those of no tokens counted: about ten masks, the last span cut.
    assert 9.5 < np.mean(masks) < 11


def test_every_token_is_hidden_about_as_often():
    rng = np.random.default_rng(1)
    ids = np.arange(40, dtype=np.int32)
    seen = np.zeros(40)
    for _ in range(4000):
        source = mask_spans(ids, rng, MASK)
        seen[source[source != MASK]] += 1
    # Fewer spans reach the first and the last tokens.
    assert np.all(np.abs(seen[2:-2] / 4000 - 0.7) < 0.05)
    assert np.all(seen / 4000 < 0.9)


@pytest.mark.parametrize("length", range(12))
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_short_texts(length, rate):
    rng = np.random.default_rng(2)
    ids = np.arange(length, dtype=np.int32)
    for _ in range(50):
        source = mask_spans(ids, rng, MASK, rate=rate)
        visible = source[source != MASK]
        assert len(visible) == length - round(rate * length)
        assert is_subsequence(visible.tolist(), ids.tolist())
        assert (MASK in source) == (len(visible) < length)


def test_same_generator_same_mask_and_input_untouched():
    ids = np.arange(50, dtype=np.int32)
    a, b = (mask_spans(ids, np.random.default_rng(3), MASK) for _ in range(2))
    assert a.tolist() == b.tolist()
    assert ids.tolist() == list(range(50))
