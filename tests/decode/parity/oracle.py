"""What transformers answers to a case, how near a tie its choices were, and whether the case is worth asking."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from .cases import Case
from .watch import BOS, EOS, PAD, TIE, Closeness, WatchedChoice, wide_generation
from .worlds import Models, World


class Answers(NamedTuple):
    """token_BNT in our layout (no start token, pads up to T), and the smallest distance between competitors."""

    token_BNT: np.ndarray
    gap: float


@cache
def models(world: World) -> Models:
    """Both sides' models of a world."""
    return Models(world)


@cache
def answers(case: Case) -> Answers:
    """The tokens are float32's; the gap is float64's, and between the two only a tie may change a token."""
    token_BNT = _generate(case, models(case.world).plain)
    watched, closeness = models(case.world).watched, Closeness()
    for model in watched.values():
        model.closeness, model.returned = closeness, case.shape.N
    processors = transformers.LogitsProcessorList([WatchedChoice(closeness)] if case.shape.M == 1 else [])
    with wide_generation():
        wide_BNT = _generate(case, watched, processors)
    if case.shape.kind == "token" and case.shape.M > 1:
        closeness.order(watched["token"].ranked_BM, case.shape.N)
    assert closeness.gap < TIE or np.array_equal(token_BNT, wide_BNT), "the gap overlooks a choice"
    return Answers(token_BNT, closeness.gap)


def settings(case: Case) -> dict[str, Any]:
    """Every generation setting, in their words; their lengths count the start token."""
    options, world = dict(case.options), case.world
    return {
        "do_sample": options.get("mode") == "sample",
        "temperature": options.get("temperature", 1.0),
        "top_k": options.get("top_k", 0),
        "top_p": options.get("top_p", 1.0),
        "num_beams": case.shape.M,
        "num_return_sequences": case.shape.N,
        "max_length": case.shape.T + 1,
        "min_length": options["min_length"] + 1,
        "length_penalty": options["length_penalty"],
        "early_stopping": options["early_stopping"],
        "forced_bos_token_id": options["forced_bos_id"],
        "forced_eos_token_id": options["forced_eos_id"],
        "bad_words_ids": [list(word) for word in options["bad_words"]] or None,
        "no_repeat_ngram_size": options["no_repeat_ngram_size"],
        "decoder_start_token_id": world.start_id,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
    }


def contexts(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What transformers' generate wants instead of a retriever."""
    source_BKS, score_BK = case.arrays()
    source_RS = torch.tensor(source_BKS.reshape(-1, source_BKS.shape[-1])).long()
    return {
        "context_input_ids": source_RS,
        "context_attention_mask": (source_RS != 1).long(),
        "doc_scores": torch.tensor(score_BK, dtype=dtype),
    }


@torch.no_grad()
def _generate(case: Case, of_world: dict[str, Any], processors: Any = None) -> np.ndarray:
    shape, model = case.shape, of_world[case.shape.kind]
    inputs = contexts(case, next(model.parameters()).dtype) | settings(case)
    if shape.kind == "sequence":
        inputs["do_deduplication"] = True
        model.config.n_docs = shape.K  # the rescoring knows no other
    output_RT = model.generate(
        **inputs, n_docs=shape.K, logits_processor=processors or transformers.LogitsProcessorList()
    )
    output_RT = output_RT.numpy()
    assert (output_RT[:, 0] == case.world.start_id).all()
    output_RT = np.pad(output_RT[:, 1:], ((0, 0), (0, shape.T + 1 - output_RT.shape[1])), constant_values=1)
    return output_RT.reshape(-1, shape.N, shape.T).astype(np.int32)


@torch.no_grad()
def sampled(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that transformers drew, token_BT, and the probabilities it drew them from, [T, B, V]; T its longest."""
    torch.manual_seed(case.number)
    output = (
        models(case.world)
        .plain["token"]
        .generate(
            **contexts(case, torch.float32),
            **settings(case),
            n_docs=case.shape.K,
            output_scores=True,
            return_dict_in_generate=True,
        )
    )
    return output.sequences[:, 1:].numpy(), torch.stack(output.scores).softmax(dim=-1).numpy()


class Traits(NamedTuple):
    """Of each question: an answer ends early; documents would start differently; beams find what greed does not."""

    ends_B: np.ndarray
    disagree_B: np.ndarray
    searches_B: np.ndarray


def traits(case: Case) -> Traits:
    """By transformers alone."""
    shape, token_BNT = case.shape, answers(case).token_BNT
    greedy = replace(case, shape=replace(shape, M=1, N=1))
    greedy_BT = _generate(greedy, models(case.world).plain)[:, 0]
    first_BK = _first(case).reshape(-1, shape.K)
    return Traits(
        ends_B=(token_BNT[:, :, :-1] == EOS).any(axis=(1, 2)),
        disagree_B=(first_BK != first_BK[:, :1]).any(axis=1),
        searches_B=(token_BNT[:, 0] != greedy_BT).any(axis=1),
    )


@torch.no_grad()
def _first(case: Case) -> np.ndarray:
    """The token each document alone would start with [R]."""
    source = contexts(case, torch.float32)
    start_R1 = torch.full((len(source["context_input_ids"]), 1), case.world.start_id)
    logits_R1V = (
        models(case.world)
        .plain["bart"](
            input_ids=source["context_input_ids"],
            attention_mask=source["context_attention_mask"],
            decoder_input_ids=start_R1,
        )
        .logits
    )
    return logits_R1V[:, 0].argmax(dim=-1).numpy()
