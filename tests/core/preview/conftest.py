"""A very small base model with Stable Diffusion 1's blocks, of random weights, and a network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config import NetworkConfig
from lora_loop.core.models.base_model import BaseFacts, BaseModel
from lora_loop.core.models.families import SD1

WIDTH = 16


def _networks() -> dict[str, Any]:
    cross = ["CrossAttn"] * 3
    unet = UNet2DConditionModel.from_config(
        {
            "sample_size": 8,
            "layers_per_block": 1,
            "block_out_channels": [8, 8, 16, 16],
            "norm_num_groups": 4,
            "attention_head_dim": 2,
            "cross_attention_dim": WIDTH,
            "down_block_types": [f"{kind}DownBlock2D" for kind in [*cross, ""]],
            "up_block_types": [f"{kind}UpBlock2D" for kind in ["", *cross]],
        }
    )
    vae = AutoencoderKL.from_config(
        {
            "block_out_channels": [4, 4, 4, 4],
            "norm_num_groups": 2,
            "layers_per_block": 1,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "sample_size": 64,
        }
    )
    text = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the libraries draw their weights from the process's stream
        networks = _networks()
    for module in networks.values():
        module.requires_grad_(False).eval()
    return networks


@pytest.fixture
def base(weights: dict[str, torch.nn.Module], tmp_path: Path) -> BaseModel:
    file = tmp_path / "tiny.safetensors"
    file.write_bytes(b"tiny")
    facts = BaseFacts(
        path=file, family=SD1, prediction="epsilon", zero_terminal_snr=False, resolution=64
    )
    return BaseModel(weights, facts)


@pytest.fixture
def updates(network: Network) -> dict[str, Update]:
    """The same numbers, for networks in sums."""
    return updates_of(network)


def updates_of(network: Network) -> dict[str, Update]:
    """A network's factors as a file has them."""
    return {
        path: Update(
            {
                "lora_down.weight": own.down_RI,
                "lora_up.weight": own.up_OR,
                "alpha": torch.tensor(own.alpha),
            }
        )
        for path, own in network.weights().items()
    }


@pytest.fixture
def network(base: BaseModel) -> Network:
    """A network that changes every block, in sizes that show."""
    targets = find_targets(base.parts)
    network = Network.create(targets, NetworkConfig(rank=2, alpha=2.0), seed=3)
    chance = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, factor in network.named_parameters().items():
            if name.endswith(".up"):
                factor.copy_(torch.randn(factor.shape, generator=chance))
    return network
