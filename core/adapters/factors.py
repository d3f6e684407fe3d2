"""Where all factors of a network lie: one flat tensor for each part, and views into it.

Hundreds of small tensors cost an optimizer more in calls than in arithmetic. Here the factors of a
part are one tensor to it, with one gradient beside it, while every layer has its own two views.
Layers whose factors have equal shapes lie side by side, so that one batched product serves all of
them (`merged.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .lora import LoRAWeights
from .merged import Bank


class LayerFactors(NamedTuple):
    """One layer's factors, as views of the flat tensor of its part."""

    down: nn.Parameter
    up: nn.Parameter


class FlatFactors:
    """The factors of one part on one device, fp32.

    values: all numbers, as the one tensor that an optimizer sees. layers: each layer's views, by
    path. banks: the same numbers by shape.
    """

    def __init__(self, factors: Mapping[str, LoRAWeights]) -> None:
        by_shape: dict[tuple[torch.Size, torch.Size], list[str]] = {}
        for path, (down, up) in factors.items():
            by_shape.setdefault((down.shape, up.shape), []).append(path)
        device = next(iter(factors.values())).down_RI.device
        count = sum(down.numel() + up.numel() for down, up in factors.values())
        self.values = nn.Parameter(torch.empty(count, device=device))
        self._flat = self.values.detach()
        self.banks = tuple(self._cut(self._flat, by_shape))
        self.layers: dict[str, LayerFactors] = {}
        for bank in self.banks:
            for index, path in enumerate(bank.paths):
                down, up = bank.down_LRI[index], bank.up_LOR[index]
                down.copy_(factors[path].down_RI)
                up.copy_(factors[path].up_OR)
                self.layers[path] = LayerFactors(nn.Parameter(down), nn.Parameter(up))
        self._shapes = by_shape

    @property
    def version(self) -> int:
        """A number that changes when a factor is written to, but by a fused optimizer."""
        return self._flat._version  # noqa: SLF001  (torch has no public name for it)

    def hold_gradients(self) -> list[Bank]:
        """Give `values` a gradient of zeros, and each layer its views of it; those by bank."""
        gradient = torch.zeros_like(self._flat)
        self.values.grad = gradient
        banks = list(self._cut(gradient, self._shapes))
        for bank in banks:
            for index, path in enumerate(bank.paths):
                self.layers[path].down.grad = bank.down_LRI[index]
                self.layers[path].up.grad = bank.up_LOR[index]
        return banks

    def drop_gradients(self) -> None:
        """Take all gradients away."""
        self.values.grad = None
        for down, up in self.layers.values():
            down.grad = up.grad = None

    @staticmethod
    def _cut(
        flat: Tensor, by_shape: Mapping[tuple[torch.Size, torch.Size], list[str]]
    ) -> Iterator[Bank]:
        start = 0
        for (down, up), paths in by_shape.items():
            views = []
            for shape in (down, up):
                length = len(paths) * shape.numel()
                views.append(flat[start : start + length].view(len(paths), *shape))
                start += length
            yield Bank(tuple(paths), *views)
