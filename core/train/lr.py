"""Learning-rate schedules as pure functions of the step, so that resuming needs no counter."""

import math
from collections.abc import Callable

from ..config.recipe import LrScheduleConfig


def _constant(_progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1.0 - progress


LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
}


def lr_factor(config: LrScheduleConfig, step: int, steps: int) -> float:
    """Factor on the base learning rate for optimizer step `step` (0-based) of `steps`.

    Warm-up rises linearly over the first `warmup` fraction and is never 0, so that no step is
    spent on nothing; the decay covers the rest. In (0, 1] for every step below `steps`.
    """
    warmup_steps = round(config.warmup * steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return LR_SCHEDULES[config.kind](min(progress, 1.0))
