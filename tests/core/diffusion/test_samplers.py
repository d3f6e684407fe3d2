"""Samplers against closed forms for Gaussian data, against each other and against diffusers.

For x0 ~ N(0, S^2) the best denoiser is D(x, sigma) = x S^2 / (S^2 + sigma^2), and the picture that
starts as x at sigma ends at sigma' as x sqrt((S^2 + sigma'^2) / (S^2 + sigma^2)).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor
from torch.testing import assert_close

from lora_loop.core.diffusion.samplers import (
    SAMPLERS,
    SampleRequest,
    denoiser,
    dpmpp_2m,
    euler,
    euler_ancestral,
    even_sigmas,
    karras_sigmas,
    sample,
    timestep_of,
    trailing_sigmas,
)
from lora_loop.core.diffusion.schedule import NoiseSchedule, scaled_linear
from lora_loop.core.diffusion.seeds import ON_CPU, Noise
from lora_loop.core.errors import ConfigError

SPREAD = 0.7
KINDS = [
    scaled_linear("epsilon"),
    scaled_linear("v"),
    scaled_linear("v", zero_terminal_snr=True),
]


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noises(*seeds: int) -> list[Noise]:
    return [ON_CPU.noise(seed) for seed in seeds]


def ideal(x: Tensor, sigma: float) -> Tensor:
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def level_at(schedule: NoiseSchedule, timestep: Tensor) -> Tensor:
    """alpha_bar at fractional timesteps, found anew: by linear interpolation of log sigma."""
    log_sigmas = schedule.sigmas().log()
    low = timestep.double().floor().long().clamp(max=len(log_sigmas) - 2)
    part = timestep.double() - low
    sigma = ((1 - part) * log_sigmas[low] + part * log_sigmas[low + 1]).exp()
    return (1 / (1 + sigma**2)).reshape(-1, 1, 1, 1)


def ideal_model(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """The best possible U-Net for Gaussian data: x0 given xt, told as epsilon or v."""

    def denoise(xt: Tensor, timestep: Tensor) -> Tensor:
        alpha_bar = level_at(schedule, timestep)
        xt = xt.double()
        x0 = alpha_bar.sqrt() * SPREAD**2 * xt / (alpha_bar * SPREAD**2 + 1 - alpha_bar)
        noise = (xt - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        if schedule.prediction == "v":
            return (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0).float()
        return noise.float()

    return denoise


def perfect_model(schedule: NoiseSchedule, x0: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A U-Net that knows the one picture of its training set."""

    def denoise(xt: Tensor, timestep: Tensor) -> Tensor:
        alpha_bar = level_at(schedule, timestep).float()
        noise = (xt - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        if schedule.prediction == "v":
            return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
        return noise

    return denoise


def error_after(run: Callable, steps: int) -> float:
    """Distance from the closed form after a walk in equal steps of log sigma, in float64."""
    sigmas = torch.linspace(math.log(10), math.log(0.1), steps + 1, dtype=torch.float64).exp()
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = math.sqrt((SPREAD**2 + 0.1**2) / (SPREAD**2 + 10**2))
    return abs(float(run(ideal, x, sigmas.tolist(), None)) / exact - 1)


@pytest.mark.parametrize(("run", "order"), [(euler, 1), (dpmpp_2m, 2)])
def test_error_falls_with_the_order_of_the_method(run: Callable, order: int) -> None:
    coarse, fine = error_after(run, 100), error_after(run, 200)
    assert fine < 0.02
    assert 2**order * 0.8 < coarse / fine < 2**order * 1.25


@pytest.mark.parametrize("schedule", KINDS)
@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m_karras"])
def test_whole_samplers_reach_the_closed_form(name: str, schedule: NoiseSchedule) -> None:
    noise = torch.randn(2, 4, 3, 5, generator=chance())
    largest = float(schedule.sigmas()[-1])
    exact = noise * largest * SPREAD / math.sqrt(SPREAD**2 + largest**2)
    got = sample(ideal_model(schedule), noise, SampleRequest(name, 200), schedule)
    assert got.shape == noise.shape
    bound = 0.005 if name == "dpmpp_2m_karras" else 0.03
    assert float((got / exact - 1).abs().max()) < bound


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_epsilon_and_v_give_the_same_picture(name: str, steps: int) -> None:
    noise = torch.randn(1, 4, 4, 4, generator=chance())
    request = SampleRequest(name, steps)
    epsilon, v = (sample(ideal_model(kind), noise, request, kind, noises(1)) for kind in KINDS[:2])
    assert_close(epsilon, v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", KINDS)
@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_model_recovers_its_picture(
    name: str, steps: int, schedule: NoiseSchedule
) -> None:
    x0 = torch.randn(2, 4, 4, 4, generator=chance(2))
    noise = torch.randn(2, 4, 4, 4, generator=chance(3))
    model = perfect_model(schedule, x0)
    got = sample(model, noise, SampleRequest(name, steps), schedule, noises(0, 1))
    assert_close(got, x0, rtol=1e-3, atol=2e-3 if schedule.zero_terminal_snr else 1e-4)


def ancestral_variance(sigmas: list[float]) -> float:
    """v' = (r + (1 - r) S^2 / (S^2 + sigma^2))^2 v + up^2 for each step, with r = down / sigma."""
    variance = sigmas[0] ** 2
    for sigma, following in pairwise(sigmas):
        up = following**2 * (sigma**2 - following**2) / sigma**2
        ratio = math.sqrt(following**2 - up) / sigma
        shrink = ratio + (1 - ratio) * SPREAD**2 / (SPREAD**2 + sigma**2)
        variance = shrink**2 * variance + up
    return variance


def test_euler_a_keeps_the_right_spread() -> None:
    schedule = scaled_linear()
    sigmas = even_sigmas(schedule, 60)[:-1]
    start = torch.randn(1, 4, 200, 200, generator=chance()) * sigmas[0]
    got = euler_ancestral(ideal, start, sigmas, noises(1))
    assert math.isclose(float(got.var()), ancestral_variance(sigmas), rel_tol=0.02)
    many = even_sigmas(schedule, 5000)[:-1]
    assert math.isclose(ancestral_variance(many), SPREAD**2 + many[-1] ** 2, rel_tol=0.01)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    schedule = scaled_linear()
    noise = torch.randn(3, 4, 4, 4, generator=chance())
    request = SampleRequest("euler_a", 5)
    model = ideal_model(schedule)
    together = sample(model, noise, request, schedule, noises(0, 1, 2))
    for seed in range(3):
        alone = sample(model, noise[seed : seed + 1], request, schedule, noises(seed))
        assert torch.equal(together[seed : seed + 1], alone)


def test_ancestral_noise_needs_a_source_for_each_picture() -> None:
    schedule = scaled_linear()
    noise, request = torch.zeros(2, 4, 1, 1), SampleRequest("euler_a", 2)
    with pytest.raises(ConfigError, match="needs a source of it"):
        sample(ideal_model(schedule), noise, request, schedule)
    with pytest.raises(ConfigError, match="1 sources of noise for 2 pictures"):
        sample(ideal_model(schedule), noise, request, schedule, noises(0))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_model_is_called_once_a_step_with_training_levels(name: str, steps: int) -> None:
    schedule = scaled_linear()
    seen: list[Tensor] = []

    def denoise(xt: Tensor, timestep: Tensor) -> Tensor:
        assert xt.dtype == timestep.dtype == torch.float32
        assert timestep.shape == (2,)
        seen.append(timestep)
        return torch.zeros_like(xt)

    sample(denoise, torch.ones(2, 4, 1, 1), SampleRequest(name, steps), schedule, noises(0, 1))
    assert len(seen) == steps
    assert float(seen[0][0]) == 999
    assert all(a[0] > b[0] for a, b in pairwise(seen))


def test_sigmas_by_hand() -> None:
    schedule = scaled_linear()
    sigmas = schedule.sigmas()
    middle = math.sqrt(float(sigmas[499]) * float(sigmas[500]))  # timestep 499.5
    expected = [float(sigmas[999]), middle, float(sigmas[0]), 0.0]
    assert_close(even_sigmas(schedule, 3), expected, rtol=1e-9, atol=0)
    low, high = float(sigmas[0]) ** (1 / 7), float(sigmas[-1]) ** (1 / 7)
    karras = [high**7, ((low + high) / 2) ** 7, low**7, 0.0]
    assert_close(karras_sigmas(schedule, 3), karras, rtol=1e-9, atol=0)
    trailing = [*(float(sigmas[t]) for t in (999, 749, 499, 249)), 0.0]
    assert trailing_sigmas(schedule, 4) == trailing


def test_timestep_of_inverts_sigma() -> None:
    sigmas = scaled_linear().sigmas()
    logs = sigmas.log()
    for timestep in (0, 1, 500, 998, 999):
        assert_close(timestep_of(logs, float(sigmas[timestep])), float(timestep))
    between = math.sqrt(float(sigmas[10]) * float(sigmas[11]))
    assert_close(timestep_of(logs, between), 10.5)
    assert timestep_of(logs, 1e-6) == 0
    assert timestep_of(logs, 1e6) == 999


def test_denoiser_scales_as_in_training() -> None:
    """x = x0 + sigma noise is handed over as sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise."""
    schedule = scaled_linear()
    sigma = float(schedule.sigmas()[300])
    x0, noise = torch.randn(2, 1, 4, 2, 2, generator=chance())
    seen: list[Tensor] = []

    def denoise(xt: Tensor, timestep: Tensor) -> Tensor:
        seen.extend((xt, timestep))
        return noise

    assert_close(denoiser(denoise, schedule)(x0 + sigma * noise, sigma), x0)
    alpha_bar = schedule.alpha_bar[300]
    assert_close(seen[0], alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise)
    assert_close(seen[1], torch.tensor([300.0]))


SHARED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def diffusers_result(scheduler: Any, model: Callable, noise: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = model(scheduler.scale_model_input(x, timestep), timestep.float().reshape(1))
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_ddim_equals_diffusers(prediction: str) -> None:
    schedule = scaled_linear(prediction)  # pyright: ignore[reportArgumentType]
    theirs = DDIMScheduler(
        **SHARED,
        prediction_type="epsilon" if prediction == "epsilon" else "v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    noise = torch.randn(1, 4, 4, 4, generator=chance())
    model = ideal_model(schedule)
    ours = sample(model, noise, SampleRequest("ddim", 20), schedule)
    # theirs starts from sigma sqrt(1 + sigma^2) ("unit variance"), ours from sigma as the WebUI
    largest = float(schedule.sigmas()[-1])
    scale = math.sqrt(1 + largest**2) / largest
    assert_close(ours * scale, diffusers_result(theirs, model, noise, 20), rtol=1e-3, atol=1e-4)


def test_euler_equals_diffusers() -> None:
    schedule = scaled_linear()
    theirs = EulerDiscreteScheduler(**SHARED, timestep_spacing="linspace")
    noise = torch.randn(1, 4, 4, 4, generator=chance())
    model = ideal_model(schedule)
    ours = sample(model, noise, SampleRequest("euler", 20), schedule)
    # diffusers interpolates sigma, k-diffusion its logarithm: all but the same between two levels
    assert_close(ours, diffusers_result(theirs, model, noise, 20), rtol=1e-3, atol=1e-4)


def test_dpmpp_2m_karras_equals_diffusers() -> None:
    schedule = scaled_linear()
    theirs = DPMSolverMultistepScheduler(
        **SHARED, use_karras_sigmas=True, algorithm_type="dpmsolver++", final_sigmas_type="zero"
    )
    noise = torch.randn(1, 4, 4, 4, generator=chance())
    largest = float(schedule.sigmas()[-1])
    ours = sample(ideal_model(schedule), noise, SampleRequest("dpmpp_2m_karras", 20), schedule)
    theirs.set_timesteps(20)
    x = noise * largest / math.sqrt(1 + largest**2)
    for step, timestep in enumerate(theirs.timesteps):
        sigma = float(theirs.sigmas[step])  # the exact level; its timesteps are rounded
        exact = timestep_of(schedule.sigmas().log(), sigma)
        output = ideal_model(schedule)(x, torch.tensor([exact]))
        x = theirs.step(output, timestep, x, return_dict=False)[0]
    assert_close(ours, x, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("sampler", "steps"), [("plms", 20), ("euler", 0), ("euler", 1001)])
def test_requests_out_of_range_are_refused(sampler: str, steps: int) -> None:
    with pytest.raises(ConfigError, match="preview"):
        SampleRequest(sampler, steps)


def test_zero_terminal_snr_starts_at_pure_noise() -> None:
    """At the clamped last level the model's input is the noise itself, to a part in 10,000."""
    schedule = KINDS[2]
    noise = torch.randn(1, 4, 4, 4, generator=chance())
    first: list[Tensor] = []

    def denoise(xt: Tensor, timestep: Tensor) -> Tensor:
        first.append(xt)
        return torch.zeros_like(xt)

    sample(denoise, noise, SampleRequest("ddim", 2), schedule)
    assert_close(first[0], noise, rtol=1e-4, atol=0)
    assert all(bool(torch.isfinite(xt).all()) for xt in first)
