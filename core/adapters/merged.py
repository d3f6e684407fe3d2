"""Small layers with their update added to the weight, for all layers of one shape at once.

Below some size a layer's arithmetic costs less than calling it. There the update x @ down @ up,
three more calls forward and five backward, is what makes a training slow. So the updated weights of
all layers with equal shapes are computed by one batched product, once after each change of the
factors; a layer's forward pass then is the base's own. The backward pass collects the gradients of
the updated weights, and one batched product turns them into those of the factors.

Computed in fp32 whatever the base's precision: a sum in half precision rounds small updates away.
The small weights are held three times more for that: as they are, updated, and their gradients;
10 MB each for the embedded model. They are taken when the network is attached: a base whose weights
change needs the network attached anew.

Shape suffixes: L layers, R rank, I inputs of a layer, O its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MERGED_NUMBERS, MERGED_WIDTH = 1 << 17, 128
"""Weights of up to so many numbers and so narrow on one side are merged (CPUs, rank 16).

For wider ones a weight's gradient is more arithmetic than the thin products are.
"""


class Bank(NamedTuple):
    """Layers with factors of equal shapes: their paths, and all factors as two views."""

    paths: tuple[str, ...]
    down_LRI: Tensor  # noqa: N815
    up_LOR: Tensor  # noqa: N815


_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def can_merge(base: nn.Module) -> bool:
    """Whether this layer is merged: small, on the CPU, a linear layer or a 1x1 convolution."""
    weight = base.weight
    if not isinstance(weight, Tensor) or weight.device.type != "cpu":
        return False
    if weight.dtype not in _DTYPES:
        return False
    if weight.numel() > MERGED_NUMBERS or min(weight.shape[:2]) > MERGED_WIDTH:
        return False
    if isinstance(base, nn.Conv2d):
        return base.kernel_size == base.stride == (1, 1) and base.padding == (0, 0)
    return isinstance(base, nn.Linear)


class MergedBank:
    """The updated weights of layers with equal shapes.

    version: tells whether the factors have changed. While `collects` is set, the weights are
    autograd's leaves, and `settle` turns their gradients into those of the factors. As long as
    `epoch` stays, so do the tensors that `weight` and `span` give, with ever new numbers.
    memory: for what users of these weights make of them, emptied when the epoch ends.
    """

    def __init__(self, bank: Bank, bases: Sequence[nn.Module], version: Callable[[], int]) -> None:
        self._down_LRI, self._up_LOR = bank.down_LRI.flatten(2), bank.up_LOR.flatten(2)
        weights = [base.get_parameter("weight").detach().flatten(1).float() for base in bases]
        self._bases_LOI = torch.stack(weights)
        self._version, self._stamp = version, -1
        self._multipliers = torch.ones(len(bases), 1, 1)
        self._common: float | None = 1.0  # the multiplier of all layers, where they have one
        self._weights_LOI = self._up_LOR.new_empty(
            len(bases), self._up_LOR.shape[1], self._down_LRI.shape[2]
        )
        self._gradients_LOI: Tensor | None = None
        self._leaves = [self._leaf(index, 1) for index in range(len(bases))]
        self._spans: dict[tuple[int, int], Tensor] = {}
        self.epoch, self.memory = object(), dict[Any, dict[Any, Any]]()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weights_LOI.device

    @property
    def collects(self) -> bool:
        """Whether gradients of the weights are wanted."""
        return self._gradients_LOI is not None

    @collects.setter
    def collects(self, wanted: bool) -> None:
        self._gradients_LOI = torch.zeros_like(self._weights_LOI) if wanted else None
        self._spans.clear()
        self._leaves = [self._leaf(index, 1) for index in range(len(self._bases_LOI))]
        self.epoch, self.memory = object(), {}

    def set_multipliers(self, multipliers: Sequence[float]) -> None:
        """Set scale * strength of each layer.

        In training they must be the same in the forward pass, its backward pass and `settle`; a
        preview in between puts them back.
        """
        chosen = torch.tensor(multipliers).view(-1, 1, 1)
        if torch.equal(chosen, self._multipliers):
            return
        self._multipliers = chosen
        self._common = multipliers[0] if len(set(multipliers)) == 1 else None
        self._stamp = -1
        self.epoch, self.memory = object(), {}

    def weight(self, index: int) -> Tensor:
        """The updated weight (O, I) of a layer, fp32."""
        self.refresh()
        return self._leaves[index]

    def plain(self, index: int) -> Tensor:
        """The updated weight (O, I) of a layer, as the last `refresh` or a later one makes it."""
        return self._weights_LOI.detach()[index]

    def span(self, index: int, count: int) -> Tensor:
        """The updated weights of `count` layers one below the other, (count * O, I), fp32."""
        self.refresh()
        if (index, count) not in self._spans:
            self._spans[index, count] = self._leaf(index, count)
        return self._spans[index, count]

    def _leaf(self, index: int, count: int) -> Tensor:
        """Weights as a leaf of autograd, its gradient's place beside it where it is collected."""
        leaf = self._weights_LOI.detach()[index : index + count].flatten(0, 1)
        if self._gradients_LOI is not None:
            gradient = self._gradients_LOI[index : index + count].flatten(0, 1)
            leaf.requires_grad_(True).grad = gradient
        return leaf

    def refresh(self) -> None:
        """Compute the updated weights where factors or multipliers have changed."""
        if self._stamp != (version := self._version()):
            up_LOR, factor = self._up_LOR, self._common  # noqa: N806
            if factor is None:
                up_LOR, factor = up_LOR * self._multipliers, 1.0  # noqa: N806
            torch.baddbmm(
                self._bases_LOI, up_LOR, self._down_LRI, alpha=factor, out=self._weights_LOI
            )
            self._stamp = version

    def settle(self, gradients: Bank) -> None:
        """Add the factors' gradients to `gradients`, and forget those of the weights."""
        if self._gradients_LOI is None:
            return
        scaled, factor = self._gradients_LOI, self._common
        if factor is None:
            scaled, factor = scaled.mul_(self._multipliers), 1.0
        down_LIR, up_LRO = self._down_LRI.transpose(1, 2), self._up_LOR.transpose(1, 2)  # noqa: N806
        gradients.up_LOR.flatten(2).baddbmm_(scaled, down_LIR, alpha=factor)
        gradients.down_LRI.flatten(2).baddbmm_(up_LRO, scaled, alpha=factor)
        scaled.zero_()

    def renew(self) -> None:
        """Compute the weights anew at their next use, and drop gradients that were not settled.

        Fused optimizers write to the factors without telling their version.
        """
        self._stamp = -1
        if self._gradients_LOI is not None:
            self._gradients_LOI.zero_()


def rows(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T in x's dtype, computed in fp32."""
    return F.linear(x.float(), weight).to(x.dtype)


def linear(x: Tensor, base: nn.Linear | nn.Conv2d, bank: MergedBank, index: int) -> Tensor:
    """Return the adapted layer's output; x: (..., I), result (..., O), in x's dtype."""
    return F.linear(x.float(), bank.weight(index), _exact(base.bias)).to(x.dtype)


def convolution(x: Tensor, base: nn.Conv2d, bank: MergedBank, index: int) -> Tensor:
    """Return the adapted 1x1 convolution's output; x: (B, I, height, width), in x's dtype.

    In training computed as a linear layer over the positions, whose gradients are cheaper.
    """
    if not torch.is_grad_enabled():
        weight = bank.weight(index)[..., None, None]
        return F.conv2d(x.float(), weight, _exact(base.bias)).to(x.dtype)
    positions = linear(x.flatten(2).transpose(1, 2), base, bank, index)
    return positions.transpose(1, 2).unflatten(2, x.shape[2:])


def _exact(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float()
