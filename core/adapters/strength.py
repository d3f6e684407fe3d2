"""How strongly a network acts: the user's numbers at use, none of which is trained."""

import math
from dataclasses import dataclass

from ..errors import ConfigError
from .block_weights import BlockWeights
from .blocks import BASE, block_of


@dataclass(frozen=True, slots=True)
class Window:
    """The sampling steps in which a network acts on the U-Net, counted from 1.

    From step `start` on, and no more from step `stop` on (None: to the end), as the
    lora-block-weight extension counts in the WebUI.
    """

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.stop is not None and self.stop <= self.start:
            raise ConfigError(
                f"steps {self.start} to {self.stop}: a network that stops before it starts never "
                "acts; give stop a larger number than start"
            )

    def acts_at(self, step: int) -> bool:
        """Whether the network acts in a step; 0 is outside of a sampling, where it does."""
        return step == 0 or (step >= self.start and (self.stop is None or step < self.stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """The user's factors at use: one for each part of the base model, one for each layer.

    window: None is all of the sampling steps.
    """

    unet: float = 1.0
    text_encoder: float = 1.0
    block_weights: BlockWeights | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        for name in ("unet", "text_encoder"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"strength {name} is {getattr(self, name)}; it must be a number")

    def of(self, path: str) -> float:
        """Return one adapter's strength, by path or kohya key: its part's times its layer's."""
        part = self.text_encoder if block_of(path) == BASE else self.unet
        return part if self.block_weights is None else part * self.block_weights.ratio_of(path)
