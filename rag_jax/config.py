"""The schema of a configuration: every key with its default, and what is wrong with the values of one."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rag_jax.errors import UserError

STAGES = ("denoise", "reader", "joint")


def default_config() -> ConfigDict:
    """Every key there is; a configuration file starts from this and changes what it must. Letters are DESIGN's axes."""
    return ConfigDict(
        {
            "seed": 0,
            "kind": "token",  # 'token' (RAG-Token) or 'sequence' (RAG-Sequence)
            "data": {
                "passages": "",  # .jsonl or DPR .tsv, also .gz; 'demo:2016' is the embedded corpus
                "train": "",  # .jsonl of {question, answers}; 'demo:train'
                "valid": "",
                "test": "",
                "target_layout": "generation",  # '</s> <s> a b'; or 'huggingface_finetune', '<s> a b </s>'
                "truncation": "keep_question",  # shorten the passage; 'huggingface' cuts on the right
            },
            "length": {
                "question": 32,
                "passage": 128,
                "source": 160,
                "target": 24,
            },  # tokens: Q, the encoder's passage, S, T
            "tokenizer": {  # a Hugging Face folder, or '' to train one of that size on the passages
                "encoder": "",
                "generator": "",
                "encoder_vocab": 4000,
                "generator_vocab": 2000,
            },
            "encoder": {
                "width": 768,
                "layers": 12,
                "heads": 12,
                "ffn": 3072,
                "positions": 512,
                "dropout": 0.1,
                "attention_dropout": 0.1,
                "init_std": 0.02,
                "projection": 0,
                "pooling": "cls",
                "normalize": False,
                "dtype": "float32",
                "remat": "none",
            },
            "generator": {
                "width": 1024,
                "encoder_layers": 12,
                "decoder_layers": 12,
                "heads": 16,
                "ffn": 4096,
                "positions": 1024,
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
                "score_scale": 1.0,  # score = scale * <query, document>: 1 for DPR, about 20 for normalised encoders
                "lag": 1,  # 1: encode the next questions before this batch's update, so that search overlaps; 0: after
            },
            "denoise": _stage(),  # the generator alone repairs passages with holes (BART's text infilling)
            "reader": _stage(),  # reader warm-up: question encoder frozen, answers substituted
            "joint": _stage(),  # question encoder and generator together: the paper's training
            "decode": {"max_length": 24},
            "evaluate": {"batch": 64, "every": 500, "questions": 200, "recall": (1, 5)},
            "hot_swap": {"questions": ("", ""), "passages": ("", "")},
        }
    )


def _stage() -> dict:
    return {
        "steps": 0,
        "batch": 64,
        "k": 5,
        "learning_rate": 3e-5,
        "warmup": 100,
        "weight_decay": 0.01,
        "clip": 1.0,
        "accumulation": 1,
        "label_smoothing": 0.0,
        "substitution": 0.0,  # share of the questions whose answer becomes a made-up name in passages and target
        "train_question_encoder": True,  # False stops the gradient through the document prior
    }


def validate(config: ConfigDict) -> None:
    """Raises one UserError that lists every problem of the configuration; touches no device."""
    problems = list(_problems(config))
    if problems:
        raise UserError("\n       ".join(f"config.{problem}" for problem in problems))


def _problems(config: ConfigDict) -> Iterator[str]:
    for key, choices in {
        "kind": ("token", "sequence"),
        "data.target_layout": ("generation", "huggingface_finetune"),
        "data.truncation": ("keep_question", "huggingface"),
        "encoder.pooling": ("cls", "mean"),
        "encoder.dtype": ("float32", "bfloat16"),
        "generator.dtype": ("float32", "bfloat16"),
        "encoder.remat": ("none", "full", "dots"),
        "generator.remat": ("none", "full", "dots"),
        "generator.position_init": ("normal", "sinusoidal"),
        "index.kind": ("scann", "exact"),
        "index.dtype": ("float32", "bfloat16"),
        "retrieval.lag": (0, 1),
    }.items():
        found = _get(config, key)
        if found not in choices:
            yield f"{key}: found {found!r}, expected one of {', '.join(map(str, choices))}"
    if not config.data.passages:
        yield "data.passages: empty, expected a .jsonl or .tsv file of passages, or 'demo:2016'"
    for part in ("encoder", "generator"):
        if config[part].width % config[part].heads:
            width, heads = config[part].width, config[part].heads
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
    for key in (
        "retrieval.k",
        "retrieval.score_scale",
        "retriever.batch",
        "evaluate.batch",
        "evaluate.every",
        "index.batch",
    ):
        if _get(config, key) <= 0:
            yield f"{key}: found {_get(config, key)}, expected more than 0"
    for stage in STAGES:
        yield from _stage_problems(stage, config[stage])


def _stage_problems(name: str, stage: ConfigDict) -> Iterator[str]:
    if stage.steps < 0:
        yield f"{name}.steps: found {stage.steps}, expected 0 or more"
    for key in ("batch", "k", "accumulation"):
        if stage[key] < 1:
            yield f"{name}.{key}: found {stage[key]}, expected 1 or more"
    if stage.batch % max(stage.accumulation, 1):
        yield f"{name}.batch: found {stage.batch}, expected a multiple of {name}.accumulation = {stage.accumulation}"
    if stage.learning_rate <= 0:
        yield f"{name}.learning_rate: found {stage.learning_rate}, expected more than 0"
    for key in ("substitution", "label_smoothing"):
        if not 0 <= stage[key] < 1 and not (key == "substitution" and stage[key] == 1):
            yield f"{name}.{key}: found {stage[key]}, expected 0 to 1"


def _get(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config
