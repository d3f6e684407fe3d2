import math

import pytest

from lora_loop.core.config.recipe import LrScheduleConfig
from lora_loop.core.train.lr import lr_factor


def factors(kind, warmup, steps):
    config = LrScheduleConfig(kind=kind, warmup=warmup)
    return [lr_factor(config, step, steps) for step in range(steps)]


def test_constant_without_warmup_is_one_everywhere():
    assert factors("constant", 0.0, 7) == [1.0] * 7


def test_warmup_rises_evenly_and_is_never_zero():
    assert factors("constant", 0.3, 10)[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0])


def test_cosine_by_hand():
    got = factors("cosine", 0.0, 4)
    assert got == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])
    assert got[2] == pytest.approx(0.5)


def test_linear_with_warmup_by_hand():
    # 10 steps, 2 of warm-up: 1/3, 2/3, then 1 - k/8
    assert factors("linear", 0.2, 10) == pytest.approx(
        [1 / 3, 2 / 3, *(1 - k / 8 for k in range(8))]
    )


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_no_step_is_wasted_and_none_exceeds_the_rate(kind, warmup, steps):
    assert all(0.0 < factor <= 1.0 for factor in factors(kind, warmup, steps))
