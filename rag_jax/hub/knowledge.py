"""An index's passages and vectors as transformers' RagRetriever opens them; owns the packages datasets and faiss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.data.formats import Passage
from rag_jax.data.text import one_spaced, title_string
from rag_jax.errors import fail
from rag_jax.progress import blocks, waiting

DATASET, FAISS = "hf_dataset", "hf_dataset_index.faiss"  # as RagRetriever.save_pretrained calls them
ROWS = 4096  # read and written at once


def check_installed() -> None:
    """UserError where datasets or faiss is missing."""
    try:
        import datasets  # noqa: F401
        import faiss  # noqa: F401
    except ImportError as error:
        fail(
            f"--with_index: found no package {error.name!r}, expected datasets and faiss-cpu; install them with "
            "`pip install rag_jax[hub]`"
        )


def write_knowledge(folder: Path, vectors: Any, passages: Sequence[Passage]) -> None:
    """Writes the dataset (id, title, text, embeddings) and its exact inner-product index into a folder.

    vectors: N rows, with `shape` [N, E] and `read(start, stop)`. Titles and texts are those that the generator
    reads: single-spaced, a title without one quote at either end. faiss holds all vectors in memory.
    """
    import datasets
    import faiss
    from datasets.arrow_writer import ArrowWriter

    count, width = vectors.shape
    index = faiss.IndexFlatIP(width)
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("id", "title", "text")}
        | {"embeddings": datasets.List(datasets.Value("float32"), length=width)}
    )
    written = folder / f"{DATASET}.arrow"
    with ArrowWriter(path=str(written), features=features) as writer:
        for start in blocks(count, ROWS, folder / DATASET, "passages written"):
            stop = min(start + ROWS, count)
            rows = [passages[row] for row in range(start, stop)]
            vector_RE = np.ascontiguousarray(vectors.read(start, stop), np.float32)
            index.add(vector_RE)
            writer.write_batch(
                {
                    "id": [passage.id for passage in rows],
                    "title": [title_string(passage.title) for passage in rows],
                    "text": [one_spaced(passage.text) for passage in rows],
                    "embeddings": vector_RE,
                }
            )
        writer.finalize()
    datasets.disable_progress_bars()
    with waiting(f"{folder / DATASET}: being saved"):
        datasets.Dataset.from_file(str(written)).save_to_disk(folder / DATASET)
    written.unlink()
    with waiting(f"{folder / FAISS}: being saved"):
        faiss.write_index(index, str(folder / FAISS))
