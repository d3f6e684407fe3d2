"""Our blocks of the U-Net: diffusers' numbers, and the hand-written backward pass's gradients."""

from copy import deepcopy

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.testing import assert_close

from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config import NetworkConfig
from lora_loop.core.models import small_block as small
from lora_loop.core.models import unet_blocks
from lora_loop.core.models.build import use_quick_layout
from lora_loop.core.models.unet_blocks import (
    fused_attention,
    plain_attention,
    set_attention,
    use_lean_modules,
)
from lora_loop.core.train.placement import gradient_checkpointing

THIN = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2}


def make_unet(**config) -> nn.Module:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**{"cross_attention_dim": 6, **THIN, **config})
    for parameter in unet.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # norms and biases count too
    return unet.eval().requires_grad_(False)


def lean(unet: nn.Module) -> nn.Module:
    own = deepcopy(unet)
    use_lean_modules(own)
    return own


def inputs(channels: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 16, 8, generator=chance)
    return latents, torch.tensor([7, 900]), torch.randn(2, 5, channels, generator=chance)


SDXL = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
}


@pytest.mark.parametrize("kernel", [plain_attention, fused_attention])
@pytest.mark.parametrize("config", [{}, {"use_linear_projection": True}, SDXL])
def test_our_blocks_give_diffusers_numbers(config, kernel) -> None:
    unet = make_unet(**config)
    own = lean(unet)
    set_attention(own, kernel)
    assert {k: v.shape for k, v in own.state_dict().items()} == {
        k: v.shape for k, v in unet.state_dict().items()
    }
    assert not [
        m for m in own.modules() if type(m).__name__ in {"ResnetBlock2D", "Transformer2DModel"}
    ]
    with torch.no_grad():
        wanted = unet(*inputs()).sample
        assert_close(own(*inputs()).sample, wanted, rtol=1e-5, atol=1e-5)
        use_quick_layout(own, torch.device("cpu"), own_weights=True)
        assert own.get_parameter("conv_in.weight").is_contiguous(memory_format=torch.channels_last)
        assert_close(own(*inputs()).sample, wanted, rtol=1e-5, atol=1e-5)


def trained_gradients(unet: nn.Module, context: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    config = NetworkConfig(rank=3, alpha=1.5, text_encoder=False)
    network = Network.create(find_targets({"unet": unet}), config, seed=2)
    with torch.no_grad():
        for number, parameter in enumerate(network.named_parameters().values()):
            chance = torch.Generator().manual_seed(number)
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=chance))
    latents, timestep, _ = inputs()
    context = context.clone().requires_grad_()
    with network.attached({"unet": unet}), network.training():
        network.backward(unet(latents, timestep, context).sample.square().mean())
        found = {name: p.grad.clone() for name, p in network.named_parameters().items()}
    assert context.grad is not None
    return found, context.grad


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    made: list[int] = []

    def counted(*arguments):
        made.append(1)
        return small.small_block(*arguments)

    monkeypatch.setattr(unet_blocks, "small_block", counted)
    return made


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_backward_pass_by_hand_gives_autograds_gradients(
    calls, monkeypatch, checkpointed
) -> None:
    own = lean(make_unet())
    set_attention(own, plain_attention)
    context = inputs()[2]
    with gradient_checkpointing([own], checkpointed):
        found, found_context = trained_gradients(own, context)
    assert len(calls) == 16 * (1 + checkpointed)
    monkeypatch.setattr(unet_blocks, "block_tensors", lambda _block: None)
    wanted, wanted_context = trained_gradients(own, context)
    assert len(calls) == 16 * (1 + checkpointed)
    assert_close(found_context, wanted_context, rtol=1e-4, atol=1e-6)
    for name, gradient in wanted.items():
        largest = float(gradient.abs().max())
        assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * largest + 1e-8, msg=name)


def test_a_block_whose_strength_is_zero_is_not_merged(calls) -> None:
    own = lean(make_unet())
    set_attention(own, plain_attention)
    config = NetworkConfig(rank=2, alpha=2, text_encoder=False)
    network = Network.create(find_targets({"unet": own}), config, seed=2)
    with network.attached({"unet": own}), network.training():
        network.set_strength(unet=0.0)
        own(*inputs())
        assert not calls
        network.set_strength()
        with torch.no_grad():
            own(*inputs())
        assert not calls
        own(*inputs())
        assert len(calls) == 16
