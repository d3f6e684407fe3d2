import torch
from torch.testing import assert_close

from lora_loop.core.diffusion.schedule import scaled_linear
from lora_loop.core.train.step import Draws, Latents, denoising_loss, draw, make_objective

CPU = torch.device("cpu")
SHAPE = torch.Size((2, 4, 3, 5))


class Silent(torch.nn.Module):
    """A model that always answers zero, and remembers what it was asked."""

    def forward(self, xt, timestep):
        self.asked = xt, timestep
        return torch.zeros_like(xt)


def test_draws_depend_on_seed_step_and_micro_batch_alone():
    one = draw(1, 5, 0, SHAPE, 0.0)
    torch.rand(3)  # somebody else draws from the process's own stream
    again = draw(1, 5, 0, SHAPE, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (draw(2, 5, 0, SHAPE, 0.0), draw(1, 6, 0, SHAPE, 0.0), draw(1, 5, 1, SHAPE, 0.0)):
        assert not torch.equal(one.noise, other.noise)
    assert not torch.equal(one.noise, one.latent_noise)
    assert one.timestep.dtype == torch.int64


def test_noise_offset_shifts_whole_channels():
    plain, shifted = draw(1, 5, 0, SHAPE, 0.0), draw(1, 5, 0, SHAPE, 0.5)
    assert torch.equal(plain.timestep, shifted.timestep)
    shift = shifted.noise - plain.noise
    assert_close(shift, shift[:, :, :1, :1].expand(SHAPE))
    assert float(shift.abs().max()) > 0


def test_loss_of_a_silent_model_by_hand():
    schedule = scaled_linear()
    draws = Draws(torch.zeros(SHAPE), torch.full(SHAPE, 2.0), torch.tensor([0, 999]))
    latents = Latents(torch.ones(SHAPE), torch.ones(SHAPE))
    model = Silent()
    unweighted = make_objective(schedule, 0.0, 0.0, CPU)
    # the target is the noise, 2 everywhere: its mean square is 4
    assert_close(denoising_loss(model, latents, draws, unweighted), torch.tensor(4.0))
    alpha_bar = schedule.alpha_bar[torch.tensor([0, 999])]
    expected = alpha_bar.sqrt() + 2 * (1 - alpha_bar).sqrt()
    assert_close(model.asked[0][:, 0, 0, 0], expected)
    snr = alpha_bar / (1 - alpha_bar)
    weight = (snr.clamp(max=5) / snr).mean()
    weighted = make_objective(schedule, 5.0, 0.0, CPU)
    assert_close(denoising_loss(model, latents, draws, weighted), 4 * weight)


def test_each_step_draws_a_fresh_latent_from_its_posterior():
    schedule = scaled_linear()
    draws = Draws(torch.full(SHAPE, 3.0), torch.zeros(SHAPE), torch.tensor([0, 0]))
    latents = Latents(torch.ones(SHAPE), torch.full(SHAPE, 0.5))
    model = Silent()
    objective = make_objective(schedule, 0.0, 0.0, CPU)
    denoising_loss(model, latents, draws, objective)
    assert_close(model.asked[0], (1 + 0.5 * 3) * schedule.alpha_bar[0].sqrt().expand(SHAPE))
