"""What each block of a network does, without drawing a picture.

Two answers. How large a block's weights are: the Frobenius norm of its deltas, and that beside the
norm of the base's weights. And how much of the U-Net's output it changes: noisy latents go through
the model with the whole network, without it, and for each block with that one alone and with that
one missing: 2 x blocks + 2 passes, each as dear as half a sampling step with guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..adapters.applied import AppliedNetwork
from ..adapters.block_weights import BlockWeights
from ..adapters.blocks import BASE, block_of
from ..adapters.live import LiveNetwork
from ..adapters.lora import AdapterWeights
from ..adapters.network import Network
from ..adapters.targets import find_layers
from ..diffusion.schedule import add_noise, scaled_linear
from ..errors import ConfigError
from ..events import OnEvent, PhaseProgress, PhaseStarted, StopFlag, ignore, never
from ..models.base_model import BaseModel
from ..models.text import Condition, TextOptions
from ..randomness import generator
from .cells import attached
from .sampling import LATENT_CHANNELS, LATENT_STRIDE, together

PHASE = "analysis"
_MOST_SAMPLES = 256
_PIXELS_AT_ONCE = 4 * 512 * 512
_TIMESTEPS = 1000
_ROUNDING = 1e-5  # of an output's norm: a change that small is the arithmetic's


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """On what a network is measured.

    samples: noisy latents, their timesteps spread evenly. prompts: what they are said to show, in
    turn; pictures of a dataset bring their captions. text: how these are read.
    """

    samples: int = 8
    prompts: tuple[str, ...] = ("",)
    seed: int = 1
    text: TextOptions = field(default_factory=TextOptions)

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= _MOST_SAMPLES:
            raise ConfigError(f"samples is {self.samples}; it must be 1 to {_MOST_SAMPLES}")
        if not self.prompts:
            raise ConfigError("prompts is empty; give at least one, which may be an empty text")


class Clean(NamedTuple):
    """What latents are made noisy: (N, 4, h, w), fp32, and what each shows."""

    latents: Tensor
    captions: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMeasure:
    """One block of a network.

    layers: how many it adapts. norm: of all their deltas together; relative: that beside the norm
    of the base's own weights there. weight_share: of the square of the whole network's norm, in
    [0, 1]. share: of the change of the U-Net's output that this block brings, the mean of what it
    does alone and of what is lost without it, both along the whole network's change; the shares of
    all blocks add up to about 1. alone, without: how far the output moves when the block is the
    only one and when it is the missing one, the whole network's change being 1.
    """

    block: str
    layers: int
    norm: float
    relative: float
    weight_share: float
    share: float
    alone: float
    without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """A network's blocks in the order of a vector. passes: of the U-Net. samples: measured on."""

    blocks: tuple[BlockMeasure, ...]
    passes: int
    samples: int

    def ranked(self) -> tuple[BlockMeasure, ...]:
        """The blocks by their share of the output's change, the largest first."""
        return tuple(sorted(self.blocks, key=lambda found: -found.share))


def measure_blocks(
    base: BaseModel,
    network: LiveNetwork,
    request: MeasureRequest,
    clean: Clean | None = None,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> Measures | None:
    """Measure every block of a network; None where it was stopped.

    clean: latents of pictures with their captions; without them random ones are used, with the
    request's prompts. The network's strengths, and where it was attached, are put back.
    """
    blocks = network.blocks()
    passes = 2 * len(blocks) + 2
    on_event(PhaseStarted(name=PHASE, total=passes))
    with network.suspended(base.parts):
        norms = _norms(base, network)
    outputs = _Outputs(base, network, _samples(base, request, clean), request.text)
    effects: dict[str, _Effect] = {}
    with attached(base, network, network), torch.no_grad():
        whole, none = outputs.with_blocks(blocks), outputs.with_blocks(())
        for index, block in enumerate(blocks):
            if stop():
                return None
            on_event(PhaseProgress(name=PHASE, done=2 + 2 * index, total=passes))
            without = outputs.with_blocks([other for other in blocks if other != block])
            effects[block] = _effect(none, whole, outputs.with_blocks([block]), without)
    on_event(PhaseProgress(name=PHASE, done=passes, total=passes))
    total = sum(norms[block].delta ** 2 for block in blocks) or 1.0
    return Measures(
        blocks=tuple(
            BlockMeasure(
                block=block,
                layers=norms[block].layers,
                norm=norms[block].delta,
                relative=norms[block].delta / norms[block].base if norms[block].base else 0.0,
                weight_share=norms[block].delta ** 2 / total,
                **effects[block]._asdict(),
            )
            for block in blocks
        ),
        passes=passes,
        samples=request.samples,
    )


def delta_norm(weights: AdapterWeights) -> float:
    """Frobenius norm of scale * up @ down, by the factors' own products: R x R instead of O x I."""
    down, up = (factor.detach().double().flatten(1) for factor in weights.lora)
    square = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(weights.scale) * math.sqrt(max(square, 0.0))


class _Norm(NamedTuple):
    layers: int
    delta: float
    base: float


def _norms(base: BaseModel, network: LiveNetwork) -> dict[str, _Norm]:
    """Each block's layers, the norm of their deltas and of the base's weights there."""
    layers, delta_square = find_layers(base.parts), _delta_squares(network)
    squares: dict[str, list[tuple[float, float]]] = {}
    for path in network.paths:
        block = block_of(path)
        if block is not None:
            weight = layers[path].get_parameter("weight").detach()
            own = float(weight.double().square().sum())
            squares.setdefault(block, []).append((delta_square(path, weight), own))
    return {
        block: _Norm(len(own), *(math.sqrt(sum(part)) for part in zip(*own, strict=True)))
        for block, own in squares.items()
    }


def _delta_squares(network: LiveNetwork) -> Callable[[str, Tensor], float]:
    """Give a function of a layer's path and weight: the square of the norm of its delta."""
    if isinstance(network, Network):
        adapters = network.weights()
        return lambda path, _: delta_norm(adapters[path]) ** 2
    if not isinstance(network, AppliedNetwork):
        raise TypeError(f"no norm is known for a {type(network).__name__}")
    updates = network.updates

    def square(path: str, weight: Tensor) -> float:
        delta = updates[path].delta(weight)
        return 0.0 if delta is None else float(delta.double().square().sum())

    return square


class _Effect(NamedTuple):
    share: float
    alone: float
    without: float


def _effect(none: Tensor, whole: Tensor, alone: Tensor, without: Tensor) -> _Effect:
    """Compare outputs (N, ...) of the base, the network, one block alone and all but that one."""
    change = (whole - none).flatten(1)
    size = change.norm(dim=1)
    if bool((size <= _ROUNDING * none.flatten(1).norm(dim=1)).any()):
        return _Effect(0.0, 0.0, 0.0)
    added, lost = (alone - none).flatten(1), (whole - without).flatten(1)
    along = ((added + lost) * change).sum(1) / (2 * size**2)
    return _Effect(
        share=float(along.mean()),
        alone=float((added.norm(dim=1) / size).mean()),
        without=float((lost.norm(dim=1) / size).mean()),
    )


class _Samples(NamedTuple):
    """Noisy latents (N, 4, h, w), their timesteps (N,), and what each is said to show."""

    xt: Tensor
    timestep: Tensor
    captions: list[str]


def _samples(base: BaseModel, request: MeasureRequest, clean: Clean | None) -> _Samples:
    """Make the latents noisy at timesteps that are spread evenly; random latents are plain noise.

    Latents have a variance of about 1, so noise is what noisy ones of any timestep look like.
    """
    chance = generator(request.seed, PHASE)
    count = request.samples
    if clean is None:
        side = base.resolution // LATENT_STRIDE
        latents = torch.randn(count, LATENT_CHANNELS, side, side, generator=chance)
        captions = [request.prompts[index % len(request.prompts)] for index in range(count)]
    else:
        chosen = [index % len(clean.captions) for index in range(count)]
        latents = clean.latents[chosen]
        captions = [clean.captions[index] for index in chosen]
    timestep = ((torch.arange(count) + 0.5) * _TIMESTEPS / count).long()
    noise = torch.randn(latents.shape, generator=chance)
    schedule = scaled_linear(base.prediction, base.zero_terminal_snr)
    xt = add_noise(schedule, latents, noise, timestep)
    return _Samples(xt.to(base.device), timestep.to(base.device), captions)


class _Outputs:
    """The U-Net's outputs for the same samples with any blocks of a network."""

    def __init__(
        self, base: BaseModel, network: LiveNetwork, samples: _Samples, text: TextOptions
    ) -> None:
        self._base, self._network, self._samples, self._text = base, network, samples, text
        self._conditions: dict[Hashable, list[Condition]] = {}
        pixels = samples.xt.shape[-2] * samples.xt.shape[-1] * LATENT_STRIDE**2
        self._at_once = max(1, _PIXELS_AT_ONCE // pixels)

    def with_blocks(self, blocks: Sequence[str]) -> Tensor:
        """Give the outputs (N, 4, h, w), fp32, with these blocks at 1 and all others at 0."""
        weights = BlockWeights(tuple((block, 1.0) for block in blocks))
        # A layer in no block keeps 1 whatever the weights, and counts for the whole network alone
        strength = 1.0 if blocks else 0.0
        with self._network.with_block_weights(weights, unet=strength, text_encoder=strength):
            conditions = self._encoded(BASE in blocks)
            return torch.cat(list(self._predicted(conditions)))

    def _predicted(self, conditions: list[Condition]) -> Iterator[Tensor]:
        xt, timestep = self._samples.xt, self._samples.timestep
        for start in range(0, len(xt), self._at_once):
            part = slice(start, start + self._at_once)
            yield self._base.predict(xt[part], timestep[part], together(conditions[part])).float()

    def _encoded(self, state: Hashable) -> list[Condition]:
        """Encode each different caption once for each state of the text encoder."""
        if state not in self._conditions:
            different = {
                caption: self._base.encode_text([caption], self._text)
                for caption in dict.fromkeys(self._samples.captions)
            }
            self._conditions[state] = [different[caption] for caption in self._samples.captions]
        return self._conditions[state]
