"""BlockWeightPreview and ApplyBlockWeights on a LoRA of a few layers."""

import pytest
import torch
from safetensors.torch import save_file

from lora_loop.comfy_nodes.block_nodes import ApplyBlockWeights, BlockWeightPreview, GridAxes
from lora_loop.comfy_nodes.lora_files import read_lora
from lora_loop.comfy_nodes.lora_nodes import BakeLoRA
from lora_loop.core.errors import CheckpointError, ConfigError, FileError

from .conftest import defaults

LAYERS = (
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "lora_unet_down_blocks_0_attentions_0_proj_in",  # IN01
    "lora_unet_mid_block_attentions_0_proj_in",  # M00
    "lora_unet_up_blocks_3_attentions_2_proj_in",  # OUT11
)
SMALL = {"steps": 2, "width": 64, "height": 64, "prompts": "momo\na hill"}


@pytest.fixture
def lora(host):
    tensors = {}
    for layer in LAYERS:
        tensors[f"{layer}.lora_down.weight"] = torch.full((1, 4), 0.5)
        tensors[f"{layer}.lora_up.weight"] = torch.full((4, 1), 0.5)
        tensors[f"{layer}.alpha"] = torch.tensor(1.0)
    path = host.lora_folder() / "four.safetensors"
    save_file(tensors, path, {"modelspec.trigger_phrase": "m0m0"})
    return read_lora(path)


def preview(node, lora, **changes):
    widgets = {**defaults(BlockWeightPreview), **SMALL, **changes}
    model, clip, vae = changes.pop("owners", ("model", "clip", "vae"))
    widgets.pop("owners", None)
    return node.preview(model, clip, vae, lora, **widgets)["result"]


def test_a_grid_is_drawn_and_the_chosen_weights_come_out(host, lora):
    grid, model, clip, vector = preview(
        BlockWeightPreview(), lora, presets="NONE\nALL", chosen="M00=0.5, BASE=1"
    )
    assert grid.shape[0] == 1
    assert model[1] == clip[1] == (1.0, 0.0, 0.5, 0.0)
    assert vector.split(",")[0] == "1"
    acting = [strengths for strengths, _, _ in host.drawn]
    nothing, everything, chosen = (0.0,) * 4, (1.0,) * 4, (1.0, 0.0, 0.5, 0.0)
    assert acting == [nothing, nothing, everything, everything, chosen, chosen]
    assert [seed for _, _, seed in host.drawn] == [1, 2] * 3  # a row has its own


def test_only_what_is_new_is_drawn_again(host, lora):
    node, owners = BlockWeightPreview(), ("model", "clip", "vae")
    preview(node, lora, presets="NONE\nALL", owners=owners)
    host.drawn.clear()
    preview(node, lora, presets="NONE\nALL", chosen="OUTALL", owners=owners)
    assert len(host.drawn) == 2
    preview(node, lora, presets="NONE\nALL", chosen="OUTALL", preview_seed=9, owners=owners)
    assert len(host.drawn) == 2 + 6
    preview(node, lora, presets="NONE\nALL", owners=("another model", "clip", "vae"))
    assert len(host.drawn) == 2 + 6 + 4


def test_presets_that_mean_the_same_are_drawn_once(host, lora):
    preview(BlockWeightPreview(), lora, presets="NONE\nNOT\nALL\nALL=1", prompts="momo")
    assert len(host.drawn) == 2


def test_without_a_prompt_the_trigger_is_drawn(host, lora):
    preview(BlockWeightPreview(), lora, presets="ALL", prompts=" \n")
    assert {prompt[0] for _, prompt, _ in host.drawn} == {"m0m0"}


def test_axes_take_the_presets_place(host, lora):
    widgets = {**defaults(GridAxes), "x": "IN01, M00", "y": "0, 1"}
    axes = GridAxes().gather(**widgets)[0]
    preview(BlockWeightPreview(), lora, prompts="momo", axes=axes)
    acting = {strengths for strengths, _, _ in host.drawn}
    assert acting == {(0.0,) * 4, (1.0,) * 4, (1.0, 0.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0)}
    with pytest.raises(ConfigError, match="no entries"):
        GridAxes().gather(**{**widgets, "x": " "})


def test_strengths_multiply_the_blocks(host, lora):
    model, clip = ApplyBlockWeights().apply("model", lora, "MIDD", 0.5, 2.0, "clip")
    assert model[1] == (2.0, 0.0, 0.5, 0.0)
    assert clip[1] == model[1]


def test_cancel_is_handed_on_and_what_was_drawn_stays(host, lora):
    node, owners = BlockWeightPreview(), ("model", "clip", "vae")
    host.cancel_after = host.asked + 3
    with pytest.raises(host.cancelled):
        preview(node, lora, presets="NONE\nALL", owners=owners)
    drawn = len(host.drawn)
    preview(node, lora, presets="NONE\nALL", owners=owners)
    assert len(host.drawn) == 4
    assert drawn < 4


def test_wrong_words_are_named(host, lora):
    with pytest.raises(ConfigError, match="no preset 'NOFAC'"):
        preview(BlockWeightPreview(), lora, presets="NOFAC")
    with pytest.raises(CheckpointError, match="CLIP is empty"):
        preview(BlockWeightPreview(), lora, owners=("model", None, "vae"))
    with pytest.raises(CheckpointError, match="kind Flux"):
        ApplyBlockWeights().apply("flux", lora, "ALL", 1.0, 1.0)


def test_baked_weights_need_no_words_any_more(host, lora):
    baked, _ = BakeLoRA().bake(lora, "flat", "M00=0.5, BASE=1", 1.0, 0.0, "fp32")
    assert host.lora_names() == ["flat.safetensors", "four.safetensors"]
    assert baked.layers() == [LAYERS[2]]
    middle = f"{LAYERS[2]}.lora_up.weight"
    assert torch.allclose(baked.tensors[middle], 0.5 * lora.tensors[middle])
    with pytest.raises(ConfigError, match="leave the"):
        BakeLoRA().bake(lora, "flat.safetensors", "ALL", 1.0, 1.0, "fp16")


def test_what_is_no_lora_is_refused(host):
    path = host.lora_folder() / "text.safetensors"
    path.write_text("no tensors", encoding="utf-8")
    with pytest.raises(FileError, match="can't be read as a LoRA"):
        read_lora(path)
