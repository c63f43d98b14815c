"""transformers' generation, watched: how close were the candidates of which it preferred one to another?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers

BOS, PAD, EOS = 0, 1, 2
TIE = 1e-5
IMPOSSIBLE = -1e8  # transformers adds -1e9 to what may not be chosen


class Closeness:
    """The smallest distance seen between two candidates whose order matters."""

    def __init__(self):
        self.gap = np.inf

    def between(self, better: torch.Tensor, worse: torch.Tensor, matters: torch.Tensor | bool = True) -> None:
        """Sees pairs of scores; what was impossible anyway does not compete."""
        gap = (better - worse)[(better > IMPOSSIBLE) & (worse > IMPOSSIBLE) & matters]
        if gap.numel():
            self.gap = min(self.gap, gap.min().item())

    def boundary(self, score: torch.Tensor, count: int, matters: torch.Tensor) -> None:
        """Sees the last of the `count` best of each row and the first that is left out."""
        best = score.topk(count + 1, dim=-1)[0]
        self.between(best[:, -2, None], best[:, -1, None], matters)

    def order(self, score: torch.Tensor, count: int) -> None:
        """Sees the `count` best of each row, whose order matters, and the first that is left out."""
        best = score.topk(min(count + 1, score.shape[-1]), dim=-1)[0]
        self.between(best[..., :-1], best[..., 1:])


class Watched:
    """A generation mixin that shows its beam search's choices to `closeness`."""

    closeness: Closeness
    open_B1: torch.Tensor  # questions whose answers may still change
    ranked_BM: torch.Tensor  # the scores of the finished hypotheses

    def _get_top_k_continuations(self, *, accumulated_log_probs, running_sequences, cur_len, num_beams, **settings):
        if cur_len == settings["decoder_prompt_len"]:
            self.open_B1 = torch.ones((len(accumulated_log_probs), 1), dtype=torch.bool)
        # Each beam has one way to end, so one more than twice the beams holds one more than the beams that go on.
        score, place = accumulated_log_probs.topk(2 * num_beams + 1)
        ends = place % (accumulated_log_probs.shape[-1] // num_beams) == EOS
        ends = ends | (cur_len + 1 == running_sequences.shape[-1])
        self.closeness.boundary(torch.where(ends, -1e9, score), num_beams, self.open_B1)
        # Only the best `num_beams`, endings among them or not, may end.
        self.closeness.between(score[:, :num_beams], score[:, num_beams, None], ends[:, :num_beams] & self.open_B1)
        self.closeness.between(score[:, num_beams - 1, None], score[:, num_beams:], ends[:, num_beams:] & self.open_B1)
        return super()._get_top_k_continuations(
            accumulated_log_probs=accumulated_log_probs,
            running_sequences=running_sequences,
            cur_len=cur_len,
            num_beams=num_beams,
            **settings,
        )

    def _update_finished_beams(self, **settings):
        running, finished = settings["topk_log_probs"], settings["beam_scores"]
        length = settings["cur_len"] + 1 - settings["decoder_prompt_len"]
        ends = settings["next_token_hits_stopping_criteria"] & settings["top_num_beam_mask"][None, :]
        ended = torch.where(ends, running / length ** settings["length_penalty"], -1e9)
        self.closeness.boundary(torch.cat((finished, ended), dim=1), settings["num_beams"], self.open_B1)
        chosen = super()._update_finished_beams(**settings)
        self.ranked_BM, full_B1 = chosen[1], chosen[3].all(dim=1, keepdim=True)
        self.open_B1 = self.open_B1 & ~(full_B1 & (settings["early_stopping"] is True))
        return chosen

    def _check_early_stop_heuristic(self, *, running_beam_scores, **settings):
        above, as_is, below = (
            super(Watched, self)._check_early_stop_heuristic(
                running_beam_scores=running_beam_scores + shift, **settings
            )
            for shift in (TIE, 0.0, -TIE)
        )
        if (self.open_B1 & (above != below)).any():
            self.closeness.gap = 0.0
        self.open_B1 = self.open_B1 & as_is
        return as_is


class WatchedBart(Watched, transformers.BartForConditionalGeneration):
    """RAG-Sequence's proposer; the order of its proposals does not matter."""


class WatchedToken(Watched, transformers.RagTokenForGeneration):
    """RAG-Token."""


class WatchedSequence(transformers.RagSequenceForGeneration):
    """RAG-Sequence, which ranks `returned` of the proposals."""

    closeness: Closeness
    returned: int

    def forward(self, *args, **settings):
        output = super().forward(*args, **settings)
        self.closeness.order(-output.loss, self.returned)
        return output


class WatchedChoice(transformers.LogitsProcessor):
    """Sees the scores that a greedy search is about to take the best of."""

    def __init__(self, closeness: Closeness):
        self.closeness = closeness

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        open_R = ~(input_ids[:, 1:] == EOS).any(dim=1)
        if open_R.any():
            self.closeness.order(scores[open_R], 1)
        return scores


class _Wide:
    """torch, but who asks it for float32 gets float64."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def wide_generation() -> Iterator[None]:
    """transformers' search narrows a float64 model's logits and its own scores to float32, unless in here."""
    module = transformers.generation.utils
    module.torch = _Wide()
    try:
        yield
    finally:
        module.torch = torch
