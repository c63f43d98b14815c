"""Sizes to pad to: powers of two."""

from rag_jax.core.bucket import bucket


def test_bucket():
    assert [bucket(size, 8) for size in (1, 8, 9, 16, 17, 100)] == [8, 8, 16, 16, 32, 128]
    assert [bucket(size, 1) for size in (0, 1, 2, 3)] == [1, 1, 2, 4]
