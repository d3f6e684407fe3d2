"""Which block a layer lies in."""

import pytest

from lora_loop.core.adapters.blocks import ORDERS, block_of, in_order


@pytest.mark.parametrize("length", ORDERS)
def test_orders_have_their_length(length: int) -> None:
    assert len(set(ORDERS[length])) == len(ORDERS[length]) == length
    assert ORDERS[length][0] == "BASE"
    assert in_order(reversed(ORDERS[length])) == ORDERS[length]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "BASE"),
        ("lora_te1_text_model_encoder_layers_11_self_attn_q_proj", "BASE"),
        ("lora_te2_text_model_encoder_layers_31_self_attn_q_proj", "BASE"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc2", "BASE"),
        ("lora_unet_conv_in", "IN00"),
        ("unet.conv_in", "IN00"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", "IN01"),
        ("lora_unet_down_blocks_0_resnets_1_conv1", "IN02"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "IN03"),
        ("unet.down_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0", "IN05"),
        ("lora_unet_down_blocks_2_attentions_0_proj_out", "IN07"),
        ("lora_unet_down_blocks_2_downsamplers_0_conv", "IN09"),
        ("lora_unet_down_blocks_3_resnets_1_conv2", "IN11"),
        ("lora_unet_mid_block_attentions_0_proj_in", "M00"),
        ("lora_unet_middle_block_1_proj_in", "M00"),
        ("lora_unet_up_blocks_0_resnets_0_conv1", "OUT00"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
        ("unet.up_blocks.1.attentions.0.proj_in", "OUT03"),
        ("lora_unet_up_blocks_3_attentions_2_proj_out.lora_up.weight", "OUT11"),
        ("lora_unet_input_blocks_0_0", "IN00"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "IN04"),
        ("lora_unet_output_blocks_5_1_proj_out", "OUT05"),
        ("lora_unet_time_embedding_linear_1", None),
        ("lora_unet_label_emb_0_0", None),
        ("lora_unet_conv_out", None),
        ("lora_unet_up_blocks_9_attentions_0_proj_in", None),
        ("something_else", None),
        ("", None),
    ],
)
def test_block_of(name: str, block: str | None) -> None:
    assert block_of(name) == block
