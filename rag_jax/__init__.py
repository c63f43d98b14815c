"""Retrieval-augmented generation (Lewis et al. 2020) in JAX and Flax; `from rag_jax import Rag` for notebooks."""

__version__ = "0.1.0"
__all__ = ["Answer", "Document", "Rag"]


def __getattr__(name: str):
    """Loads the interface on first use, so that nothing touches jax before flags are read."""
    if name in __all__:
        from rag_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'rag_jax' has no attribute {name!r}")
