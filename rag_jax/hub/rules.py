"""Where each of our parameters lives in a transformers checkpoint: a table, read forwards and backwards.

A row with `ours` None names tensors that an import drops. `{i}` in `theirs` is the layer: our array stacks
all layers on its first axis. A prefix is put before every name, so that one table serves a bare model and its
place inside a larger one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rule:
    """One row.

    ours: path in our parameters, '/' between keys; None for tensors to drop. theirs: the name written, and
    read first; in rows to drop, a '*' stands for anything. aliases: other names of the same tensor (ties, old
    spellings); any may stand in for it, or beside it if equal. transform: 'same', 'transpose' (a matrix,
    [out, in] there) or 'row' (a vector, [1, V] there). absent_is_zero: a checkpoint without it means zeros.
    """

    ours: str | None
    theirs: str
    transform: str = "same"
    aliases: tuple[str, ...] = ()
    absent_is_zero: bool = False


def _dense(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/kernel", f"{theirs}.weight", "transpose"), Rule(f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Rule]:
    # Checkpoints converted from TensorFlow, bert-base-uncased among them, say gamma and beta.
    return [
        Rule(f"{ours}/scale", f"{theirs}.weight", aliases=(f"{theirs}.gamma",)),
        Rule(f"{ours}/bias", f"{theirs}.bias", aliases=(f"{theirs}.beta",)),
    ]


def _bert_body() -> list[Rule]:
    layer = "encoder.layer.{i}"
    rows = [
        Rule("embeddings/token", "embeddings.word_embeddings.weight"),
        Rule("embeddings/position", "embeddings.position_embeddings.weight"),
        Rule("embeddings/type", "embeddings.token_type_embeddings.weight"),
        *_norm("embeddings/norm", "embeddings.LayerNorm"),
    ]
    for name in ("query", "key", "value"):
        rows += _dense(f"layers/self_attention/{name}", f"{layer}.attention.self.{name}")
    rows += _dense("layers/self_attention/out", f"{layer}.attention.output.dense")
    rows += _norm("layers/self_attention_norm", f"{layer}.attention.output.LayerNorm")
    rows += _dense("layers/feed_forward/up", f"{layer}.intermediate.dense")
    rows += _dense("layers/feed_forward/down", f"{layer}.output.dense")
    rows += _norm("layers/feed_forward/norm", f"{layer}.output.LayerNorm")
    dropped = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.*")
    return rows + [Rule(None, name) for name in dropped]


def _bart_side(side: str, body: str) -> list[Rule]:
    layer = f"{body}{side}.layers.{{i}}"
    rows = [
        Rule(f"{side}/placement/position", f"{body}{side}.embed_positions.weight"),
        *_norm(f"{side}/placement/norm", f"{body}{side}.layernorm_embedding"),
    ]
    attentions = {"self_attention": "self_attn"}
    if side == "decoder":
        attentions["cross_attention"] = "encoder_attn"
    for ours, theirs in attentions.items():
        for name, initial in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            rows += _dense(f"{side}/layers/{ours}/{name}", f"{layer}.{theirs}.{initial}_proj")
        rows += _norm(f"{side}/layers/{ours}_norm", f"{layer}.{theirs}_layer_norm")
    rows += _dense(f"{side}/layers/feed_forward/up", f"{layer}.fc1")
    rows += _dense(f"{side}/layers/feed_forward/down", f"{layer}.fc2")
    return rows + _norm(f"{side}/layers/feed_forward/norm", f"{layer}.final_layer_norm")


def placed(rows: Iterable[Rule], *, ours: str = "", theirs: str = "") -> tuple[Rule, ...]:
    """Returns the rows with a prefix before our paths and before their names."""
    return tuple(
        replace(
            row,
            ours=None if row.ours is None else ours + row.ours,
            theirs=theirs + row.theirs,
            aliases=tuple(theirs + alias for alias in row.aliases),
        )
        for row in rows
    )


def bert(prefix: str = "", projection: str = "encode_proj", drop: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Rows of BertEncoder.

    prefix: what stands before 'embeddings.': '' (BertModel, sentence encoders) or 'bert.' (BertFor...).
    projection: the whole name of DPR's dense layer after pooling. drop: whole names of further tensors to
    drop, such as 'cls.*'.
    """
    rows = placed(_bert_body(), theirs=prefix)
    return (*rows, *_dense("projection", projection), *(Rule(None, name) for name in drop))


def dpr(part: str, prefix: str = "") -> tuple[Rule, ...]:
    """Rows of BertEncoder inside a DPR checkpoint; part: 'question_encoder' or 'ctx_encoder'."""
    return bert(f"{prefix}{part}.bert_model.", f"{prefix}{part}.encode_proj")


def bart(prefix: str = "", body: str = "model.") -> tuple[Rule, ...]:
    """Rows of Bart.

    prefix: what stands before 'final_logits_bias'. body: what follows it before 'shared.weight': 'model.'
    (BartForConditionalGeneration) or '' (BartModel, which facebook/bart-base is saved as).
    """
    ties = (f"{body}encoder.embed_tokens.weight", f"{body}decoder.embed_tokens.weight", "lm_head.weight")
    rows = [
        Rule("shared/embedding", f"{body}shared.weight", aliases=ties),
        Rule("final_logits_bias", "final_logits_bias", "row", absent_is_zero=True),
        *_bart_side("encoder", body),
        *_bart_side("decoder", body),
        *(Rule(None, f"{body}{side}.version") for side in ("encoder", "decoder")),
    ]
    return placed(rows, theirs=prefix)


def rag(prefix: str = "rag.") -> tuple[Rule, ...]:
    """Rows of {'question_encoder', 'generator'}, for RagTokenForGeneration and RagSequenceForGeneration.

    prefix: '' for a bare RagModel. A passage encoder saved by end-to-end training is dropped: it belongs to the
    index.
    """
    return (
        *placed(dpr("question_encoder", f"{prefix}question_encoder."), ours="question_encoder/"),
        *placed(bart(f"{prefix}generator."), ours="generator/"),
        Rule(None, f"{prefix}ctx_encoder.*"),
    )
