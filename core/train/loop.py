"""The loop: steps out of a trainer, events out of the steps."""

import math
from collections.abc import Callable

from ..events import OnEvent, StepDone, StopFlag
from .readback import LossReadback
from .trainer import Trainer, diverged


def train_steps(
    trainer: Trainer,
    on_event: OnEvent,
    stop: StopFlag,
    after_step: Callable[[int], None],
    settle: Callable[[int], bool] = lambda _step: False,
) -> bool:
    """Advance `trainer` to its last step or until `stop()`; True when it was stopped early.

    `after_step(step)` runs after each step (states, previews). It can't change what is trained:
    no random number of a step depends on anything but the seed and the step. Where `settle(step)`
    is true, the losses of all steps so far are told before it.
    """
    readback = LossReadback()
    rates: dict[int, tuple[float, int]] = {}

    def report(arrived: list[tuple[int, float]]) -> None:
        for step, loss in arrived:
            lr, images = rates.pop(step)
            if not math.isfinite(loss):
                raise diverged(step, loss)
            on_event(StepDone(step=step, steps=trainer.steps, loss=loss, lr=lr, images=images))

    while trainer.step < trainer.steps and not stop():
        lr = trainer.lr
        loss = trainer.advance()
        rates[trainer.step] = (lr, trainer.images)
        readback.push(trainer.step, loss)
        report(readback.drain() if settle(trainer.step) else readback.ready())
        after_step(trainer.step)
    report(readback.drain())
    return trainer.step < trainer.steps
