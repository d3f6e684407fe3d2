"""The denoiser over a borrowed model: guidance, and what samplers look for."""

import torch

from lora_loop.comfy_nodes.live_denoiser import LiveDenoiser


class Base:
    """Predicts the text's number everywhere; the text is (count, 1)."""

    def __init__(self):
        self.asked = []

    def encode_text(self, texts, options):
        self.asked.append((texts, options.clip_skip))
        return (torch.tensor([[float(text)] for text in texts]), None)

    def predict(self, xt, timestep, condition):
        self.timestep = timestep
        return condition[0].view(-1, 1, 1, 1).expand_as(xt)


class Sampling:
    """Epsilon prediction with x0 = x - sigma * output, timesteps of sigma itself."""

    def calculate_input(self, sigma, x):
        return x / 2

    def timestep(self, sigma):
        return sigma * 10

    def calculate_denoised(self, sigma, output, x):
        return x - sigma.view(-1, 1, 1, 1) * output


def test_guidance_goes_from_the_negative_to_the_positive():
    base, sampling = Base(), Sampling()
    denoiser = LiveDenoiser(base, sampling, ("3", "1"), cfg=2.0, clip_skip=2)
    x0 = denoiser(torch.full((1, 4, 2, 2), 10.0), torch.tensor([1.0]))
    # negative 10 - 1 = 9, positive 10 - 3 = 7: 9 + 2 * (7 - 9) = 5
    assert torch.equal(x0, torch.full((1, 4, 2, 2), 5.0))
    assert base.asked == [(["3", "1"], 2)]
    assert base.timestep.tolist() == [10.0, 10.0]


def test_without_guidance_only_the_prompt_is_asked():
    base = Base()
    denoiser = LiveDenoiser(base, Sampling(), ("3", "1"), cfg=1.0, clip_skip=1)
    x0 = denoiser(torch.full((1, 4, 2, 2), 10.0), torch.tensor([2.0]))
    assert torch.equal(x0, torch.full((1, 4, 2, 2), 4.0))
    assert base.asked == [(["3"], 1)]


def test_samplers_find_the_models_sampling():
    sampling = Sampling()
    denoiser = LiveDenoiser(Base(), sampling, ("3", "1"), cfg=1.0, clip_skip=1)
    assert denoiser.inner_model.inner_model.model_sampling is sampling
    assert denoiser.inner_model.model_patcher.get_model_object("model_sampling") is sampling
