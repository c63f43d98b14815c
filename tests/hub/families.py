"""Folders of tiny random models of every family: as transformers writes them, and as older ones lie on the hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig

from ..models.oracle import Oracle, bart_config, dpr_config, randomise

POSITION_IDS = torch.arange(12)[None]
PROMPTS = {"prompts": {"query": "ask: ", "document": "read: "}, "default_prompt_name": None}
# Of facebook/dpr-question_encoder-single-nq-base's time.
OLD_DPR = {
    "architectures": ["DPRQuestionEncoder"], "attention_probs_dropout_prob": 0.0, "gradient_checkpointing": False,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 16, "initializer_range": 0.02,
    "intermediate_size": 24, "layer_norm_eps": 1e-12, "max_position_embeddings": 12, "model_type": "dpr",
    "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0, "position_embedding_type": "absolute",
    "projection_dim": 0, "type_vocab_size": 2, "vocab_size": 40,
}  # fmt: skip
# Of facebook/bart-large's.
OLD_BART = {
    "activation_dropout": 0.0, "activation_function": "gelu", "add_bias_logits": False, "add_final_layer_norm": False,
    "architectures": ["BartModel"], "attention_dropout": 0.0, "bos_token_id": 0, "classif_dropout": 0.1, "d_model": 16,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "decoder_layerdrop": 0.0, "decoder_layers": 3,
    "decoder_start_token_id": 2, "dropout": 0.0, "early_stopping": True, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "encoder_layerdrop": 0.0, "encoder_layers": 2, "eos_token_id": 2, "extra_pos_embeddings": 2,
    "forced_eos_token_id": 2, "init_std": 0.02, "is_encoder_decoder": True, "max_position_embeddings": 12,
    "model_type": "bart", "no_repeat_ngram_size": 3, "normalize_before": False, "normalize_embedding": True,
    "num_hidden_layers": 2, "output_past": False, "pad_token_id": 1, "prefix": None, "scale_embedding": False,
    "static_position_embeddings": False, "task_specific_params": {"summarization": {"num_beams": 4}},
    "vocab_size": 44,
}  # fmt: skip
# Whole models have one layer in every part, to be compiled quickly.
ONE_LAYER = {"encoder": {"layers": 1}, "generator": {"encoder_layers": 1, "decoder_layers": 1}}
# Of facebook/rag-token-nq's.
OLD_RAG = {
    "architectures": ["RagTokenForGeneration"], "bad_words_ids": [[0, 0]], "bos_token_id": None,
    "dataset": "wiki_dpr", "dataset_split": "train", "do_deduplication": True, "do_marginalize": False,
    "doc_sep": " // ", "early_stopping": False, "exclude_bos_score": False,
    "generator": OLD_BART | ONE_LAYER["generator"], "index_name": "exact", "is_encoder_decoder": True,
    "label_smoothing": 0.0, "max_combined_length": 300, "max_length": 50, "min_length": 1, "model_type": "rag",
    "n_docs": 5, "num_beams": 4, "num_return_sequences": 1, "question_encoder": OLD_DPR | {"num_hidden_layers": 1},
    "reduce_loss": False, "retrieval_batch_size": 8, "retrieval_vector_size": 768, "title_sep": " / ",
    "use_dummy_dataset": False,
}  # fmt: skip


class Encoder(NamedTuple):
    """An encoder's folder; embed(ids, mask) by the model whose tensors it holds; what our config should be."""

    folder: Path
    part: str
    model: torch.nn.Module
    embed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    config: BertConfig


class Generator(NamedTuple):
    """A generator's folder, and logits(source, mask, token) of the model whose tensors it holds."""

    folder: Path
    model: torch.nn.Module
    logits: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    config: BartConfig


def write_json(path: Path, value: Any) -> None:
    """A JSON file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_bin(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], zipped: bool = True) -> None:
    """A folder of before safetensors; not `zipped`: of before torch 1.6."""
    write_json(folder / "config.json", config)
    torch.save(dict(tensors), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


def bert_like(kind: str) -> torch.nn.Module:
    """A random BertModel, or BertFor..., of the oracle's sizes."""
    return randomise(getattr(transformers, kind)(transformers.BertConfig(**Oracle.bert_json())))


def dpr_question(folder: Path) -> Encoder:
    """facebook/dpr-question_encoder-*, written anew."""
    model = randomise(transformers.DPRQuestionEncoder(dpr_config()))
    model.save_pretrained(folder)
    return Encoder(folder, "question_encoder", model, lambda *x: model(*x)[0], Oracle.bert())


def dpr_passage(folder: Path) -> Encoder:
    """facebook/dpr-ctx_encoder-*, with a projection."""
    model = randomise(transformers.DPRContextEncoder(dpr_config(projection_dim=6)))
    model.save_pretrained(folder)
    return Encoder(folder, "passage_encoder", model, lambda *x: model(*x)[0], Oracle.bert(projection=6))


def dpr_old(folder: Path) -> Encoder:
    """With the buffer and the pooler that it had."""
    model = randomise(transformers.DPRQuestionEncoder(dpr_config()))
    bert = "question_encoder.bert_model."
    extra = {"embeddings.position_ids": POSITION_IDS, "pooler.dense.weight": torch.ones(16, 16)}
    write_bin(folder, OLD_DPR, model.state_dict() | {bert + name: value for name, value in extra.items()})
    return Encoder(folder, "question_encoder", model, lambda *x: model(*x)[0], Oracle.bert())


def bert(folder: Path) -> Encoder:
    """A BertModel with its pooler, in many shards."""
    model = bert_like("BertModel")
    model.save_pretrained(folder, max_shard_size="4KB")
    return Encoder(folder, "passage_encoder", model, lambda *x: model(*x)[0][:, 0], Oracle.bert())


def bert_masked(folder: Path) -> Encoder:
    """A BertForMaskedLM, as most continued trainings are saved."""
    model = bert_like("BertForMaskedLM")
    model.save_pretrained(folder)
    return Encoder(folder, "question_encoder", model, lambda *x: model.bert(*x)[0][:, 0], Oracle.bert())


def bert_old(folder: Path) -> Encoder:
    """bert-base-uncased as it was: gamma and beta, heads, torch's old format; and in two shards."""
    model = bert_like("BertForPreTraining")
    state = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    config = {key: value for key, value in OLD_DPR.items() if key not in ("projection_dim", "pad_token_id")}
    write_json(folder / "config.json", config | {"model_type": "bert", "architectures": ["BertForPreTraining"]})
    names, placed = sorted(state), {}
    for number, part in enumerate((names[:20], names[20:]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file, _use_new_zipfile_serialization=False)
        placed |= dict.fromkeys(part, file)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": placed})
    return Encoder(folder, "question_encoder", model, lambda *x: model.bert(*x)[0][:, 0], Oracle.bert())


def sentence_mean(folder: Path) -> Encoder:
    """sentence-transformers/all-MiniLM-L6-v2's layout, with prompts."""
    model = bert_like("BertModel")
    model.save_pretrained(folder)
    write_modules(folder, "", "Transformer", "Pooling", "Normalize")
    flags = dict.fromkeys(("cls_token", "max_tokens", "mean_sqrt_len_tokens"), False) | {"mean_tokens": True}
    flags = {f"pooling_mode_{name}": on for name, on in flags.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16} | flags)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 10, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", PROMPTS)

    def embed(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states, weight = model(ids, mask)[0], mask[:, :, None].float()
        return torch.nn.functional.normalize((states * weight).sum(dim=1) / weight.sum(dim=1), dim=1)

    text = {"question_prefix": "ask: ", "passage_prefix": "read: ", "title": "joined"}
    config = Oracle.bert(pooling="mean", normalize=True, **text)
    return Encoder(folder, "passage_encoder", model, embed, config)


def sentence_cls(folder: Path) -> Encoder:
    """The BERT in a folder of its own, pooling in the newer words, one prompt for all texts."""
    model = bert_like("BertModel")
    model.save_pretrained(folder / "0_Transformer")
    write_modules(folder, "0_Transformer", "Transformer", "Pooling")
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": "cls"})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"any": "x "}, "default_prompt_name": "any"})
    config = Oracle.bert(question_prefix="x ", passage_prefix="x ", title="joined")
    return Encoder(folder, "question_encoder", model, lambda *x: model(*x)[0][:, 0], config)


def write_modules(folder: Path, bert: str, *kinds: str) -> None:
    """modules.json; `bert` is the path of the first."""
    paths = [bert, *(f"{place}_{kind}" for place, kind in enumerate(kinds) if place)]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    write_json(folder / "modules.json", modules)


def bart(folder: Path) -> Generator:
    """BartForConditionalGeneration, as facebook/bart-large-cnn."""
    model = randomise(transformers.BartForConditionalGeneration(bart_config()))
    model.save_pretrained(folder)
    return Generator(folder, model, _logits_of(model), Oracle.bart())


def bart_base(folder: Path) -> Generator:
    """BartModel, as facebook/bart-base: no bias of the logits."""
    model = randomise(transformers.BartModel(bart_config()))
    model.save_pretrained(folder)

    def logits(source: torch.Tensor, mask: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        states = model(input_ids=source, attention_mask=mask, decoder_input_ids=token).last_hidden_state
        return states @ model.shared.weight.T

    return Generator(folder, model, logits, Oracle.bart())


def bart_old(folder: Path) -> Generator:
    """Every name of the shared table, a version in both halves, no bias of the logits."""
    model = randomise(transformers.BartForConditionalGeneration(bart_config()))
    model.final_logits_bias.zero_()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "final_logits_bias"}
    state |= {f"model.{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    write_bin(folder, OLD_BART, state)
    return Generator(folder, model, _logits_of(model), Oracle.bart())


def _logits_of(model: torch.nn.Module) -> Callable[..., torch.Tensor]:
    return lambda source, mask, token: model(input_ids=source, attention_mask=mask, decoder_input_ids=token).logits


def rag_models() -> dict[str, torch.nn.Module]:
    """RagTokenForGeneration and RagSequenceForGeneration with the same random weights."""
    parts = dpr_config(num_hidden_layers=1), bart_config(**ONE_LAYER["generator"])
    config = transformers.RagConfig.from_question_encoder_generator_configs(*parts)
    token = randomise(transformers.RagTokenForGeneration(config))
    sequence = transformers.RagSequenceForGeneration(config).eval()
    sequence.load_state_dict(token.state_dict())
    return {"token": token, "sequence": sequence}


def write_rag(folder: Path, models: dict[str, torch.nn.Module]) -> None:
    """The same weights in four layouts: token, sequence, bare and old."""
    for kind, model in models.items():
        model.save_pretrained(folder / kind)
    models["token"].rag.save_pretrained(folder / "bare")
    bert = "rag.question_encoder.question_encoder.bert_model."
    extra = {
        f"{bert}embeddings.position_ids": POSITION_IDS,
        f"{bert}pooler.dense.bias": torch.ones(16),
        "rag.ctx_encoder.ctx_encoder.bert_model.embeddings.LayerNorm.weight": torch.ones(16),
        "rag.generator.model.encoder.version": torch.tensor([3.0]),
    }
    write_bin(folder / "old", OLD_RAG, models["token"].state_dict() | extra, zipped=False)
    tokenizer = {"do_lower_case": True, "model_max_length": 512}
    write_json(folder / "old" / "question_encoder_tokenizer" / "tokenizer_config.json", tokenizer)
    write_json(folder / "old" / "generator_tokenizer" / "tokenizer_config.json", {"model_max_length": 1024})


ENCODERS = (
    dpr_question, dpr_passage, dpr_old, bert, bert_masked, bert_old, sentence_mean, sentence_cls,
)  # fmt: skip
GENERATORS = (bart, bart_base, bart_old)
