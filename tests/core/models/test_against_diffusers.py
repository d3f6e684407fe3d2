"""Networks read by us against diffusers' own single-file conversion and transformers' own CLIP."""

from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lora_loop.core.models.base_model import BaseModel, load_base_model
from lora_loop.core.models.keymaps import canonical_text_name
from lora_loop.core.models.text import TextOptions

from .make_checkpoint import EMBEDDED_LIKE, THIN, Sd1Shape, sd1_tensors, write_sd1_checkpoint

LEVELS = 4


@pytest.fixture(scope="module", params=[THIN, EMBEDDED_LIKE], ids=["thin", "embedded"])
def shape(request) -> Sd1Shape:
    return request.param


@pytest.fixture(scope="module")
def tensors(shape):
    return sd1_tensors(shape, seed=7)


@pytest.fixture(scope="module")
def base(shape, tmp_path_factory) -> BaseModel:
    path = tmp_path_factory.mktemp("models") / "thin.safetensors"
    return load_base_model(write_sd1_checkpoint(path, shape=shape, seed=7, dtype=torch.float32))


@pytest.fixture(scope="module")
def unet(shape, tensors) -> UNet2DConditionModel:
    network = UNet2DConditionModel(
        block_out_channels=shape.unet, cross_attention_dim=shape.text, attention_head_dim=8
    )
    config = dict(network.config)
    state = single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), config)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae(shape, tensors) -> AutoencoderKL:
    config: dict[str, Any] = {
        "block_out_channels": shape.vae,
        "layers_per_block": shape.vae_resnets,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
        "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
    }
    network = AutoencoderKL(**config)
    state = single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), dict(network.config))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def text_encoder(shape, tensors) -> CLIPTextModel:
    config = CLIPTextConfig(
        hidden_size=shape.text,
        intermediate_size=shape.text_inner,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=1,
        eos_token_id=49407,
    )
    config._attn_implementation = "eager"
    network = CLIPTextModel(config).eval().requires_grad_(False)
    own = {canonical_text_name(name): name for name in network.state_dict()}
    prefix = "cond_stage_model.transformer."
    state = {
        own[name.removeprefix(prefix)]: value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    missing = network.load_state_dict(state, strict=False).missing_keys
    assert all("position_ids" in name for name in missing)
    return network


def assert_same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_unet_weights_are_those_of_diffusers_conversion(base, unet):
    assert_same_state(base.unet, unet)


def test_vae_weights_are_those_of_diffusers_conversion(base, vae):
    assert_same_state(base.vae, vae)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_unet_gives_what_diffusers_gives(base, unet, size):
    chance = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, *size, generator=chance)
    condition = base.encode_text(["a cat", "two dogs"])
    timestep = torch.tensor([10, 900])
    wanted = unet(latents, timestep, condition.context).sample
    assert relative_difference(base.predict(latents, timestep, condition), wanted) < 1e-5


def test_vae_gives_what_diffusers_gives(base, vae):
    pixels = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = base.encode_images(pixels)
    posterior = vae.encode(pixels).latent_dist
    assert relative_difference(mean, posterior.mean * 0.18215) < 1e-5
    assert relative_difference(std, posterior.std * 0.18215) < 1e-5
    decoded = vae.decode(mean / 0.18215).sample
    assert relative_difference(base.decode(mean) * 2 - 1, decoded.clamp(-1, 1)) < 1e-5


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_text_is_what_transformers_gives(base, text_encoder, clip_skip):
    captions = ["a photo of a cat", "", "a very long caption " * 30, "猫 😀"]
    ids = base.tokenizer.encode(captions)
    states = text_encoder(ids, output_hidden_states=True).hidden_states
    norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    last = text_encoder(ids).last_hidden_state
    found = base.encode_text(captions, TextOptions(clip_skip=clip_skip))
    wanted = last if clip_skip == 1 else norm(states[-clip_skip])
    assert relative_difference(found.context, wanted) < 1e-5
