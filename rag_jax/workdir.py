"""The folder of a run: where each command finds what the earlier ones made."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rag_jax.config import default_config
from rag_jax.errors import UserError, said_by
from rag_jax.files import read_sealed, write_sealed
from rag_jax.storage import publish, pull, shown, twin
from rag_jax.validation import validate


def _part(name: str) -> cached_property:
    return cached_property(lambda place: pull(place.folder / name))


class Workdir:
    """Paths below one folder, and the resolved configuration in it.

    The folder of a remote run, as gs://bucket/runs/demo, is its twin; a part is brought up to date when it is first
    asked for.
    """

    config = _part("config.json")
    tokenizers = _part("tokenizers")
    retriever = _part("retriever")
    retriever_metrics = _part("retriever_metrics.jsonl")
    index = _part("index")
    checkpoints = _part("checkpoints")
    targets = _part("targets.jsonl")
    metrics = _part("metrics.jsonl")
    validation = _part("validation.jsonl")

    def __init__(self, folder: str | Path | None):
        if not folder:
            raise UserError("--workdir: missing, expected the folder of the run, as --workdir=runs/demo")
        self.folder = twin(folder)
        self.parts = self.folder / "index_parts"  # of an index that is split over processes
        self.programs = self.folder / "programs"  # compiled once, loaded from then on

    def save_config(self, config: ConfigDict) -> None:
        """Writes the resolved configuration, for the commands that come later and for the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_sealed(self.config, json.loads(config.to_json_best_effort()))
        publish(self.config)

    def load_config(self) -> ConfigDict:
        """The configuration that the run was trained with."""
        if not self.config.is_file():
            raise UserError(
                f"{shown(self.folder)}: holds no trained model (no {self.config.name}); "
                "run `python -m rag_jax.train` first"
            )
        return configuration(read_sealed(self.config), self.config)


def configuration(saved: Any, path: Path) -> ConfigDict:
    """The configuration saved as JSON; UserError naming the file for anything else."""
    config = default_config()
    try:
        config.update(saved)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a configuration ({said}); restore it or train again") from error
    with said_by(path):
        validate(config)
    return config
