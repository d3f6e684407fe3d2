"""Nucleus sampling in which a row's words depend on that row alone.

transformers draws all rows of a batch from the process's one stream of chance: another batch size
would give other captions, and the host's own pictures would change. Gumbel's trick makes drawing
the largest of noised scores, so the decoder can go on as if it were greedy.
"""

import torch
from torch import Tensor


def keep_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """The likeliest words that together have probability `top_p`, others at -inf. scores: (B, V).

    Source: Holtzman et al. 2020, section 3.1. The likeliest word always stays.
    """
    ordered, order = scores.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    outside = (before >= top_p).scatter(-1, order, before >= top_p)
    return scores.masked_fill(outside, -torch.inf)


class NucleusNoise:
    """A logits processor: after it the largest score is a draw. One generator for each row."""

    def __init__(self, top_p: float, generators: list[torch.Generator]) -> None:
        self.top_p = top_p
        self.generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the protocol's
        """Take the nucleus and add standard Gumbel noise."""
        chance = [torch.rand(scores.shape[-1], generator=one) for one in self.generators]
        uniform = torch.stack(chance).to(scores.device).clamp(1e-20, 1 - 1e-7)
        return keep_nucleus(scores.float(), self.top_p) - (-uniform.log()).log()
