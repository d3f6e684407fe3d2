"""Kohya's frozen key names: lora_files.md section 4a."""

import pytest

from lora_loop.core.files.names import kohya_key, paths_by_key

ATTENTION = "attentions.0.transformer_blocks.0"


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
            f"unet.up_blocks.3.{ATTENTION}.attn2.to_k",
            "lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn2_to_k",
        ),
        (
            f"unet.up_blocks.1.{ATTENTION}.ff.net.0.proj",
            "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj",
        ),
        (
            f"unet.down_blocks.2.{ATTENTION}.ff.net.2",
            "lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_ff_net_2",
        ),
        (
            "unet.up_blocks.0.upsamplers.0.conv",
            "lora_unet_up_blocks_0_upsamplers_0_conv",
        ),
        (
            "text_encoder.text_model.encoder.layers.11.self_attn.out_proj",
            "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.mlp.fc2",
            "lora_te_text_model_encoder_layers_0_mlp_fc2",
        ),
    ],
)
def test_frozen_names(path, key):
    assert kohya_key(path) == key


def test_there_and_back_for_the_whole_model(sd15_layers):
    ways_back = paths_by_key(sd15_layers)
    assert len(ways_back) == 264
    assert sum(key.startswith("lora_unet_") for key in ways_back) == 192
    assert sum(key.startswith("lora_te_text_model_encoder_layers_") for key in ways_back) == 72
    assert {kohya_key(path): path for path in sd15_layers} == ways_back
    assert not any("." in key for key in ways_back)
