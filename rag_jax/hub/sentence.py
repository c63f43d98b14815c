"""Folders of sentence encoders, as the sentence-transformers library writes them: a BERT, a pooling, prompts."""

from pathlib import Path
from typing import Any, NamedTuple

from rag_jax.errors import UserError
from rag_jax.files import inside, read_json, read_object

MODULES = ["Transformer", "Pooling", "Normalize"]  # the last may be absent
# Pooling's names in its own 'pooling_mode', and as flags in older folders.
POOLINGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
QUESTION_PROMPTS, PASSAGE_PROMPTS = ("query",), ("document", "passage", "corpus")


class Sentence(NamedTuple):
    """What a folder says of its encoder; folder: where its BERT lies. length: most tokens of a text, 0 if not told."""

    folder: Path
    pooling: str
    normalize: bool
    question_prefix: str
    passage_prefix: str
    length: int


def read_sentence(folder: Path) -> Sentence | None:
    """A sentence encoder's settings, None for a folder of another kind.

    Raises UserError naming a module, a pooling or a setting that our encoder cannot express.
    """
    path = folder / "modules.json"
    if not path.exists():
        return None
    modules = _modules(path)
    bert, pooler = (inside(folder, module["path"], path) for module in modules[:2])
    question, passage = _prefixes(folder / "config_sentence_transformers.json")
    pooling = _pooling(pooler / "config.json", prompted=bool(question or passage))
    limits = _object_or_nothing(bert / "sentence_bert_config.json")
    _check_case(bert, limits)
    return Sentence(bert, pooling, len(modules) == 3, question, passage, limits.get("max_seq_length") or 0)


def _modules(path: Path) -> list[dict[str, Any]]:
    modules = read_json(path)
    listed = modules if isinstance(modules, list) else [None]
    if not all(isinstance(m, dict) and isinstance(m.get("type"), str) and "path" in m for m in listed):
        raise UserError(f"{path}: found no list of modules with a type and a path; restore the file")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    for place, kind in enumerate(kinds):
        if place >= len(MODULES) or kind != MODULES[place]:
            found = " ".join(f"{kind} ({modules[place]['path']})".split())
            raise UserError(
                f"{path}: module {place} is {found}, expected {', '.join(MODULES)} in this order; an encoder with "
                "other modules is not built here"
            )
    if len(kinds) < 2:
        raise UserError(f"{path}: found no Pooling after the Transformer, expected one; restore the file")
    return modules


def _pooling(path: Path, *, prompted: bool) -> str:
    config = read_object(path)
    modes = config.get("pooling_mode")
    if modes is None:
        names = {flag: mode for mode, flag in POOLINGS.items()}
        modes = [names.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or str(modes[0]) not in POOLINGS:
        found = " ".join(" and ".join(map(str, modes)).split()) or "none"
        raise UserError(f"{path}: pooling is {found}, expected {' or '.join(POOLINGS)}; others are not built here")
    if prompted and modes[0] == "mean" and config.get("include_prompt") is False:
        raise UserError(f"{path}: include_prompt is false, expected true; a mean without the prompt is not built here")
    return modes[0]


def _prefixes(path: Path) -> tuple[str, str]:
    """What stands before questions and before passages: the prompts of their names, else the default one."""
    config = _object_or_nothing(path)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise UserError(f"{path}: prompts are {prompts!r}, expected an object of strings; restore the file")
    default = prompts.get(str(config.get("default_prompt_name"))) or ""

    def prompt(names: tuple[str, ...]) -> str:
        return next((prompts[name] or "" for name in names if name in prompts), default)

    return prompt(QUESTION_PROMPTS), prompt(PASSAGE_PROMPTS)


def _check_case(bert: Path, limits: dict[str, Any]) -> None:
    """sentence-transformers can lower-case before the tokenizer; ours leaves that to the tokenizer."""
    cased = _object_or_nothing(bert / "tokenizer_config.json").get("do_lower_case") is False
    if limits.get("do_lower_case") and cased:
        raise UserError(
            f"{bert / 'sentence_bert_config.json'}: do_lower_case is true beside a tokenizer that keeps capitals; "
            "set do_lower_case in tokenizer_config.json and in tokenizer.json's normalizer"
        )


def _object_or_nothing(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}
