"""The adapted layers of the families, by hand, frozen and of real models; networks to save."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.files.network_file import Module

from ..published import UNETS

KEYS = Path(__file__).parent / "keys"
FAMILIES = ("sd1", "sd2", "sdxl")

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


class Frozen(NamedTuple):
    """One line of a frozen list: whether plain LoRA has the module, and its factors' shapes."""

    lora: bool
    down: tuple[int, ...]
    up: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers its factors hold at rank 1."""
        return sum(torch.Size(shape).numel() for shape in (self.down, self.up))


def _shape(text: str) -> tuple[int, ...]:
    """At rank 1, which the lists call r."""
    return tuple(1 if side == "r" else int(side) for side in text.split(","))


@cache
def _frozen(family: str) -> dict[str, Frozen]:
    lines = (KEYS / f"{family}.txt").read_text(encoding="ascii").splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return {key: Frozen(kind == "lora", _shape(down), _shape(up)) for kind, key, down, up in rows}


@pytest.fixture(scope="session")
def frozen() -> Callable[[str], dict[str, Frozen]]:
    """Family -> kohya key -> what sd-scripts makes of it: LoCon, which holds the plain LoRA."""
    return _frozen


def _clip(kind: type[nn.Module], layers: int, width: int) -> nn.Module:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )
    return kind(config)


_TEXT_ENCODERS = {
    "sd1": {"text_encoder": (CLIPTextModel, 12, 768)},
    # the 24th layer is never read, so nobody trains it
    "sd2": {"text_encoder": (CLIPTextModel, 23, 1024)},
    "sdxl": {
        "text_encoder": (CLIPTextModel, 12, 768),
        "text_encoder_2": (CLIPTextModelWithProjection, 32, 1280),
    },
}


@cache
def _layers(family: str) -> dict[str, nn.Module]:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[family])
        texts = {part: _clip(*given) for part, given in _TEXT_ENCODERS[family].items()}
        return find_targets({"unet": unet, **texts})


@pytest.fixture(scope="session")
def layers_of() -> Callable[[str], dict[str, nn.Module]]:
    """Family -> path -> layer of a model of full width, on meta: all that LoCon adapts."""
    return _layers
