"""Key maps against names spelled out independently, and against the libraries' own modules."""

import pytest
import torch

from lora_loop.core.models import build, keymaps
from lora_loop.core.models.checkpoint import Checkpoint
from lora_loop.core.models.families import SD1
from lora_loop.core.models.layouts import Layout, read_layout
from lora_loop.core.models.parts import parts_of

from .make_checkpoint import EMBEDDED_LIKE, FULL, THIN, Sd1Shape, sd1_names, sd1_shape

SHAPES = pytest.mark.parametrize("shape", [FULL, THIN, EMBEDDED_LIKE, sd1_shape(64)])


def layout_of(shape: Sd1Shape, tmp_path) -> Layout:
    checkpoint = Checkpoint(tmp_path, dict(sd1_names(shape)), {}, lambda name: None)
    return read_layout(checkpoint, SD1, parts_of(checkpoint, SD1))


def ldm_names(shape: Sd1Shape, prefix: str) -> set[str]:
    names = [name for name, _ in sd1_names(shape)]
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


@SHAPES
def test_layout_is_read_from_the_shapes(shape, tmp_path):
    layout = layout_of(shape, tmp_path)
    assert layout.unet.widths == shape.unet
    assert layout.unet.depths == tuple(map(int, shape.attention))
    assert layout.unet.resnets == shape.unet_resnets
    assert (layout.vae.widths, layout.vae.resnets) == (shape.vae, shape.vae_resnets)
    text = layout.texts["text_encoder"]
    assert (text.layers, text.inner) == (shape.text_layers, shape.text_inner)
    assert (layout.context, text.width, layout.latents) == (shape.text, shape.text, 4)


@SHAPES
def test_unet_map_is_complete(shape, tmp_path):
    layout = layout_of(shape, tmp_path)
    names = keymaps.unet_map(layout.unet)
    assert set(names) == ldm_names(shape, keymaps.UNET_PREFIX)
    assert set(names.values()) == set(build.make_unet(layout).state_dict())


@SHAPES
def test_vae_map_is_complete(shape, tmp_path):
    layout = layout_of(shape, tmp_path)
    names = keymaps.vae_map(layout.vae)
    assert set(names) == ldm_names(shape, keymaps.VAE_PREFIX)
    assert set(names.values()) == set(build.make_vae(layout).state_dict())


@SHAPES
def test_text_map_is_complete(shape, tmp_path):
    layout = layout_of(shape, tmp_path)
    names = keymaps.text_names(layout.texts["text_encoder"])
    assert set(names) == ldm_names(shape, "cond_stage_model.transformer.")
    own = build.make_text_encoder(layout.texts["text_encoder"]).state_dict()
    canonical = {keymaps.canonical_text_name(name) for name in own}
    assert set(names) == {name for name in canonical if "position_ids" not in name}


def test_other_depths_fit_too(tmp_path):
    """Three levels, one residual block each, attention in the deepest level only."""
    shape = Sd1Shape(
        unet=(32, 64, 64), attention=(False, True, True), unet_resnets=1, text=64, text_inner=96
    )
    layout = layout_of(shape, tmp_path)
    names = keymaps.unet_map(layout.unet)
    assert set(names) == ldm_names(shape, keymaps.UNET_PREFIX)
    assert set(names.values()) == set(build.make_unet(layout).state_dict())


def test_sd15_has_the_known_numbers_of_tensors():
    assert len(keymaps.unet_map(keymaps.UNetLayout())) == 686
    assert len(keymaps.vae_map(keymaps.VaeLayout())) == 248
    assert len(keymaps.text_names(keymaps.TextLayout())) == 196


def test_known_names_of_sd15():
    unet = keymaps.unet_map(keymaps.UNetLayout())
    assert unet["output_blocks.5.2.conv.weight"] == "up_blocks.1.upsamplers.0.conv.weight"
    assert unet["output_blocks.2.1.conv.bias"] == "up_blocks.0.upsamplers.0.conv.bias"
    assert (
        unet["input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"]
        == "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight"
    )
    assert unet["input_blocks.4.0.skip_connection.bias"] == (
        "down_blocks.1.resnets.0.conv_shortcut.bias"
    )
    vae = keymaps.vae_map(keymaps.VaeLayout())
    assert vae["decoder.up.0.block.2.conv1.weight"] == "decoder.up_blocks.3.resnets.2.conv1.weight"
    assert vae["encoder.mid.attn_1.proj_out.bias"] == "encoder.mid_block.attentions.0.to_out.0.bias"


@pytest.mark.parametrize(
    "names",
    [keymaps.unet_map(keymaps.UNetLayout()), keymaps.vae_map(keymaps.VaeLayout())],
)
def test_maps_go_both_ways(names):
    back = keymaps.inverted(names)
    assert {back[theirs]: theirs for theirs in names.values()} == names


def test_a_map_with_one_name_for_two_cannot_be_turned_round():
    with pytest.raises(ValueError, match="one name"):
        keymaps.inverted({"a": "x", "b": "x"})


def test_vae_projections_are_the_attention_weights_alone():
    projections = {
        name
        for name in keymaps.vae_map(keymaps.VaeLayout()).values()
        if keymaps.is_vae_projection(name)
    }
    halves = ("encoder", "decoder")
    names = ("to_q", "to_k", "to_v", "to_out.0")
    assert projections == {
        f"{half}.mid_block.attentions.0.{name}.weight" for half in halves for name in names
    }


@pytest.mark.parametrize("projection", [0, 6])
def test_open_clips_tensors_go_there_and_back(projection):
    layout = keymaps.TextLayout(layers=2, width=4, inner=8, projection=projection)
    names = keymaps.open_clip_map(layout)
    assert set(names) == set(keymaps.text_names(layout))
    fused = {"weight": (12, 4), "bias": (12,)}
    stored = {
        place.name: torch.randn(
            (4, 6) if place.third is None else fused[place.name.rpartition("_")[2]]
        )
        for place in names.values()
    }
    ours = {name: place.view(stored[place.name]) for name, place in names.items()}
    for name, place in names.items():
        theirs = stored[place.name]
        assert place.shape(tuple(theirs.shape)) == tuple(ours[name].shape)
        assert ours[name].untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    back = keymaps.open_clip_tensors(layout, ours)
    assert set(back) == set(stored)
    assert all(torch.equal(back[name], stored[name]) for name in stored)
