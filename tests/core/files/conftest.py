"""Stable Diffusion 1.5's adapted layers, written down by hand, and small networks to save."""

import pytest
import torch

from lora_loop.core.files.network_file import Module

# Name inside a transformer block -> (inputs, outputs) at width c, with 768 text features.
_TRANSFORMER = {
    **{f"attn1.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"attn2.{name}": (1, 1) for name in ("to_q", "to_out.0")},
    "ff.net.0.proj": (1, 8),
    "ff.net.2": (4, 1),
}
_PLACES = {
    **{f"down_blocks.{i}.attentions.{j}": 320 << i for i in range(3) for j in range(2)},
    "mid_block.attentions.0": 1280,
    **{f"up_blocks.{i}.attentions.{j}": 2560 >> i for i in (1, 2, 3) for j in range(3)},
}


def _sd15_layers() -> dict[str, tuple[int, int, bool]]:
    """Path -> (inputs, outputs, is a 1x1 convolution)."""
    layers = {}
    for place, width in _PLACES.items():
        for end in ("proj_in", "proj_out"):
            layers[f"unet.{place}.{end}"] = (width, width, True)
        inside = f"unet.{place}.transformer_blocks.0"
        for name, (wide_in, wide_out) in _TRANSFORMER.items():
            layers[f"{inside}.{name}"] = (wide_in * width, wide_out * width, False)
        for name in ("to_k", "to_v"):
            layers[f"{inside}.attn2.{name}"] = (768, width, False)
    for number in range(12):
        layer = f"text_encoder.text_model.encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layers[f"{layer}.self_attn.{name}"] = (768, 768, False)
        layers[f"{layer}.mlp.fc1"] = (768, 3072, False)
        layers[f"{layer}.mlp.fc2"] = (3072, 768, False)
    return layers


@pytest.fixture(scope="session")
def sd15_layers() -> dict[str, tuple[int, int, bool]]:
    return _sd15_layers()


@pytest.fixture
def modules() -> dict[str, Module]:
    """A linear layer, a 1x1 and a 3x3 convolution; alpha 3, 0.5 and 1.5."""
    chance = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=chance)

    return {
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (numbers(2, 5), numbers(7, 2), 3.0),
        "lora_unet_mid_block_attentions_0_proj_in": (
            numbers(3, 4, 1, 1),
            numbers(6, 3, 1, 1),
            0.5,
        ),
        "lora_unet_mid_block_resnets_0_conv1": (numbers(1, 4, 3, 3), numbers(5, 1, 1, 1), 1.5),
    }
