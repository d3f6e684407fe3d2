"""Small base models with the names that adapters look for."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config import NetworkConfig

THIN = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2}


def make_clip(layers: int, hidden: int) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        eos_token_id=49,
    )
    return CLIPTextModel(config)


@pytest.fixture(scope="session")
def make_text_encoder() -> Callable[[int, int], nn.Module]:
    """A text encoder of so many layers and so wide."""
    return make_clip


@pytest.fixture(scope="session")
def unet() -> nn.Module:
    torch.manual_seed(0)
    model = UNet2DConditionModel(cross_attention_dim=8, **THIN)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def text_encoder() -> nn.Module:
    torch.manual_seed(1)
    return make_clip(2, 8).eval().requires_grad_(False)


@pytest.fixture
def make_network(unet: nn.Module, text_encoder: nn.Module) -> Callable[[int], Network]:
    """A network that changes something in every layer, given the rank of its convolutions."""

    def make(conv_rank: int) -> Network:
        config = NetworkConfig(rank=3, alpha=1.5, conv_rank=conv_rank)
        targets = find_targets({"unet": unet, "text_encoder": text_encoder})
        network = Network.create(targets, config, seed=2)
        chance = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in network.named_parameters().items():
                if name.endswith(".up"):
                    parameter.normal_(std=0.3 if "resnets" in name else 1, generator=chance)
        return network

    return make


@pytest.fixture
def network(make_network: Callable[[int], Network]) -> Network:
    """A plain LoRA that changes something in every layer."""
    return make_network(0)
