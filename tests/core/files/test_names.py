"""Kohya's frozen key names: those of the whole models, as sd-scripts makes them, and the ends."""

from collections import Counter

import pytest
import torch

from lora_loop.core.adapters.blocks import block_of
from lora_loop.core.adapters.lora import init_lora
from lora_loop.core.adapters.network import adapter_size
from lora_loop.core.config import NetworkConfig
from lora_loop.core.files.names import kohya_key, paths_by_key

FAMILIES = ("sd1", "sd2", "sdxl")
ATTENTION = "attentions.0.transformer_blocks.0"
MB = 1_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_those_of_sd_scripts(family, frozen, layers_of):
    expected = {key: (row.down, row.up) for key, row in frozen(family).items()}
    chance = torch.Generator().manual_seed(0)
    found = {}
    for path, layer in layers_of(family).items():
        down, up = init_lora(layer, 1, chance)
        found[kohya_key(path, family)] = (tuple(down.shape), tuple(up.shape))
    assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_adapt_is_what_sd_scripts_adapts(family, frozen, layers_of):
    rows, rank, conv_rank = frozen(family), 8, 4
    plain, locon = NetworkConfig(rank=rank), NetworkConfig(rank=rank, conv_rank=conv_rank)
    for config, keys in ((plain, {key for key, row in rows.items() if row.lora}), (locon, {*rows})):
        sizes = {}
        for path, layer in layers_of(family).items():
            size = adapter_size(path, layer, config)
            if size is not None:
                sizes[kohya_key(path, family)] = size.rank
        assert set(sizes) == keys
        wide = {key for key in keys if rows[key].down[2:] == (3, 3)}
        assert sizes == {key: conv_rank if key in wide else rank for key in keys}


@pytest.mark.parametrize(
    ("family", "lora", "locon"),
    [
        ("sd1", {"unet": 192, "te": 72}, 278),
        ("sd2", {"unet": 192, "te": 138}, 278),
        ("sdxl", {"unet": 722, "te1": 72, "te2": 192}, 788),
    ],
)
def test_counts(family, lora, locon, frozen):
    rows = frozen(family)
    assert Counter(key.split("_")[1] for key, row in rows.items() if row.lora) == lora
    assert sum(key.startswith("lora_unet_") for key in rows) == locon
    wide = [row for row in rows.values() if row.down[2:] == (3, 3)]
    assert len(wide) == {"sd1": 50, "sd2": 50, "sdxl": 38}[family]
    assert not any(row.lora for row in wide)


def test_sizes_in_fp16(frozen):
    """Bytes of the factors at the ranks that people use: numbers of known files."""

    def size(family: str, start: str = "lora_", *, kernel: int = 0) -> int:
        rows = ((key, row) for key, row in frozen(family).items() if key.startswith(start))
        chosen = (row for _, row in rows if row.down[-1] == kernel or (row.lora and not kernel))
        return 2 * sum(row.numbers for row in chosen)

    assert size("sd1") == 1.125 * 2**20
    assert round(128 * size("sd1", "lora_unet_") / MB, 1) == 108.5
    assert round(8 * size("sd1", kernel=3) / MB, 1) == 8.7
    assert round(32 * size("sd1", kernel=3) / MB, 1) == 34.8
    assert round(128 * size("sd2") / MB) == 219
    assert round(32 * size("sdxl", "lora_unet_") / MB) == 170
    assert round(128 * size("sdxl", "lora_unet_") / MB) == 681
    assert round(32 * size("sdxl") / MB) == 228
    assert round(128 * size("sdxl") / MB) == 912


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (
            "unet.down_blocks.0.attentions.1.proj_in",
            "lora_unet_down_blocks_0_attentions_1_proj_in",
        ),
        (
            f"unet.mid_block.{ATTENTION}.attn1.to_out.0",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
        ),
        (
            f"unet.up_blocks.1.{ATTENTION}.ff.net.0.proj",
            "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj",
        ),
        ("unet.up_blocks.0.upsamplers.0.conv", "lora_unet_up_blocks_0_upsamplers_0_conv"),
        ("unet.conv_in", "lora_unet_conv_in"),
        ("unet.time_embedding.linear_2", "lora_unet_time_embedding_linear_2"),
        (
            "text_encoder.text_model.encoder.layers.11.self_attn.out_proj",
            "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
        ),
    ],
)
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_frozen_names(family, path, key):
    assert kohya_key(path, family) == key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("unet.conv_in", "input_blocks_0_0"),
        ("unet.time_embedding.linear_1", "time_embed_0"),
        ("unet.time_embedding.linear_2", "time_embed_2"),
        ("unet.add_embedding.linear_1", "label_emb_0_0"),
        ("unet.add_embedding.linear_2", "label_emb_0_2"),
        ("unet.conv_norm_out", "out_0"),
        ("unet.conv_out", "out_2"),
        ("unet.down_blocks.0.resnets.0.norm1", "input_blocks_1_0_in_layers_0"),
        ("unet.down_blocks.0.resnets.1.conv1", "input_blocks_2_0_in_layers_2"),
        ("unet.down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("unet.down_blocks.1.resnets.0.conv_shortcut", "input_blocks_4_0_skip_connection"),
        (
            f"unet.down_blocks.1.{ATTENTION}.attn1.to_q",
            "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        ),
        ("unet.down_blocks.2.attentions.1.norm", "input_blocks_8_1_norm"),
        ("unet.mid_block.resnets.0.time_emb_proj", "middle_block_0_emb_layers_1"),
        ("unet.mid_block.attentions.0.proj_out", "middle_block_1_proj_out"),
        ("unet.mid_block.resnets.1.conv2", "middle_block_2_out_layers_3"),
        ("unet.up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
        ("unet.up_blocks.1.attentions.2.proj_in", "output_blocks_5_1_proj_in"),
        ("unet.up_blocks.2.resnets.2.norm2", "output_blocks_8_0_out_layers_0"),
    ],
)
def test_sdxls_unet_has_the_names_of_its_original_code(path, key):
    assert kohya_key(path, "sdxl") == f"lora_unet_{key}"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("text_encoder", "lora_te1_text_model_encoder_layers_0_mlp_fc2"),
        ("text_encoder_2", "lora_te2_text_model_encoder_layers_0_mlp_fc2"),
    ],
)
def test_sdxls_text_encoders_are_numbered(path, key):
    assert kohya_key(f"{path}.text_model.encoder.layers.0.mlp.fc2", "sdxl") == key


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc2", "sd1"),
        ("vae.encoder.conv_in", "sdxl"),
        ("unet", "sd1"),
        ("unet.conv_in", "flux"),
        ("unet.down_blocks.0.upsamplers.0.conv", "sdxl"),
        ("unet.down_blocks.0.downsamplers.0.op", "sdxl"),
        ("unet.down_blocks.0.resnets.0.nonlinearity", "sdxl"),
        ("unet.down_blocks.attentions.0.proj_in", "sdxl"),
        ("unet.mid_block.0.attentions.0.proj_in", "sdxl"),
        ("unet.mid_block.upsamplers.0.conv", "sdxl"),
        ("unet.encoder_hid_proj", "sdxl"),
    ],
)
def test_what_is_no_layer_of_a_family_has_no_key(path, family):
    with pytest.raises(ValueError, match=f"{path} has no key: {family}"):
        kohya_key(path, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_for_the_whole_model(family, layers_of):
    paths = list(layers_of(family))
    ways_back = paths_by_key(paths, family)
    assert {ways_back[kohya_key(path, family)] for path in paths} == set(paths)
    assert all(ways_back[kohya_key(path, family)] == path for path in paths)
    assert not any("." in key for key in ways_back)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_spellings_of_a_unet_are_read(family, layers_of):
    """And every spelling of a layer lies in its block."""
    paths = list(layers_of(family))
    spellings = Counter(paths_by_key(paths, family).values())
    assert {path for path in paths if spellings[path] != 2} == {
        path for path in paths if family == "sdxl" and path.startswith("text_encoder")
    }
    for key, path in paths_by_key(paths, family).items():
        assert block_of(key) == block_of(path), key
        assert block_of(path) is not None, path


def test_other_tools_spellings(layers_of):
    layer = "text_model_encoder_layers_3_mlp_fc1"
    text = "text_encoder.text_model.encoder.layers.3.mlp.fc1"
    for family in ("sd1", "sd2"):
        read = paths_by_key(layers_of(family), family)
        assert read[f"lora_te1_{layer}"] == read[f"lora_te_{layer}"] == text
        ldm = {
            "input_blocks_1_1_proj_in": "down_blocks.0.attentions.0.proj_in",
            "input_blocks_9_0_op": "down_blocks.2.downsamplers.0.conv",
            "input_blocks_11_0_out_layers_3": "down_blocks.3.resnets.1.conv2",
            "middle_block_1_proj_out": "mid_block.attentions.0.proj_out",
            "output_blocks_2_1_conv": "up_blocks.0.upsamplers.0.conv",
            "output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
            "output_blocks_11_1_proj_out": "up_blocks.3.attentions.2.proj_out",
        }
        assert {key: read[f"lora_unet_{key}"] for key in ldm} == {
            key: f"unet.{path}" for key, path in ldm.items()
        }
    read = paths_by_key(layers_of("sdxl"), "sdxl")
    for path in (
        "down_blocks.1.attentions.1.transformer_blocks.1.ff.net.0.proj",
        "up_blocks.0.upsamplers.0.conv",
        "mid_block.resnets.1.conv2",
    ):
        assert read[f"lora_unet_{path.replace('.', '_')}"] == f"unet.{path}"
    # a single text encoder's key says nothing of which of the two it is for
    assert f"lora_te_{layer}" not in read


def test_the_hand_written_layers_are_those_of_the_model(sd15_layers, frozen):
    plain = {key for key, row in frozen("sd1").items() if row.lora}
    assert {kohya_key(path) for path in sd15_layers} == plain
