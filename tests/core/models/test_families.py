"""What a file is, told from names and shapes alone."""

from pathlib import Path

import pytest

from lora_loop.core.errors import CheckpointError
from lora_loop.core.models import families
from lora_loop.core.models.checkpoint import Checkpoint

from .make_checkpoint import FULL, THIN, Sd1Shape, sd1_names

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."
KOHYA = ("lora_down.weight", "lora_up.weight", "alpha")


def checkpoint(shapes: dict, metadata: dict[str, str] | None = None) -> Checkpoint:
    return Checkpoint(Path("some model.safetensors"), shapes, metadata or {}, lambda name: None)


def sd1(shape: Sd1Shape = THIN) -> dict[str, tuple[int, ...]]:
    return dict(sd1_names(shape))


def named(*names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (2, 2))


def unet_of(channels: int, *others: str) -> dict[str, tuple[int, ...]]:
    return {f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3), **named(*others)}


def refusal(shapes: dict, metadata: dict[str, str] | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        families.require_trained(checkpoint(shapes, metadata))
    text = str(caught.value)
    assert text.startswith("some model.safetensors is ")
    return text


@pytest.mark.parametrize("shape", [FULL, THIN])
def test_sd1_is_known_at_any_width(shape):
    family = families.require_trained(checkpoint(sd1(shape)))
    assert family is families.SD1
    assert (family.latent_scale, family.resolution, family.prediction) == (0.18215, 512, "epsilon")


@pytest.mark.parametrize(
    ("shapes", "key"),
    [
        (unet_of(4, "cond_stage_model.model.transformer.resblocks.0.ln_1.weight"), "sd2"),
        (
            unet_of(
                4, "conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.ln_final"
            ),
            "sdxl",
        ),
        (unet_of(4, f"{UNET}label_emb.0.0.weight"), "sdxl"),
    ],
)
def test_sd2_and_sdxl_are_known(shapes, key):
    assert families.require_trained(checkpoint(shapes)).key == key


@pytest.mark.parametrize(
    ("shapes", "title"),
    [
        (unet_of(4, "conditioner.embedders.0.model.ln_final.weight"), "refiner"),
        (unet_of(9, f"{TEXT}text_model.final_layer_norm.weight"), "in-painting"),
        (unet_of(9, "cond_stage_model.model.ln_final.weight"), "in-painting"),
        (unet_of(9, "conditioner.embedders.1.model.ln_final.weight"), "in-painting"),
        (unet_of(5, "cond_stage_model.model.ln_final.weight"), "depth"),
        (unet_of(8, f"{TEXT}text_model.final_layer_norm.weight"), "image-editing"),
        (named(f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"), "Diffusion 3"),
        (named(f"{UNET}double_blocks.0.img_attn.qkv.weight"), "Flux"),
        (named("double_blocks.0.img_attn.qkv.weight"), "Flux"),
        (named(f"{UNET}double_layers.0.attn.w1q.weight"), "AuraFlow"),
        (named("single_transformer_blocks.0.attn.to_q.weight"), "Flux"),
        (named("transformer_blocks.0.img_mod.1.weight"), "Qwen-Image"),
        (named("transformer_blocks.0.attn.add_q_proj.weight"), "Diffusion 3"),
        (named(f"{UNET}patchify_proj.weight"), "video model"),
        (unet_of(4, "conditioner.embedders.1.model.ln_final", "edm_mean", "edm_std"), "EDM"),
    ],
)
def test_other_families_are_refused_by_name(shapes, title):
    text = refusal(shapes)
    assert title in text
    assert "can't be trained yet" in text


def test_a_refiner_without_its_text_encoder_is_told_by_its_metadata():
    shapes = unet_of(4, f"{UNET}label_emb.0.0.weight")
    stated = {"modelspec.architecture": "stable-diffusion-xl-v1-refiner"}
    assert "refiner" in refusal(shapes, stated)


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (named(*(f"lora_unet_a_{n}.{end}" for n in range(264) for end in KOHYA)), "264 modules"),
        (named(*(f"unet.down.{n}.to_q.lora_A.weight" for n in range(3))), "a LoRA (3 modules)"),
        (named("unet.mid.attn.processor.to_q_lora.down.weight"), "a LoRA (1 modules)"),
        (named("lora_unet_x.hada_w1_a", "lora_unet_x.hada_w2_b"), "a LoRA (1 modules)"),
        (named("lora_unet_x.lokr_w1", "lora_unet_x.alpha"), "a LoRA (1 modules)"),
        (named("encoder.conv_in.weight", "decoder.conv_in.weight"), "a VAE only"),
        (named("first_stage_model.encoder.conv_in.weight"), "a VAE only"),
        (named("down_blocks.0.resnets.0.conv1.weight"), "a U-Net only, in diffusers' names"),
        (named("diffusion_model.input_blocks.0.0.weight"), "a U-Net only"),
        (named("text_model.encoder.layers.0.mlp.fc1.weight"), "a text encoder only"),
        (named("emb_params"), "a textual inversion"),
        (named("control_model.input_hint_block.0.weight"), "a ControlNet"),
        (named("some.layer.weight"), "not a checkpoint that is known"),
        (named(f"{UNET}blocks.0.weight"), "not laid out as Stable Diffusion"),
        ({}, "not a checkpoint that is known"),
    ],
)
def test_other_kinds_of_file_are_called_by_their_name(shapes, kind):
    text = refusal(shapes)
    assert kind in text
    assert "give the base model itself" in text


def test_a_checkpoint_with_a_safety_checker_is_still_sd1():
    extra = named("safety_checker.vision_model.embeddings.patch_embedding.weight")
    assert families.require_trained(checkpoint({**sd1(), **extra})) is families.SD1


@pytest.mark.parametrize(
    ("extra", "metadata", "prediction"),
    [
        ({}, {}, "epsilon"),
        (named("v_pred"), {}, "v"),
        ({}, {"modelspec.prediction_type": "v"}, "v"),
        ({}, {"modelspec.prediction_type": " V_prediction "}, "v"),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({}, {"modelspec.prediction_type": "what"}, "epsilon"),
    ],
)
def test_prediction_is_as_stated(extra, metadata, prediction):
    opened = checkpoint({**sd1(), **extra}, metadata)
    assert families.stated_prediction(opened, families.SD1) == prediction


@pytest.mark.parametrize(
    ("extra", "metadata", "zero"),
    [
        ({}, {}, False),
        (named("ztsnr"), {}, True),
        ({}, {"ztsnr": "true"}, True),
        ({}, {"ztsnr": ""}, False),
        ({}, {"ztsnr": "False"}, False),
    ],
)
def test_zero_terminal_snr_is_as_stated(extra, metadata, zero):
    assert families.stated_zero_terminal_snr(checkpoint({**sd1(), **extra}, metadata)) is zero


@pytest.mark.parametrize(
    ("stated", "side"),
    [
        ("64x64", 64),
        ("768x768", 768),
        ("512 x 768", 512),
        ("640", 640),
        ("0x0", 512),
        ("-64x64", 512),
        ("99999x99999", 512),
        ("large", 512),
        ("", 512),
    ],
)
def test_resolution_is_as_stated(stated, side):
    opened = checkpoint(sd1(), {"modelspec.resolution": stated})
    assert families.stated_resolution(opened, families.SD1) == side
