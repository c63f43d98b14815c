"""Cross-attention that begins as a copier: what lets a small generator learn to read within an hour of two cores.

To copy is to look for the place of the source whose token before is the one just written, and to write the token there.
A BERT's states hold all three, more or less linearly: the decoder's hold the token just written (the queries), the
encoder's hold the token before (the keys) and the token itself (the values). Ridge regression over passages finds them.
Tokens are compared by their whitened embeddings, turned at random so that each head sees some of every direction.
"""

import torch
from transformers import BartForConditionalGeneration

RIDGE, SHARPNESS, LOUDNESS = 10.0, 2.0, 100.0  # the last two: of the queries, of what is copied
AT_ONCE = 50  # passages


@torch.no_grad()
def start_as_copier(bart: BartForConditionalGeneration, ids_BT: torch.Tensor) -> None:
    """Sets the last decoder layer's cross-attention from passages; what would drown it out is zero at the start."""
    *earlier, last = bart.model.decoder.layers
    for linear in (*(layer.encoder_attn.out_proj for layer in earlier), last.fc2):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)

    before_BT = torch.cat([torch.full((len(ids_BT), 1), bart.config.decoder_start_token_id), ids_BT[:, :-1]], dim=1)
    there_BT = ids_BT != bart.config.pad_token_id
    encoder_ND, decoder_ND = states(bart, ids_BT, before_BT, there_BT)
    token_N, before_N = ids_BT[there_BT], before_BT[there_BT]

    centred_VD = bart.model.shared.weight - bart.model.shared.weight.mean(dim=0)
    width, seed = centred_VD.shape[1], torch.Generator().manual_seed(0)
    code_VD = whitened(centred_VD) @ rotation(width, seed)
    turn_DD = rotation(width, seed)  # which head carries which direction of a value

    attention = last.encoder_attn
    fit(attention.q_proj, decoder_ND, SHARPNESS * code_VD[before_N])
    fit(attention.k_proj, encoder_ND, code_VD[before_N])
    fit(attention.v_proj, encoder_ND, centred_VD[token_N] @ turn_DD)
    attention.out_proj.weight.copy_(LOUDNESS * turn_DD)
    attention.out_proj.bias.zero_()


def states(bart, ids_BT, before_BT, there_BT) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, D] of every token that is no padding: the encoder's, and what the last cross-attention is asked with."""
    asked, encoded = [], []
    attention = bart.model.decoder.layers[-1].encoder_attn
    hook = attention.register_forward_pre_hook(
        lambda _, args, named: asked.append(named.get("hidden_states", args[0] if args else None)), with_kwargs=True
    )
    for ids, before, there in zip(*(part.split(AT_ONCE) for part in (ids_BT, before_BT, there_BT)), strict=True):
        encoded.append(bart(ids, attention_mask=there, decoder_input_ids=before).encoder_last_hidden_state)
    hook.remove()
    return torch.cat(encoded)[there_BT], torch.cat(asked)[there_BT]


def fit(linear: torch.nn.Linear, from_ND: torch.Tensor, to_NE: torch.Tensor) -> None:
    """Ridge regression with a bias, into a layer."""
    ones_ND1 = torch.nn.functional.pad(from_ND, (0, 1), value=1.0)
    gram = ones_ND1.T @ ones_ND1 + RIDGE * torch.eye(ones_ND1.shape[1])
    found = torch.linalg.solve(gram, ones_ND1.T @ to_NE)
    linear.weight.copy_(found[:-1].T)
    linear.bias.copy_(found[-1])


def whitened(centred_VD: torch.Tensor) -> torch.Tensor:
    """The same in directions of unit variance that do not depend on one another."""
    _, sizes, directions = torch.linalg.svd(centred_VD, full_matrices=False)
    return centred_VD @ directions.T / (sizes / len(centred_VD) ** 0.5)


def rotation(width: int, seed: torch.Generator) -> torch.Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(width, width, generator=seed))[0]
