"""The schedule against numbers by hand and against diffusers; targets and their inverses."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch.testing import assert_close

from lora_loop.core.diffusion.schedule import (
    SMALLEST_ALPHA_BAR,
    NoiseSchedule,
    add_noise,
    predicted_noise,
    predicted_x0,
    scaled_linear,
    target,
)
from lora_loop.core.errors import ConfigError

BY_HAND = NoiseSchedule(torch.tensor([0.64, 0.36]), "v")


def test_stable_diffusion_betas_by_hand() -> None:
    alpha_bar = scaled_linear().alpha_bar
    step = (0.012**0.5 - 0.00085**0.5) / 999
    second = (0.00085**0.5 + step) ** 2
    assert alpha_bar.shape == (1000,)
    assert_close(alpha_bar[0], torch.tensor(1 - 0.00085))
    assert_close(alpha_bar[1], torch.tensor((1 - 0.00085) * (1 - second)))
    sigmas = scaled_linear().sigmas()
    assert_close(float(sigmas[0]), 0.0291675, rtol=1e-5, atol=0)
    assert_close(float(sigmas[-1]), 14.614642, rtol=1e-5, atol=0)  # as every WebUI user sees them


def test_equals_diffusers() -> None:
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert_close(scaled_linear().alpha_bar, theirs.alphas_cumprod, rtol=2e-5, atol=0)


def test_zero_terminal_snr_equals_diffusers_and_ends_at_zero() -> None:
    ours = scaled_linear("v", zero_terminal_snr=True)
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    )
    assert ours.alpha_bar[-1] == 0
    assert ours.alpha_bar[0] == scaled_linear().alpha_bar[0]
    assert_close(ours.alpha_bar, theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)
    assert ours.alpha_bar[-2] > SMALLEST_ALPHA_BAR  # so the clamp touches the last value alone
    assert_close(float(ours.sigmas()[-1]), SMALLEST_ALPHA_BAR**-0.5, rtol=1e-6, atol=0)


def test_zero_terminal_snr_with_epsilon_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"base\.zero_terminal_snr .* base\.prediction"):
        scaled_linear("epsilon", zero_terminal_snr=True)


@pytest.mark.parametrize(
    "alpha_bar",
    [[0.5, 0.5], [0.2, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, -0.1], [0.5], [[0.5], [0.1]]],
)
def test_what_is_no_schedule_is_refused(alpha_bar: list) -> None:
    with pytest.raises(ConfigError, match="alpha_bar"):
        NoiseSchedule(torch.tensor(alpha_bar), "v")


def test_nan_and_unknown_prediction_are_refused() -> None:
    with pytest.raises(ConfigError, match="alpha_bar"):
        NoiseSchedule(torch.tensor([0.5, float("nan")]), "v")
    with pytest.raises(ConfigError, match="'sample'"):
        NoiseSchedule(torch.tensor([0.5, 0.1]), "sample")  # pyright: ignore[reportArgumentType]


def test_noise_and_targets_by_hand() -> None:
    x0, noise = torch.tensor([[10.0], [10.0]]), torch.tensor([[1.0], [2.0]])
    timestep = torch.tensor([0, 1])
    assert_close(add_noise(BY_HAND, x0, noise, timestep), torch.tensor([[8.6], [7.6]]))
    assert_close(target(BY_HAND, x0, noise, timestep), torch.tensor([[-5.2], [-6.8]]))
    epsilon = NoiseSchedule(BY_HAND.alpha_bar, "epsilon")
    assert target(epsilon, x0, noise, timestep) is noise


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_output_gives_back_picture_and_noise(prediction: str) -> None:
    schedule = scaled_linear(prediction)  # pyright: ignore[reportArgumentType]
    chance = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 5, 6, generator=chance)
    timestep = torch.tensor([0, 500, 999])
    xt = add_noise(schedule, x0, noise, timestep)
    output = target(schedule, x0, noise, timestep)
    assert_close(predicted_x0(schedule, xt, output, timestep), x0, rtol=1e-4, atol=1e-5)
    assert_close(predicted_noise(schedule, xt, output, timestep), noise, rtol=1e-4, atol=1e-5)


def test_at_zero_snr_the_target_is_the_picture_negated() -> None:
    schedule = scaled_linear("v", zero_terminal_snr=True)
    x0, noise, last = torch.full((1, 4), 3.0), torch.full((1, 4), 7.0), torch.tensor([999])
    assert torch.equal(add_noise(schedule, x0, noise, last), noise)
    assert torch.equal(target(schedule, x0, noise, last), -x0)
    assert torch.equal(predicted_x0(schedule, noise, -x0, last), x0)


def test_half_precision_latents_are_computed_in_float32() -> None:
    schedule = scaled_linear("v")
    chance = torch.Generator().manual_seed(0)
    x0 = torch.randn(8, 4, 4, 4, generator=chance).bfloat16()
    noise = torch.randn(8, 4, 4, 4, generator=chance).bfloat16()
    timestep = torch.arange(100, 900, 100)
    for function in (add_noise, target):
        exact = function(schedule, x0.float(), noise.float(), timestep)
        got = function(schedule, x0, noise, timestep)
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, exact.bfloat16())


def test_a_moved_schedule_keeps_its_kind() -> None:
    moved = scaled_linear("v", zero_terminal_snr=True).to("cpu")
    assert (moved.prediction, moved.zero_terminal_snr) == ("v", True)
