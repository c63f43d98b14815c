"""A BART that starts from a BERT: a generator for a real run where no pretrained BART is to be had.

    python -m tests.benchmarks.warm_start --bert=FOLDER --passages=FILE --out=FOLDER

As in "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks" (Rothe et al. 2020, arXiv 1907.12461), the
tokenizer, the embeddings and all layers of the encoder are the BERT's, whose layers are BART's, and the decoder takes
its first layers; cross-attention starts as the layer's self-attention, the last one as a copier.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import BartConfig, BartForConditionalGeneration, BertModel

from rag_jax.config import default_config
from rag_jax.data import tasks
from rag_jax.data.text import source_string
from rag_jax.data.tokenizer import Tokenizer, copy_files
from rag_jax.folders import build_folder
from tests.benchmarks.copier import start_as_copier

DECODER_LAYERS = 2
COPIED, LENGTH = 300, 128  # passages, and tokens of each, that the copier is fitted to


def warm_start(bert_folder: Path, passages: str, folder: Path) -> None:
    """Writes a Hugging Face folder of BART with its tokenizer."""
    data = default_config().data
    data.passages = passages
    texts = [source_string(passage.title, passage.text, "") for passage in tasks.passages(data)]
    build_folder(folder, lambda temporary: _write(bert_folder, texts, temporary))


def _write(bert_folder: Path, texts: list[str], folder: Path) -> None:
    copy_files(bert_folder, folder)
    bert, tokenizer = BertModel.from_pretrained(bert_folder), Tokenizer.load(folder)
    bart = empty_bart(bert.config, tokenizer)
    with torch.no_grad():
        bart.model.shared.weight.copy_(bert.embeddings.word_embeddings.weight)
        for side in (bart.model.encoder, bart.model.decoder):
            copy_side(bert, side)
    start_as_copier(bart.eval(), some_ids(texts, tokenizer))
    bart.save_pretrained(folder)


def empty_bart(bert, tokenizer: Tokenizer) -> BartForConditionalGeneration:
    """A BART of the BERT's width."""
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=tokenizer.vocab_size,
            d_model=bert.hidden_size,
            encoder_layers=bert.num_hidden_layers,
            decoder_layers=DECODER_LAYERS,
            encoder_attention_heads=bert.num_attention_heads,
            decoder_attention_heads=bert.num_attention_heads,
            encoder_ffn_dim=bert.intermediate_size,
            decoder_ffn_dim=bert.intermediate_size,
            max_position_embeddings=bert.max_position_embeddings,
            pad_token_id=tokenizer.pad_id,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=tokenizer.eos_id,
            decoder_start_token_id=tokenizer.eos_id,
            forced_eos_token_id=None,
        )
    )


def some_ids(texts: list[str], tokenizer: Tokenizer) -> torch.Tensor:
    """[B, T] of passages drawn at random, padded on the right."""
    picked = np.random.default_rng(0).choice(len(texts), min(COPIED, len(texts)), replace=False)
    ids = [tokenizer.encode(texts[at])[: LENGTH - 2] for at in picked]
    rows = [torch.tensor([tokenizer.bos_id, *row, tokenizer.eos_id]) for row in ids]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_id)


def copy_side(bert: BertModel, side) -> None:
    """The BERT's first layers, positions and first norm into one side of a BART."""
    table = bert.embeddings
    positions = table.position_embeddings.weight + table.token_type_embeddings.weight[0]
    side.embed_positions.weight[2:].copy_(positions)  # BART's table begins with two rows that no position uses
    side.layernorm_embedding.load_state_dict(table.LayerNorm.state_dict())
    for ours, theirs in zip(side.layers, bert.encoder.layer, strict=False):
        copy_attention(theirs.attention, ours.self_attn, ours.self_attn_layer_norm)
        if hasattr(ours, "encoder_attn"):
            copy_attention(theirs.attention, ours.encoder_attn, ours.encoder_attn_layer_norm)
        ours.fc1.load_state_dict(theirs.intermediate.dense.state_dict())
        ours.fc2.load_state_dict(theirs.output.dense.state_dict())
        ours.final_layer_norm.load_state_dict(theirs.output.LayerNorm.state_dict())


def copy_attention(theirs, ours, norm) -> None:
    """One attention with the norm behind it."""
    parts = {"q_proj": theirs.self.query, "k_proj": theirs.self.key, "v_proj": theirs.self.value}
    for name, part in (parts | {"out_proj": theirs.output.dense}).items():
        getattr(ours, name).load_state_dict(part.state_dict())
    norm.load_state_dict(theirs.output.LayerNorm.state_dict())


def main() -> None:
    """Reads the flags; writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert", type=Path, required=True, help="a folder of BERT or of a sentence encoder")
    parser.add_argument("--passages", required=True, help="a file or folder of passages, as data.passages")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    flags = parser.parse_args()
    if flags.out.exists():
        raise SystemExit(f"--out: {flags.out} is there; give the name of a new one")
    warm_start(flags.bert, flags.passages, flags.out)


if __name__ == "__main__":
    main()
