"""Batches and the steps formula against brute force."""

import random
from collections import Counter

import pytest

from lora_loop.core.config.training import TrainingConfig
from lora_loop.core.data.batches import (
    BatchPlan,
    batches_per_epoch,
    epoch_batches,
    naive_steps,
    step_batches,
    steps_per_epoch,
    total_steps,
)
from lora_loop.core.data.buckets import BucketRules, lay_out

SIZES = [(512, 512), (384, 640), (640, 384), (256, 1024)]


def brute_force_steps(items, plan, training: TrainingConfig) -> int:
    """Fill batches picture by picture, and groups batch by batch, as a loop would."""
    steps = 0
    for _ in range(training.epochs):
        batches = 0
        for bucket in plan.buckets:
            held = 0
            for fit in bucket.fits:
                for _ in range(items[fit.item].repeats):
                    held += 1
                    if held == training.batch_size:
                        batches, held = batches + 1, 0
            batches += held > 0
        group = 0
        for _ in range(batches):
            group += 1
            if group == training.gradient_accumulation:
                steps, group = steps + 1, 0
        steps += group > 0
    return steps


def some_dataset(make_item, chance: random.Random):
    items = [
        make_item(*chance.choice(SIZES), repeats=chance.randint(1, 7))
        for _ in range(chance.randint(1, 25))
    ]
    return items, lay_out(items, 512, BucketRules())


def test_steps_equal_brute_force(make_item):
    chance = random.Random(11)
    for _ in range(300):
        items, plan = some_dataset(make_item, chance)
        training = TrainingConfig(
            epochs=chance.randint(1, 5),
            batch_size=chance.randint(1, 9),
            gradient_accumulation=chance.randint(1, 6),
        )
        expected = brute_force_steps(items, plan, training)
        assert total_steps(plan, items, training) == expected
        batches = epoch_batches(plan, items, training.batch_size, training.seed, 0)
        assert len(batches) == batches_per_epoch(plan, items, training.batch_size)


@pytest.mark.parametrize(
    ("pictures", "repeats", "batch_size", "epochs", "steps"),
    [(50, 10, 4, 8, 1000), (10, 20, 2, 10, 1000), (100, 100, 256, 10, 400), (1, 1, 8, 1, 1)],
)
def test_examples_of_one_bucket(make_item, pictures, repeats, batch_size, epochs, steps):
    items = [make_item(512, 512, repeats=repeats)] * pictures
    plan = lay_out(items, 512, BucketRules())
    training = TrainingConfig(epochs=epochs, batch_size=batch_size)
    assert total_steps(plan, items, training) == steps


def test_buckets_make_the_naive_formula_wrong(make_item):
    items = [make_item(*size, repeats=1) for size in SIZES]
    plan = lay_out(items, 512, BucketRules())
    training = TrainingConfig(epochs=1, batch_size=4)
    assert (total_steps(plan, items, training), naive_steps(items, training)) == (4, 1)


def test_steps_per_epoch_rounds_up():
    assert [steps_per_epoch(batches, 4) for batches in (1, 4, 5, 8)] == [1, 1, 2, 2]


def test_every_picture_appears_as_often_as_its_repeats(make_item):
    chance = random.Random(2)
    for epoch in range(20):
        items, plan = some_dataset(make_item, chance)
        batches = epoch_batches(plan, items, 4, 7, epoch)
        seen = Counter(index for batch in batches for index in batch.indices)
        assert seen == {index: item.repeats for index, item in enumerate(items)}
        home = {fit.item: (b.width, b.height) for b in plan.buckets for fit in b.fits}
        for batch in batches:
            assert 1 <= len(batch.indices) <= 4
            assert {home[index] for index in batch.indices} == {(batch.width, batch.height)}


def test_order_depends_on_seed_and_epoch_alone(make_item):
    items = [make_item(*SIZES[index % 4], repeats=3) for index in range(20)]
    plan = lay_out(items, 512, BucketRules())
    first = epoch_batches(plan, items, 2, 1, 0)
    assert first == epoch_batches(plan, items, 2, 1, 0)
    assert first != epoch_batches(plan, items, 2, 1, 1)
    assert first != epoch_batches(plan, items, 2, 2, 0)
    sizes = [batch.width for batch in first]
    assert sizes != sorted(sizes)


def test_steps_are_a_pure_function(make_item):
    chance = random.Random(4)
    items, plan = some_dataset(make_item, chance)
    training = TrainingConfig(epochs=3, batch_size=2, gradient_accumulation=3)
    batches = BatchPlan(plan, items, training)
    straight = [batches.of_step(step) for step in range(batches.steps)]
    for step in reversed(range(batches.steps)):
        assert step_batches(plan, items, training, step) == straight[step]
        assert batches.of_step(step) == straight[step]
    together = [batch for group in straight for batch in group]
    in_turn = [b for epoch in range(3) for b in epoch_batches(plan, items, 2, training.seed, epoch)]
    assert together == in_turn
    assert {len(group) for group in straight[:-1]} <= {1, 2, 3}


def test_max_steps_go_on_past_the_epochs(make_item):
    items = [make_item(512, 512)] * 3
    plan = lay_out(items, 512, BucketRules())
    training = TrainingConfig(epochs=1, max_steps=7)
    batches = BatchPlan(plan, items, training)
    assert (batches.steps, batches.epochs, batches.steps_per_epoch) == (7, 3, 3)
    assert sum(len(batches.of_step(step)) for step in range(7)) == 7
    with pytest.raises(IndexError, match="counted from 0"):
        batches.of_step(-1)
