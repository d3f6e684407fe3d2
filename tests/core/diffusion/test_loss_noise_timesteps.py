"""Loss weights, loss, offset noise and timesteps: numbers by hand and statistics."""

import math

import pytest
import torch
from torch.testing import assert_close

from lora_loop.core.diffusion.loss import min_snr_weight, weighted_mse
from lora_loop.core.diffusion.noise import offset_noise
from lora_loop.core.diffusion.schedule import scaled_linear
from lora_loop.core.diffusion.timesteps import draw_timesteps


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_min_snr_by_hand() -> None:
    alpha_bar = torch.tensor([0.5, 0.9])  # SNR 1 and 9
    assert_close(min_snr_weight(alpha_bar, 5.0, "epsilon"), torch.tensor([1.0, 5 / 9]))
    assert_close(min_snr_weight(alpha_bar, 5.0, "v"), torch.tensor([1 / 2, 5 / 10]))
    assert_close(min_snr_weight(alpha_bar, 0.5, "v"), torch.tensor([0.25, 0.05]))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_min_snr_equals_the_papers_fraction(prediction: str) -> None:
    alpha_bar = scaled_linear().alpha_bar.double()
    snr = alpha_bar / (1 - alpha_bar)
    paper = snr.clamp(max=5) / (snr if prediction == "epsilon" else snr + 1)
    ours = min_snr_weight(alpha_bar, 5.0, prediction)  # pyright: ignore[reportArgumentType]
    assert_close(ours.double(), paper, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("prediction", "at_zero"), [("epsilon", 1.0), ("v", 0.0)])
def test_min_snr_at_the_ends_is_finite(prediction: str, at_zero: float) -> None:
    ends = torch.tensor([0.0, 1e-45, 1.0])
    weight = min_snr_weight(ends, 5.0, prediction)  # pyright: ignore[reportArgumentType]
    assert_close(weight, torch.tensor([at_zero, at_zero, 0.0]))


def test_min_snr_off_weighs_all_alike() -> None:
    ends = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(min_snr_weight(ends, 0.0, "epsilon"), torch.ones(3))
    assert torch.equal(min_snr_weight(ends, 0.0, "v"), torch.ones(3))


def test_weighted_mse_by_hand() -> None:
    prediction = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    wanted = torch.tensor([[[0.0, 0.0]], [[2.0, 4.0]]])  # mean squares 5 and 10
    loss = weighted_mse(prediction, wanted, torch.tensor([1.0, 0.1]))
    assert_close(loss, torch.tensor((5 * 1 + 10 * 0.1) / 2))


def test_loss_of_half_precision_is_taken_in_float32() -> None:
    big = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square overflows float16
    loss = weighted_mse(big, torch.zeros_like(big), torch.ones(1))
    assert loss.dtype == torch.float32
    assert loss == 90000


def test_offset_shifts_whole_channels_by_its_size() -> None:
    noise = torch.zeros(500, 4, 3, 2)
    shifted = offset_noise(noise, 0.1, chance())
    assert torch.equal(shifted, shifted[:, :, :1, :1].expand_as(shifted))
    assert math.isclose(float(shifted[:, :, 0, 0].std()), 0.1, rel_tol=0.05)
    assert torch.equal(shifted, offset_noise(noise, 0.1, chance()))


def test_no_offset_changes_nothing_and_draws_nothing() -> None:
    generator = chance()
    before = generator.get_state()
    noise = torch.ones(1, 4, 2, 2)
    assert offset_noise(noise, 0.0, generator) is noise
    assert torch.equal(generator.get_state(), before)


def test_timesteps_are_even_whole_and_repeatable() -> None:
    drawn = draw_timesteps(20_000, chance())
    assert drawn.dtype == torch.int64
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    counts = torch.bincount(drawn // 100, minlength=10)
    assert bool((counts - 2000).abs().max() < 5 * 2000**0.5)
    assert torch.equal(drawn, draw_timesteps(20_000, chance()))
    assert int(draw_timesteps(1000, chance(), 10).max()) == 9
