"""BART's tokenizer from what its authors published: GPT-2's files and fairseq's dictionary."""

import json
import shutil
from pathlib import Path


def bart_folder(data: Path, folder: Path) -> Path:
    """Writes vocab.json, in the order of the dictionary, and merges.txt; `data` holds vocab/gpt2_bart."""
    given = data / "vocab" / "gpt2_bart"
    of_id = {number: token for token, number in json.loads((given / "encoder.json").read_text()).items()}
    words = [line.split()[0] for line in (given / "dict.txt").read_text().splitlines()]
    named = [of_id[int(word)] if word.isdecimal() else word for word in words]
    folder.mkdir()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *named, "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    shutil.copy(given / "vocab.bpe", folder / "merges.txt")
    return folder
