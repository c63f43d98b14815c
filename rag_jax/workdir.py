"""The folder of a run: where each command finds what the earlier ones made."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rag_jax.config import default_config
from rag_jax.errors import UserError
from rag_jax.files import read_json, write_json
from rag_jax.validation import validate


class Workdir:
    """Paths below one folder, and the resolved configuration in it."""

    def __init__(self, folder: str | Path | None):
        if not folder:
            raise UserError("--workdir: missing, expected the folder of the run, as --workdir=runs/demo")
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.tokenizers = self.folder / "tokenizers"
        self.retriever = self.folder / "retriever"
        self.index = self.folder / "index"
        self.checkpoints = self.folder / "checkpoints"
        self.targets = self.folder / "targets.jsonl"
        self.parts = self.folder / "index_parts"  # of an index that is split over processes
        self.programs = self.folder / "programs"  # compiled once, loaded from then on

    def save_config(self, config: ConfigDict) -> None:
        """Writes the resolved configuration, for the commands that come later and for the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.config, json.loads(config.to_json_best_effort()))

    def load_config(self) -> ConfigDict:
        """The configuration that the run was trained with."""
        if not self.config.is_file():
            raise UserError(
                f"{self.folder}: holds no trained model (no {self.config.name}); run `python -m rag_jax.train` first"
            )
        return configuration(read_json(self.config), self.config)


def configuration(saved: Any, path: Path) -> ConfigDict:
    """The configuration saved as JSON; UserError naming the file for anything else."""
    config = default_config()
    try:
        config.update(saved)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a configuration ({error}); restore it or train again") from error
    validate(config)
    return config
