"""Which pictures every step sees: a pure function of the plan, the seed and the step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config.training import TrainingConfig
from ..randomness import generator
from .buckets import BucketPlan
from .items import ImageItem


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one bucket, (width, height) pixels, that go through the model together."""

    width: int
    height: int
    indices: tuple[int, ...]


class BatchPlan:
    """The batches of every step of a training; one epoch's order is worked out at a time."""

    def __init__(
        self, plan: BucketPlan, items: Sequence[ImageItem], training: TrainingConfig
    ) -> None:
        self._plan, self._items, self._training = plan, tuple(items), training
        self.batches_per_epoch = batches_per_epoch(plan, items, training.batch_size)
        self.steps_per_epoch = steps_per_epoch(
            self.batches_per_epoch, training.gradient_accumulation
        )
        self.steps = total_steps(plan, items, training)
        self.epochs = -(-self.steps // self.steps_per_epoch)
        self._epoch = -1
        self._batches: list[Batch] = []

    def of_step(self, step: int) -> tuple[Batch, ...]:
        """The micro-batches of optimizer step `step`, counted from 0, as `step_batches` has it."""
        if step < 0:
            raise IndexError(f"step {step}: steps are counted from 0")
        epoch, group = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            batch_size, seed = self._training.batch_size, self._training.seed
            self._batches = epoch_batches(self._plan, self._items, batch_size, seed, epoch)
            self._epoch = epoch
        size = self._training.gradient_accumulation
        return tuple(self._batches[group * size : (group + 1) * size])


def step_batches(
    plan: BucketPlan, items: Sequence[ImageItem], training: TrainingConfig, step: int
) -> tuple[Batch, ...]:
    """The micro-batches of optimizer step `step`, counted from 0.

    A group never crosses an epoch's end: the last one of an epoch may be smaller.
    """
    return BatchPlan(plan, items, training).of_step(step)


def epoch_batches(
    plan: BucketPlan, items: Sequence[ImageItem], batch_size: int, seed: int, epoch: int
) -> list[Batch]:
    """All batches of epoch `epoch`, counted from 0, in their order.

    Every picture appears exactly `repeats` times. The draws of a bucket are shuffled and cut into
    batches, the last of which may be smaller; then the batches of all buckets are shuffled.
    """
    chance = generator(seed, "batches", epoch)
    batches = []
    for bucket in plan.buckets:
        draws = [fit.item for fit in bucket.fits for _ in range(items[fit.item].repeats)]
        drawn = [draws[place] for place in torch.randperm(len(draws), generator=chance).tolist()]
        batches += [
            Batch(bucket.width, bucket.height, tuple(drawn[start : start + batch_size]))
            for start in range(0, len(drawn), batch_size)
        ]
    order = torch.randperm(len(batches), generator=chance).tolist()
    return [batches[place] for place in order]


def batches_per_epoch(plan: BucketPlan, items: Sequence[ImageItem], batch_size: int) -> int:
    """Sum over the buckets of ceil(pictures x repeats / batch size)."""
    draws = (sum(items[fit.item].repeats for fit in bucket.fits) for bucket in plan.buckets)
    return sum(-(-count // batch_size) for count in draws)


def steps_per_epoch(batches: int, accumulation: int) -> int:
    """Optimizer steps that `batches` batches make, the last group of an epoch being smaller."""
    return -(-batches // accumulation)


def total_steps(plan: BucketPlan, items: Sequence[ImageItem], training: TrainingConfig) -> int:
    """Optimizer steps of the whole training: `max_steps` if set, else by epochs."""
    if training.max_steps > 0:
        return training.max_steps
    batches = batches_per_epoch(plan, items, training.batch_size)
    return training.epochs * steps_per_epoch(batches, training.gradient_accumulation)


def naive_steps(items: Sequence[ImageItem], training: TrainingConfig) -> int:
    """What the usual formula promises: pictures x repeats x epochs / batch size, rounded up.

    It forgets that every bucket has a last batch of its own; for comparison only.
    """
    draws = sum(item.repeats for item in items) * training.epochs
    return -(-draws // (training.batch_size * training.gradient_accumulation))
