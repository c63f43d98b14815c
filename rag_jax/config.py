"""The schema of a configuration: every key with its default, and what is wrong with the values of one."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from ml_collections import ConfigDict

from rag_jax.errors import UserError

STAGES = ("denoise", "reader", "joint")
CHOICES = {
    "kind": ("token", "sequence"),
    "data.target_layout": ("generation", "huggingface_finetune"),
    "data.truncation": ("keep_question", "huggingface"),
    "data.question_text": ("", "raw", "round_trip", "round_trip_clean"),
    "encoder.pooling": ("cls", "mean"),
    "encoder.title": ("pair", "joined"),
    "encoder.dtype": ("float32", "bfloat16"),
    "generator.dtype": ("float32", "bfloat16"),
    "encoder.remat": ("none", "full", "dots"),
    "generator.remat": ("none", "full", "dots"),
    "generator.position_init": ("normal", "sinusoidal"),
    "decode.mode": ("", "search", "sample", "thorough", "fast"),
    "decode.early_stopping": ("False", "True", "never"),
    "decode.compat": ("", "huggingface"),
    "index.kind": ("scann", "exact"),
    "index.dtype": ("float32", "bfloat16"),
    "retrieval.lag": (0, 1),
}
# What a number may be, by the last part of its key; all others are 1 or more.
SHARES = ("inverse_cloze", "substitution")
LOSSES = ("dropout", "attention_dropout", "activation_dropout", "label_smoothing")
MORE_THAN_0 = ("init_std", "norm_eps", "learning_rate", "clip", "temperature")
FROM_0 = (
    "seed", "score_scale", "projection", "warmup", "weight_decay", "hard_negatives", "lag", "depth", "min_length",
    "overlap", "top_k", "no_repeat_ngram_size", "vocab_size",
)  # fmt: skip
FROM_MINUS_1 = ("forced_bos_id", "forced_eos_id", "start_id")
ANY = ("length_penalty",)
KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a tuple",
    ConfigDict: "a group of keys",
}


def _stage() -> dict:
    return {
        "steps": 0,
        "batch": 64,
        "k": 5,
        "depth": 0,  # n: of the n best passages, those that hold the answer are read first (distant supervision)
        "learning_rate": 3e-5,
        "warmup": 100,
        "weight_decay": 0.01,
        "clip": 1.0,
        "accumulation": 1,
        "label_smoothing": 0.0,
        "substitution": 0.0,  # share of the questions whose answer becomes a made-up name in passages and target
        "train_question_encoder": True,  # False stops the gradient through the document prior
    }


DEFAULTS = {
    "seed": 0,
    "kind": "token",  # 'token' (RAG-Token) or 'sequence' (RAG-Sequence)
    # Where training starts; each a folder or a hub name, and sizes, prefixes and tokenizers come with it.
    "init_from": "",  # a run of this package, or a Hugging Face RAG model
    "parts": {  # or these, where there is no init_from
        "question_encoder": "",  # DPR, BERT or a sentence encoder
        "passage_encoder": "",  # of another encoder than that; needs retriever.shared = False
        "generator": "",  # BART
    },
    "data": {
        # A file or a folder: .jsonl, .tsv (DPR's too), .csv, .txt or .md, also with .gz; .parquet, .arrow, or what
        # `datasets` saved; 'demo:2016' is the embedded corpus.
        "passages": "",
        "words": 100,  # .txt and .md become passages of so many words
        "overlap": 0,  # so many of them shared with the passage before
        "minimum": 1,  # a rest of fewer new words at a file's end joins the passage before it
        "skip_bad": False,  # True leaves malformed lines out, says which and counts them
        "train": "",  # .jsonl of {question, answers}; 'demo:train'
        "valid": "",
        "test": "",
        "target_layout": "generation",  # '</s> <s> a b'; or 'huggingface_finetune', '<s> a b </s>'
        "truncation": "keep_question",  # shorten the passage; 'huggingface' cuts on the right
        # The question as the generator reads it: 'raw'; or as the encoder's tokens say it, lower-cased, which is what
        # transformers' models were trained on: 'round_trip_clean' ("who's", version 4) or 'round_trip' ("who ' s",
        # version 5). '': what init_from was trained on, or else 'raw'.
        "question_text": "",
    },
    "length": {
        "question": 32,
        "passage": 128,
        "source": 160,
        "target": 24,
    },  # tokens: Q, the encoder's passage, S, T
    "tokenizer": {  # a Hugging Face folder or hub name, or '' to train one of that size on the passages
        "encoder": "",
        "generator": "",
        "encoder_vocab": 4000,
        "generator_vocab": 2000,
    },
    "encoder": {
        "vocab_size": 0,  # rows of the token table; 0: as many as the tokenizer has tokens
        "width": 768,
        "layers": 12,
        "heads": 12,
        "ffn": 3072,
        "positions": 512,
        "type_vocab": 2,
        "norm_eps": 1e-12,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "init_std": 0.02,
        "projection": 0,
        "pooling": "cls",
        "normalize": False,
        "question_prefix": "",  # what a sentence encoder was trained to see before a question, as 'query: '
        "passage_prefix": "",
        "title": "pair",  # '[CLS] title [SEP] text [SEP]', as in DPR; 'joined': '[CLS] title text [SEP]'
        "dtype": "float32",
        "remat": "none",
    },
    "generator": {
        "vocab_size": 0,
        "width": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "heads": 16,
        "ffn": 4096,
        "positions": 1024,
        "scale_embedding": False,
        "start_id": -1,  # id that the decoder starts with; -1: of `</s>`
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": 0.02,
        "position_init": "normal",
        "dtype": "float32",
        "remat": "none",
    },
    "retriever": {  # train_retriever: DPR's in-batch softmax
        "steps": 1000,
        "batch": 128,
        "learning_rate": 1e-3,
        "warmup": 100,
        "weight_decay": 0.0,
        "clip": 2.0,
        "inverse_cloze": 0.0,  # share of a batch that asks with a sentence span instead of a question (ORQA)
        "hard_negatives": 0,  # passages per question that share words with it but not the answer
        "shared": True,  # one encoder for questions and passages
    },
    "index": {"kind": "scann", "batch": 256, "shard": 65536, "dtype": "float32"},
    "retrieval": {
        "k": 5,
        "score_scale": 0.0,  # score = scale * <query, document>; 0 stands for 1, as in DPR, or 20 if encoder.normalize
        "learn_score_scale": False,  # learned from there, by train_retriever and with the question encoder
        "lag": 1,  # 1: encode the next questions before this batch's update, so that search overlaps; 0: after
    },
    "denoise": _stage(),  # the generator alone repairs passages with holes (BART's text infilling)
    "reader": _stage(),  # reader warm-up: question encoder frozen, answers substituted
    "joint": _stage(),  # question encoder and generator together: the paper's training
    "decode": {  # see decode.generate.DecodeConfig; n documents are read: retrieval.k, or the k of a call
        "mode": "",  # kind 'token': 'search' or 'sample'; 'sequence': 'thorough' or 'fast'; '': the first of them
        "beams": 1,  # 1: greedy
        "num_return_sequences": 1,  # answers to every question
        "max_length": 24,  # tokens, `<s>` and `</s>` counted
        "min_length": 0,  # tokens before `</s>`
        "length_penalty": 1.0,
        "early_stopping": "False",  # or 'True' or 'never'
        "forced_bos_id": -1,  # id of the first token; -1: none
        "forced_eos_id": -1,  # id of the token at max_length
        "bad_words": ("",),  # words and phrases never said
        "bad_words_ids": ("",),  # the same as token ids, such as "0 0"
        "no_repeat_ngram_size": 0,  # no sequence of so many tokens twice
        "temperature": 1.0,
        "top_k": 0,  # 0: all
        "top_p": 1.0,
        "seed": 0,
        "compat": "",  # 'huggingface': transformers' tokens, mistakes included
    },
    "evaluate": {"batch": 64, "every": 500, "questions": 200, "recall": (1, 5)},
    "hot_swap": {"questions": ("", "")},  # two editions of the answers to the same questions
}


def default_config() -> ConfigDict:
    """Every key there is; a configuration file starts from this and changes what it must. Letters are DESIGN's axes."""
    return ConfigDict(DEFAULTS)


def score_scale(config: ConfigDict) -> float:
    """The factor on inner products: scores of normalised embeddings differ by hundredths, a flat prior without one."""
    return config.retrieval.score_scale or (20.0 if config.encoder.normalize else 1.0)


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
            problems.append(f"{key}: unknown, {hint}")
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
            yield f"{key}: missing, expected a value like {default!r}"
        elif type(found[key]) is not type(default):
            yield f"{key}: found {found[key]!r}, expected {KINDS[type(default)]}"
        elif isinstance(default, tuple) and {type(item) for item in found[key]} - {type(default[0])}:
            yield f"{key}: found {found[key]!r}, expected {KINDS[type(default[0])]} at every place"


def _problems(config: ConfigDict) -> Iterator[str]:
    for key, choices in CHOICES.items():
        found = _get(config, key)
        if found not in choices:
            yield f"{key}: found {found!r}, expected one of {', '.join(map(str, choices))}"
    if not config.data.passages:
        yield "data.passages: empty, expected a file or folder of passages, or 'demo:2016'"
    if not config.data.overlap < config.data.words:
        yield f"data.overlap: found {config.data.overlap}, expected less than data.words = {config.data.words}"
    for key, value in _items(config):
        if not isinstance(value, ConfigDict | str):
            yield from _range_problems(key, value)
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
    for name in STAGES:
        batch, parts = config[name].batch, config[name].accumulation
        if parts > 0 and batch % parts:
            yield f"{name}.batch: found {batch}, expected a multiple of {name}.accumulation = {parts}"
    if config.parts.passage_encoder and config.retriever.shared:
        yield "retriever.shared: found True, expected False with parts.passage_encoder, a second encoder"
    if len(config.hot_swap.questions) != 2:
        yield f"hot_swap.questions: found {config.hot_swap.questions!r}, expected two files, one an edition"


def _decode_problems(config: ConfigDict) -> Iterator[str]:
    """What is wrong with decode.* taken together."""
    decode, of_token = config.decode, config.kind == "token"
    fitting = ("search", "sample") if of_token else ("thorough", "fast")
    if decode.mode in CHOICES["decode.mode"][1:] and decode.mode not in fitting:
        yield f"decode.mode: found {decode.mode!r}, expected {' or '.join(fitting)} with kind = {config.kind!r}"
    if decode.min_length > decode.max_length:
        yield f"decode.min_length: found {decode.min_length}, expected at most decode.max_length = {decode.max_length}"
    candidates = decode.beams * (1 if of_token else config.retrieval.k)
    if decode.mode != "sample" and decode.num_return_sequences > candidates > 0:
        beams = "decode.beams" if of_token else "decode.beams * retrieval.k"
        found = decode.num_return_sequences
        yield f"decode.num_return_sequences: found {found}, expected at most {beams} = {candidates}"
    for words in decode.bad_words_ids:
        if not all(word.isdecimal() for word in words.split()):
            yield f"decode.bad_words_ids: found {words!r}, expected token ids with spaces between, as '0 0'"
    if decode.mode == "sample" and decode.beams != 1:
        yield f"decode.beams: found {decode.beams}, expected 1 with decode.mode = 'sample'"


def _range_problems(key: str, value: Any) -> Iterator[str]:
    """What is wrong with a number, or with one of several."""
    group, _, name = key.rpartition(".")
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, str | bool):
            continue
        if name in ANY:
            right, expected = True, "any"
        elif name == "top_p":
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
