"""What is wrong with the values of a configuration, all of it at once, before a device is touched."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from ml_collections import ConfigDict

from rag_jax.config import STAGES, closed_book, default_config
from rag_jax.errors import UserError, printable

CHOICES = {
    "parallel": ("pmap", "sharded"),
    "kind": ("token", "sequence"),
    "data.task": tuple("qa nq triviaqa webquestions curatedtrec msmarco jeopardy fever3 fever2 squad kilt".split()),
    "data.classify": ("", "token", "head"),
    "data.target_layout": ("generation", "huggingface_finetune"),
    "data.truncation": ("keep_question", "huggingface"),
    "data.question_text": ("", "raw", "round_trip", "round_trip_clean"),
    "encoder.pooling": ("cls", "mean"),
    "encoder.title": ("pair", "joined", "sentence"),
    "encoder.dtype": ("float32", "bfloat16"),
    "generator.dtype": ("float32", "bfloat16"),
    "encoder.remat": ("none", "full", "dots"),
    "generator.remat": ("none", "full", "dots"),
    "generator.position_init": ("normal", "sinusoidal"),
    "decode.mode": ("", "search", "sample", "thorough", "fast"),
    "decode.early_stopping": ("False", "True", "never"),
    "decode.compat": ("", "huggingface"),
    "index.kind": ("scann", "exact", "bm25", "hybrid", "none"),
    "index.scann.method": ("", "brute_force", "tree"),
    "index.scann.reorder_dtype": ("", "int8"),
    "index.bm25.method": ("lucene", "robertson", "atire", "bm25l", "bm25+"),
    "index.bm25.tokenizer": ("english", "words"),
    "index.dtype": ("float32", "bfloat16"),
    "retrieval.lag": (0, 1),
    "retrieval.null_document": ("none", "embedding", "bias", "network"),
}
LABELLED = ("fever3", "fever2")
# What a number may be, by the last part of its key; all others are 1 or more.
SHARES = ("inverse_cloze", "substitution", "b")
LOSSES = ("dropout", "attention_dropout", "activation_dropout", "label_smoothing")
FROM_ABOVE_0_TO_1 = ("top_p", "recall_target")
MORE_THAN_0 = ("init_std", "norm_eps", "learning_rate", "clip", "temperature", "k1")
FROM_0 = (
    "seed", "score_scale", "projection", "warmup", "weight_decay", "hard_negatives", "lag", "depth", "min_length",
    "overlap", "top_k", "no_repeat_ngram_size", "vocab_size", "leaves", "leaves_to_search", "training_sample",
    "block_width", "anisotropy", "reorder",
)  # fmt: skip
FROM_MINUS_1 = ("forced_bos_id", "forced_eos_id", "start_id")
ANY = ("length_penalty",)
LARGEST = 2**31 - 1
DIGITS = 9  # of a token's id at most
KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a tuple",
    ConfigDict: "a group of keys",
}


def validate(config: ConfigDict) -> None:
    """Raises one UserError that lists every problem of the configuration; touches no device."""
    problems = unknown_keys(key for key, _ in _items(config))
    wrong = [*_wrong_types(config)]
    problems += wrong or [*_problems(config)]
    if problems:
        raise UserError("\n       ".join(f"config.{problem}" for problem in problems))


def unknown_keys(keys: Iterable[str]) -> list[str]:
    """What to say about each dotted key that no configuration has: the nearest that there is, or its neighbours."""
    known = [key for key, _ in _items(default_config())]
    problems = []
    for key in keys:
        if key not in known:
            group, _, last = key.rpartition(".")
            beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
            near = [beside[name] for name in get_close_matches(last, beside, n=1)]
            near = near or get_close_matches(key, known, n=1, cutoff=0.85)
            near = near or [name for name in known if name.endswith(f".{last}")]
            others = ", ".join(beside.values() or default_config())
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {others}"
            problems.append(f"{printable(key)}: unknown, {hint}")
    return problems


def _items(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield prefix + key, value
        if isinstance(value, ConfigDict):
            yield from _items(value, f"{prefix}{key}.")


def _wrong_types(config: ConfigDict) -> Iterator[str]:
    found = dict(_items(config))
    for key, default in _items(default_config()):
        if key not in found:
            yield f"{key}: missing, expected a value like {_shown(default)}"
        elif type(found[key]) is not type(default):
            yield f"{key}: found {_shown(found[key])}, expected {KINDS[type(default)]}"
        elif isinstance(default, tuple) and {type(item) for item in found[key]} - {type(default[0])}:
            yield f"{key}: found {found[key]!r}, expected {KINDS[type(default[0])]} at every place"


def _shown(value: Any) -> str:
    """A value in one line."""
    return KINDS[ConfigDict] if isinstance(value, ConfigDict) else repr(value)


def _problems(config: ConfigDict) -> Iterator[str]:
    for key, choices in CHOICES.items():
        found = _get(config, key)
        if found not in choices:
            yield f"{key}: found {found!r}, expected one of {', '.join(map(str, choices))}"
    if not config.data.passages and not _needs_no_passages(config):
        yield "data.passages: empty, expected a file or folder of passages, or 'demo:2016'"
    if not config.data.overlap < config.data.words:
        yield f"data.overlap: found {config.data.overlap}, expected less than data.words = {config.data.words}"
    for key, default in _items(default_config()):  # what else there is, is unknown
        if not isinstance(default, ConfigDict | str):
            yield from _range_problems(key, _get(config, key))
    for part in ("encoder", "generator"):
        width, heads = config[part].width, config[part].heads
        if heads > 0 and width % heads:
            yield f"{part}.width: found {width}, expected a multiple of {part}.heads = {heads}"
    for key, limit in {
        "length.question": "encoder.positions",
        "length.passage": "encoder.positions",
        "length.source": "generator.positions",
        "length.target": "generator.positions",
        "decode.max_length": "generator.positions",
    }.items():
        if not 4 <= _get(config, key) <= _get(config, limit):
            yield f"{key}: found {_get(config, key)}, expected 4 to {limit} = {_get(config, limit)}"
    yield from _decode_problems(config)
    yield from _label_problems(config) if config.data.classify else ()
    yield from _index_problems(config)
    for name in STAGES:
        batch, parts = config[name].batch, config[name].accumulation
        if parts > 0 and batch % parts:
            yield f"{name}.batch: found {batch}, expected a multiple of {name}.accumulation = {parts}"
    if config.parts.passage_encoder and config.retriever.shared:
        yield "retriever.shared: found True, expected False with parts.passage_encoder, a second encoder"
    if len(config.hot_swap.questions) != 2:
        yield f"hot_swap.questions: found {config.hot_swap.questions!r}, expected two files, one an edition"


def _needs_no_passages(config: ConfigDict) -> bool:
    """Whether this is a closed book whose tokenizer comes from elsewhere."""
    return closed_book(config) and bool(config.tokenizer.generator or config.parts.generator or config.init_from)


def _index_problems(config: ConfigDict) -> Iterator[str]:
    """What does not go with index.kind."""
    kind = config.index.kind
    if kind != "exact" and config.index.recall_target != 1:
        yield f"index.recall_target: found {config.index.recall_target}, expected 1.0 but for index.kind = 'exact'"
    if kind not in ("scann", "exact") and config.index.split:
        yield "index.split: found True, expected False but for index.kind = 'scann' or 'exact'"
    stages = [name for name in STAGES if config[name].steps > 0]
    right: dict[str, tuple[Any, ...]] = {}
    if kind in ("bm25", "none"):
        right |= {f"{name}.train_question_encoder": (False,) for name in stages}
    elif (null := config.retrieval.null_document) != "none":
        reading = [config[name].train_question_encoder for name in stages if name != "denoise"]
        if reading and not any(reading):
            expected = "expected a stage that trains the question encoder, and it beside"
            yield f"retrieval.null_document: found {null!r}, {expected}"
    if kind == "bm25":  # the others read the question's embedding
        right["retrieval.null_document"] = ("none", "bias")
    if kind == "none":
        right |= {f"{name}.{key}": (0,) for name in stages for key in ("depth", "substitution")}
        right |= {"denoise.steps": (0,), "retrieval.null_document": ("none",), "retrieval.learn_score_scale": (False,)}
        right["data.question_text"] = ("", "raw")
        right |= {f"parts.{encoder}": ("",) for encoder in ("question_encoder", "passage_encoder")}
    for key, values in right.items():
        if (found := _get(config, key)) not in values and found in CHOICES.get(key, (found,)):
            yield f"{key}: found {found!r}, expected {' or '.join(map(repr, values))} with index.kind = {kind!r}"


def _decode_problems(config: ConfigDict) -> Iterator[str]:
    """What is wrong with decode.* taken together."""
    decode, of_token = config.decode, config.kind == "token"
    fitting = ("search", "sample") if of_token else ("thorough", "fast")
    if decode.mode in CHOICES["decode.mode"][1:] and decode.mode not in fitting:
        yield f"decode.mode: found {decode.mode!r}, expected {' or '.join(fitting)} with kind = {config.kind!r}"
    if decode.min_length > decode.max_length:
        yield f"decode.min_length: found {decode.min_length}, expected at most decode.max_length = {decode.max_length}"
    null = config.retrieval.null_document != "none"
    of_one = of_token or closed_book(config)
    candidates = decode.beams * (1 if of_one else config.retrieval.k + null)
    if decode.mode != "sample" and decode.num_return_sequences > candidates > 0:
        documents = "(retrieval.k + 1)" if null else "retrieval.k"
        beams = "decode.beams" if of_one else f"decode.beams * {documents}"
        found = decode.num_return_sequences
        yield f"decode.num_return_sequences: found {found}, expected at most {beams} = {candidates}"
    for words in decode.bad_words_ids:
        if not all(word.isdecimal() and len(word) <= DIGITS for word in words.split()):
            yield f"decode.bad_words_ids: found {words!r}, expected token ids with spaces between, as '0 0'"
    if decode.mode == "sample" and decode.beams != 1:
        yield f"decode.beams: found {decode.beams}, expected 1 with decode.mode = 'sample'"


def _label_problems(config: ConfigDict) -> Iterator[str]:
    """What is wrong with telling labels in place of answers."""
    if config.data.task not in LABELLED:
        expected = "expected '' but for data.task = " + " or ".join(map(repr, LABELLED))
        yield f"data.classify: found {config.data.classify!r}, {expected}"
    if config.data.target_layout != "generation":
        yield f"data.target_layout: found {config.data.target_layout!r}, expected 'generation' with data.classify"
    for name in STAGES:
        for key in ("depth", "substitution"):
            if config[name][key]:
                expected = "expected 0 with data.classify: no passage holds a label"
                yield f"{name}.{key}: found {config[name][key]}, {expected}"


def _range_problems(key: str, value: Any) -> Iterator[str]:
    """What is wrong with a number, or with one of several."""
    group, _, name = key.rpartition(".")
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, str | bool):
            continue
        if not abs(number) <= LARGEST:  # nor NaN
            right, expected = False, f"a number of at most {LARGEST:,}"
        elif name in ANY:
            right, expected = True, "any"
        elif name in FROM_ABOVE_0_TO_1:
            right, expected = 0 < number <= 1, "more than 0, at most 1"
        elif name in FROM_MINUS_1:
            right, expected = number >= -1, "-1 (none) or more"
        elif name in SHARES:
            right, expected = 0 <= number <= 1, "0 to 1"
        elif name in LOSSES:
            right, expected = 0 <= number < 1, "0 to below 1"
        elif name in MORE_THAN_0:
            right, expected = number > 0, "more than 0"
        elif name in FROM_0 or (name == "steps" and group in STAGES):
            right, expected = number >= 0, "0 or more"
        else:
            right, expected = number >= 1, "1 or more"
        if not right:
            yield f"{key}: found {value!r}, expected {expected}"


def _get(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config
