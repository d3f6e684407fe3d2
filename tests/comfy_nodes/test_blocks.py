"""BlockWeightPreview and ApplyBlockWeights on a LoRA of a few layers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_loop.comfy_nodes.block_nodes import ApplyBlockWeights, BlockWeightPreview, GridAxes
from lora_loop.comfy_nodes.lora_files import read_lora
from lora_loop.comfy_nodes.lora_nodes import BakeLoRA, SaveLoRA
from lora_loop.core.errors import CheckpointError, ConfigError, FileError
from lora_loop.core.events import Finding
from lora_loop.core.session import graphwork

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


def axes_of(**changes):
    return GridAxes().gather(**{**defaults(GridAxes), **changes})[0]


def test_values_stand_for_the_x_in_the_chosen_weights(host, lora):
    axes = axes_of(x_axis="values", x="0, 0.5", y_axis="none", compare=False)
    preview(BlockWeightPreview(), lora, prompts="momo", chosen="BASE=1, M00=X", axes=axes)
    acting = [strengths for strengths, _, _ in host.drawn]
    assert acting == [(1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.5, 0.0)]


def test_every_prompt_is_drawn_over_axes_too(host, lora):
    axes = axes_of(x_axis="weight", x="0.5, 1", y_axis="none", compare=False)
    preview(BlockWeightPreview(), lora, axes=axes)
    assert [prompt[0] for _, prompt, _ in host.drawn] == ["momo", "a hill"] * 2
    full = axes_of(x="IN01", y="0", z_axis="weight", z="1")
    with pytest.raises(ConfigError, match="2 prompts, and all three axes"):
        preview(BlockWeightPreview(), lora, axes=full)


def test_random_weights_come_out_as_they_were_drawn(host, lora):
    random = "BASE=1, M00=R"
    _, model, _, vector = preview(BlockWeightPreview(), lora, chosen=random, preview_seed=7)
    assert host.drawn[-1][0] == model[1]
    apply = ApplyBlockWeights().apply
    assert apply("model", lora, random, 1.0, 1.0, preview_seed=7)[0][1] == model[1]
    assert apply("model", lora, vector, 1.0, 1.0)[0][1] == model[1]
    assert apply("model", lora, random, 1.0, 1.0, preview_seed=8)[0][1] != model[1]


def test_what_weights_do_by_silence_is_said(host, lora, monkeypatch):
    preview(BlockWeightPreview(), lora, presets="NONE\nNOFACE")
    ApplyBlockWeights().apply("model", lora, "NOFACE", 1.0, 1.0)
    assert host.shown.texts == []
    monkeypatch.setattr(type(lora), "blocks", lambda _: {"BASE", "IN00", "M00"})
    preview(BlockWeightPreview(), lora, presets="NONE\nNOFACE\nMIDD")
    (said,) = host.shown.texts
    assert said.count("IN00") == 2
    ApplyBlockWeights().apply("model", lora, "NOFACE", 1.0, 1.0)
    assert host.shown.texts[1] in said


def test_presets_that_a_family_does_not_have_are_named(host, lora, monkeypatch):
    monkeypatch.setattr(host, "family", lambda _: "sdxl")
    monkeypatch.setattr(type(lora), "blocks", lambda _: {"BASE", "M00"})
    for language, words in (("en", "left out: NOFACE, FACE"), ("zh", "未绘制：NOFACE, FACE")):
        presets = "ALL\nNOFACE\nFACE"
        preview(BlockWeightPreview(), lora, presets=presets, language=language)
        assert host.shown.texts[-1].startswith(words)
    assert "sdxl" in host.shown.texts[-1]


def test_the_sheet_is_in_the_language_that_was_chosen(host, lora, monkeypatch):
    sheets = []
    laid_out = graphwork.table_sheet

    def table_sheet(table, picture, title, facts):
        sheets.append((table.language, title, facts))
        return laid_out(table, picture, title, facts)

    monkeypatch.setattr(graphwork, "table_sheet", table_sheet)
    preview(BlockWeightPreview(), lora, presets="ALL", prompts="momo", language="zh")
    axes = axes_of(x_axis="weight", x="1", y_axis="none")
    preview(BlockWeightPreview(), lora, prompts="momo", axes=axes, language="zh")
    assert {language for language, _, _ in sheets} == {"zh"}
    assert all("four 的分层权重" in title and "像素" in facts for _, title, facts in sheets)


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


@pytest.mark.parametrize("kept", [True, False])
def test_saved_with_block_weights_the_metadata_is_as_chosen(host, lora, kept):
    path = SaveLoRA().save(
        lora, "part", "fp32", kept, block_weights="M00=0.5", trigger="momo", comment="mine"
    )["result"][0]
    metadata = read_lora(Path(path)).metadata
    assert metadata["modelspec.trigger_phrase"] == "momo"
    assert metadata["ss_training_comment"] == "mine"
    assert ("lora_loop.baked_block_weights" in metadata) is kept
    assert ("ss_output_name" in metadata) is kept


def test_what_weights_turn_off_is_said_where_they_are_kept(host, lora, monkeypatch):
    texts = ["these weights turn IN00 off", "2 layers are kept in part"]
    found = [Finding(level="warning", text=text) for text in texts]
    operations = "lora_loop.core.keep.operations"
    monkeypatch.setattr(f"{operations}.BlockWeights.finding", lambda *_: found[0])
    monkeypatch.setattr(f"{operations}._findings", lambda *_: found[1:])
    SaveLoRA().save(lora, "part", "fp32", True, block_weights="M00=0.5")
    assert host.shown.texts[-1].splitlines() == ["part.safetensors, 0.0 MiB", *texts]
    BakeLoRA().bake(lora, "flat", "M00=0.5", 1.0, 1.0, "fp32")
    assert host.shown.texts[-1].splitlines() == texts


def test_what_is_no_lora_is_refused(host):
    path = host.lora_folder() / "text.safetensors"
    path.write_text("no tensors", encoding="utf-8")
    with pytest.raises(FileError, match="can't be read as a LoRA"):
        read_lora(path)
