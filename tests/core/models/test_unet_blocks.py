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
from lora_loop.core.models import small_residual, small_transformer, unet_blocks
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
        return small_transformer.small_transformer(*arguments)

    monkeypatch.setattr(unet_blocks, "small_transformer", counted)
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
    monkeypatch.setattr(unet_blocks, "transformer_tensors", lambda _block: None)
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


@pytest.fixture
def packed(monkeypatch) -> list[int]:
    """How often a residual block was computed by hand."""
    made: list[int] = []

    def counted(*arguments):
        made.append(1)
        return small_residual.small_residual(*arguments)

    monkeypatch.setattr(unet_blocks, "small_residual", counted)
    if not small_residual.can_pack():
        pytest.skip("this torch has no oneDNN")
    return made


def input_gradient(unet: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor]:
    latents = latents.clone().requires_grad_()
    predicted = unet(latents, *inputs()[1:]).sample
    predicted.square().mean().backward()
    assert latents.grad is not None
    return predicted.detach(), latents.grad


@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize("size", [(16, 8), (8, 8), (24, 40)])
def test_residual_blocks_by_hand_give_diffusers_numbers_and_gradients(
    packed, own_weights, size
) -> None:
    unet = make_unet()
    own = lean(unet)
    set_attention(own, plain_attention)
    use_quick_layout(own, torch.device("cpu"), own_weights=own_weights)
    for height, width in (size, size[::-1]):  # packed for one size, right for another
        latents = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(3))
        wanted, gradient = input_gradient(unet, latents)
        found, own_gradient = input_gradient(own, latents)
        assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert_close(own_gradient, gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
    assert len(packed) == 2 * 22


def test_residual_blocks_follow_weights_that_change(packed) -> None:
    unet = make_unet()
    own = lean(unet)
    use_quick_layout(own, torch.device("cpu"), own_weights=False)
    before, _ = input_gradient(own, inputs()[0])
    for network in (unet, own):
        with torch.no_grad():
            first = next(m for n, m in network.named_modules() if n == "mid_block.resnets.0.conv2")
            first.weight.mul_(3)
        block = network.get_submodule("up_blocks.3.resnets.1.conv1")
        doubled = 2 * block.get_parameter("weight")
        block.register_parameter("weight", nn.Parameter(doubled, requires_grad=False))
    found, _ = input_gradient(own, inputs()[0])
    assert (found - before).abs().max() > 1e-3
    assert_close(found, input_gradient(unet, inputs()[0])[0], rtol=1e-4, atol=1e-5)
    assert_close(input_gradient(deepcopy(own), inputs()[0])[0], found, rtol=0, atol=0)
    assert packed


def test_residual_blocks_with_adapters_or_under_autocast_are_not_computed_by_hand(packed) -> None:
    own = lean(make_unet())
    use_quick_layout(own, torch.device("cpu"), own_weights=True)
    config = NetworkConfig(rank=2, alpha=2, conv_rank=2, text_encoder=False)
    network = Network.create(find_targets({"unet": own}), config, seed=2)
    with network.attached({"unet": own}), network.training():
        own(*inputs())
    assert not packed
    with torch.autocast("cpu", torch.bfloat16):
        own(*inputs())
    assert not packed
    with torch.no_grad():
        own(*inputs())
    assert not packed
    own(*inputs())
    assert len(packed) == 22


def test_residual_blocks_by_hand_in_half_precision(packed) -> None:
    unet = make_unet()
    wanted, gradient = input_gradient(unet, inputs()[0])
    own = lean(unet).to(torch.bfloat16)
    use_quick_layout(own, torch.device("cpu"), own_weights=True)
    latents, timestep, context = inputs()
    latents = latents.to(torch.bfloat16).requires_grad_()
    found = own(latents, timestep, context.to(torch.bfloat16)).sample
    assert found.dtype == torch.bfloat16
    found.float().square().mean().backward()
    assert len(packed) == 22
    assert_close(found.float(), wanted, rtol=0, atol=0.05 * float(wanted.abs().max()))
    alike = torch.cosine_similarity(latents.grad.float().flatten(), gradient.flatten(), dim=0)
    assert alike > 0.99
