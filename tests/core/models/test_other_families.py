"""SD2 and SDXL read by us against diffusers' conversions and the libraries' own modules."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_loop.core.errors import CheckpointError
from lora_loop.core.models.base_model import (
    BaseModel,
    load_base_model,
    outline_checkpoint,
    resolve_facts,
)
from lora_loop.core.models.checkpoint import Checkpoint
from lora_loop.core.models.keymaps import canonical_text_name

from . import make_checkpoint as thin

CAPTIONS = ["a photo of a cat", "", "a very long caption " * 30]
END = 49407
ADDED = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": thin.THIN_SDXL.label,
}


class Case(NamedTuple):
    """A thin checkpoint: its family, tensors, and us having read it."""

    family: str
    shape: thin.Sd1Shape
    tensors: dict[str, torch.Tensor]
    base: BaseModel


SHAPES = {"sd2": thin.THIN_SD2, "sdxl": thin.THIN_SDXL}
NAMES = {"sd2": thin.sd2_names, "sdxl": thin.sdxl_names}


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def case(request, tmp_path_factory) -> Case:
    names = NAMES[request.param]()
    path = tmp_path_factory.mktemp("models") / "thin.safetensors"
    base = load_base_model(thin.write_checkpoint(path, names, 7, torch.float32))
    return Case(request.param, SHAPES[request.param], thin.tensors_of(names, 7), base)


@pytest.fixture(scope="module")
def unet(case) -> UNet2DConditionModel:
    depths = case.shape.attention
    network = UNet2DConditionModel(
        block_out_channels=case.shape.unet,
        layers_per_block=case.shape.unet_resnets,
        down_block_types=tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths),
        up_block_types=tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]),
        transformer_layers_per_block=tuple(depth or 1 for depth in depths),
        cross_attention_dim=case.shape.context or case.shape.text,
        attention_head_dim=tuple(width // 64 for width in case.shape.unet),
        use_linear_projection=True,
        **(ADDED if case.family == "sdxl" else {}),
    )
    config = dict(network.config)
    state = single_file_utils.convert_ldm_unet_checkpoint(dict(case.tensors), config)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae(case) -> AutoencoderKL:
    config: dict[str, Any] = {
        "block_out_channels": case.shape.vae,
        "layers_per_block": case.shape.vae_resnets,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    network = AutoencoderKL(**config)
    state = single_file_utils.convert_ldm_vae_checkpoint(dict(case.tensors), dict(network.config))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def clip(kind: Any, state: dict[str, torch.Tensor], **config: Any) -> Any:
    """A whole text encoder of transformers, with every layer that the checkpoint has."""
    settings = CLIPTextConfig(eos_token_id=END, **config)
    network = kind(settings).eval().requires_grad_(False)
    own = {canonical_text_name(name): name for name in network.state_dict()}
    given = {own[name]: value for name, value in state.items() if name in own}
    missing = network.load_state_dict(given, strict=False).missing_keys
    assert all("position_ids" in name for name in missing)
    return network


def open_clip(case: Case, prefix: str, shape: thin.OpenClipShape, kind: Any) -> Any:
    config = CLIPTextConfig(hidden_size=shape.width)
    holder = type("Holder", (), {"config": config})()
    state = single_file_utils.convert_open_clip_checkpoint(holder, case.tensors, prefix)
    return clip(
        kind,
        state,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=2,
        projection_dim=shape.projection,
        hidden_act="gelu",
    )


def padded_with_zeros(ids: torch.Tensor) -> torch.Tensor:
    behind = (ids == END).cumsum(1) - (ids == END).int() > 0
    return ids.masked_fill(behind, 0)


def wanted_condition(case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As Stability's and diffusers' pipelines read whole encoders."""
    ids = case.base.tokenizer.encode(CAPTIONS)
    if case.family == "sd2":
        encoder = open_clip(case, "cond_stage_model.model.", thin.THIN_SD2_TEXT, CLIPTextModel)
        states = encoder(padded_with_zeros(ids), output_hidden_states=True).hidden_states
        return getattr(encoder, "text_model", encoder).final_layer_norm(states[-2]), None
    start = "conditioner.embedders.0.transformer."
    first = clip(
        CLIPTextModel,
        {n.removeprefix(start): v for n, v in case.tensors.items() if n.startswith(start)},
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=1,
    )
    second = open_clip(
        case, "conditioner.embedders.1.model.", thin.THIN_SDXL_TEXT, CLIPTextModelWithProjection
    )
    told = second(padded_with_zeros(ids), output_hidden_states=True)
    context = first(ids, output_hidden_states=True).hidden_states[-2]
    return torch.cat([context, told.hidden_states[-2]], dim=-1), told.text_embeds


def assert_same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_facts(case):
    base = case.base
    assert base.family.key == case.family
    assert base.latent_scale == {"sd2": 0.18215, "sdxl": 0.13025}[case.family]
    assert base.resolution == {"sd2": 512, "sdxl": 1024}[case.family]
    assert base.prediction == "epsilon"
    parts = ["unet", "text_encoder", *["text_encoder_2"] * (case.family == "sdxl")]
    assert list(base.parts) == parts


def test_weights_are_those_of_diffusers_conversion(case, unet, vae):
    assert_same_state(case.base.unet, unet)
    assert_same_state(case.base.vae, vae)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_unet_gives_what_diffusers_gives(case, unet, size):
    latents = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([10, 500, 900])
    condition = case.base.encode_text(CAPTIONS)
    time_ids = torch.tensor([[1080, 1920, 0, 131, 832, 1216], [64, 64, 0, 0, 64, 64]])[[0, 1, 0]]
    added = {"text_embeds": condition.pooled, "time_ids": time_ids}
    wanted = unet(latents, timestep, condition.context, added_cond_kwargs=added).sample
    found = case.base.predict(latents, timestep, condition, time_ids)
    assert relative_difference(found, wanted) < 1e-5


def test_pictures_of_their_own_size_need_no_time_ids(case):
    latents = torch.randn(1, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    condition, timestep = case.base.encode_text(["a cat"]), torch.tensor([500])
    plain = case.base.predict(latents, timestep, condition)
    own = torch.tensor([[48, 80, 0, 0, 48, 80]])
    assert torch.equal(plain, case.base.predict(latents, timestep, condition, own))
    other = case.base.predict(latents, timestep, condition, own + 100)
    assert torch.equal(plain, other) == (case.family == "sd2")


def test_vae_gives_what_diffusers_gives(case, vae):
    pixels = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = case.base.encode_images(pixels)
    posterior, scale = vae.encode(pixels).latent_dist, case.base.latent_scale
    assert relative_difference(mean, posterior.mean * scale) < 1e-5
    assert relative_difference(std, posterior.std * scale) < 1e-5
    decoded = vae.decode(mean / scale).sample
    assert relative_difference(case.base.decode(mean) * 2 - 1, decoded.clamp(-1, 1)) < 1e-5


def test_text_is_what_transformers_gives(case):
    found = case.base.encode_text(CAPTIONS)
    context, pooled = wanted_condition(case)
    assert relative_difference(found.context, context) < 1e-5
    assert (found.pooled is None) == (pooled is None)
    if found.pooled is not None and pooled is not None:
        assert found.pooled.shape == (3, 96)
        assert relative_difference(found.pooled, pooled) < 1e-5


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("sd2", "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias"),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.2.mlp.c_fc.weight"),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"),
        ("sdxl", "model.diffusion_model.label_emb.0.2.bias"),
        ("sdxl", "first_stage_model.quant_conv.bias"),
    ],
)
def test_missing_and_extra_tensors_are_named(tmp_path, family, name):
    tensors = thin.tensors_of(NAMES[family](), 7)
    del tensors[name]
    path = tmp_path / "broken.safetensors"
    save_file({**tensors, "conditioner.strange": torch.ones(1)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_base_model(path)
    assert f"({name})" in str(caught.value)
    assert "1 tensor unknown (conditioner.strange)" in str(caught.value)


@pytest.mark.parametrize(("deviation", "prediction"), [(0.02, "epsilon"), (0.3, "v")])
def test_sd2_files_that_say_nothing_are_told_by_their_weights(tmp_path, deviation, prediction):
    tensors = thin.tensors_of(thin.sd2_names(), 7)
    name = "model.diffusion_model.output_blocks.7.1.transformer_blocks.0.norm1.bias"
    tensors[name] = deviation * torch.randn(64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "silent.safetensors"
    save_file(tensors, path)
    assert load_base_model(path).prediction == prediction
    save_file(tensors, path, metadata={"modelspec.prediction_type": "epsilon"})
    assert load_base_model(path).prediction == "epsilon"


@pytest.mark.parametrize(("stored", "read"), [(24, 23), (23, 23)])
def test_sd2_reads_23_layers_of_text_whether_the_file_has_the_last_or_not(tmp_path, stored, read):
    text = replace(thin.FULL_SD2_TEXT, layers=stored)
    shapes = dict(thin.sd2_names(thin.FULL_SD2, text))
    opened = Checkpoint(tmp_path / "full.safetensors", shapes, {}, lambda name: torch.ones(9))
    outline = outline_checkpoint(opened, resolve_facts(opened, "auto", "auto"))
    assert outline.layout.texts["text_encoder"].layers == read


PUBLISHED = {  # parameters of the models on their hubs, SD2's text encoder without its last layer
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}
CARRIED = {
    "sd2": ["alphas_cumprod", "betas", "model_ema.decay", "model_ema.num_updates"],
    "sdxl": [
        "denoiser.sigmas",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    ],
}


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_full_size_layouts_have_the_published_sizes(tmp_path, family):
    """From the header alone: no weight is made."""
    names = {
        "sd2": thin.sd2_names(thin.FULL_SD2, thin.FULL_SD2_TEXT),
        "sdxl": thin.sdxl_names(thin.FULL_SDXL, thin.FULL_SDXL_TEXT),
    }[family]
    shapes = dict(names) | dict.fromkeys(CARRIED[family], (1,))
    opened = Checkpoint(tmp_path / "full.safetensors", shapes, {}, lambda name: torch.ones(1))
    outline = outline_checkpoint(opened, resolve_facts(opened, "auto", "auto"))
    counts = {
        part: sum(parameter.numel() for parameter in network.parameters())
        for part, network in outline.networks.items()
    }
    assert counts == PUBLISHED[family]
    heads = {"sd2": (5, 10, 20, 20), "sdxl": (5, 10, 20)}[family]
    assert outline.layout.unet.heads == heads


def test_a_vector_of_another_length_is_refused(tmp_path):
    tensors = thin.tensors_of(thin.sdxl_names(), 7)
    name = "model.diffusion_model.label_emb.0.0.weight"
    path = tmp_path / "odd.safetensors"
    save_file({**tensors, name: tensors[name][:, :-256].contiguous()}, path)
    with pytest.raises(CheckpointError, match="takes 1376 channels beside the text"):
        load_base_model(path)
