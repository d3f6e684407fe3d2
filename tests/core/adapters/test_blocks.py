"""Which block a layer lies in."""

from collections import Counter
from pathlib import Path

import pytest

from lora_loop.core.adapters.blocks import LENGTHS, ORDERS, block_of, in_order

KEYS = Path(__file__).parents[1] / "files/keys"
FAMILIES = ("sd1", "sd2", "sdxl")


def frozen_keys(family: str, *kinds: str) -> list[str]:
    """The keys of plain networks ("lora") and what convolutions add ("locon"), by sd-scripts."""
    rows = (line.split() for line in (KEYS / f"{family}.txt").read_text("ascii").splitlines())
    return [row[1] for row in rows if row[0] in kinds]


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
        ("text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj", "BASE"),
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
        ("lora_unet_up_blocks_2_upsamplers_0_conv.lora_down.weight", "OUT08"),
        ("unet.up_blocks.1.attentions.0.proj_in", "OUT03"),
        ("unet.down_blocks.1.resnets.0.conv_shortcut", "IN04"),
        ("unet.mid_block.resnets.1.time_emb_proj", "M00"),
        ("unet.up_blocks.0.upsamplers.0.conv", "OUT02"),
        ("unet.up_blocks.2.resnets.2.conv1", "OUT08"),
        ("lora_unet_up_blocks_3_attentions_2_proj_out.lora_up.weight", "OUT11"),
        ("lora_unet_input_blocks_0_0", "IN00"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "IN04"),
        ("lora_unet_output_blocks_5_1_proj_out", "OUT05"),
        ("lora_unet_input_blocks_3_0_op.alpha", "IN03"),
        ("lora_unet_input_blocks_4_0_skip_connection", "IN04"),
        ("lora_unet_middle_block_2_emb_layers_1", "M00"),
        ("lora_unet_output_blocks_2_2_conv", "OUT02"),
        ("lora_unet_output_blocks_8_0_in_layers_2", "OUT08"),
        ("lora_unet_time_embedding_linear_1", None),
        ("lora_unet_label_emb_0_0", None),
        ("lora_unet_conv_out", None),
        ("lora_unet_out_2", None),
        ("lora_unet_time_embed_0", None),
        ("unet.time_embedding.linear_2", None),
        ("unet.add_embedding.linear_1", None),
        ("unet.conv_out", None),
        ("lora_unet_up_blocks_9_attentions_0_proj_in", None),
        ("something_else", None),
        ("", None),
    ],
)
def test_block_of(name: str, block: str | None) -> None:
    assert block_of(name) == block


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_network_has_the_blocks_of_its_vectors(family: str) -> None:
    attention, every = (set(ORDERS[length]) for length in LENGTHS[family])
    assert {block_of(key) for key in frozen_keys(family, "lora")} == attention
    # only a network that trains everything has the first convolution too
    assert {block_of(key) for key in frozen_keys(family, "lora", "locon")} == every - {"IN00"}


def test_how_many_layers_each_block_has() -> None:
    """By hand: ten in a transformer and two at its ends, each with every residual block."""
    sd1, sd2, sdxl = (Counter(map(block_of, frozen_keys(f, "lora"))) for f in FAMILIES)
    transformers = ORDERS[17][1:]
    assert sd1 == {"BASE": 72, **dict.fromkeys(transformers, 12)}
    assert sd2 == {"BASE": 138, **dict.fromkeys(transformers, 12)}
    shallow, deep = (2 * 10 + 2, 10 * 10 + 2)
    assert sdxl == {
        "BASE": 72 + 192,
        **dict.fromkeys(("IN04", "IN05", "OUT03", "OUT04", "OUT05"), shallow),
        **dict.fromkeys(("IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02"), deep),
    }


def test_how_many_layers_convolutions_add() -> None:
    """By hand: three in a residual block, four where its width changes, one in a sampler."""
    narrow = ("IN01", "IN02", "IN05", "IN08")
    way_up = ("OUT00", "OUT01", "OUT03", "OUT04", "OUT06", "OUT07")
    sd1 = {
        **dict.fromkeys((*narrow, "IN10", "IN11"), 3),
        **dict.fromkeys(("IN04", "IN07", *way_up, "OUT09", "OUT10", "OUT11"), 4),
        **dict.fromkeys(("IN03", "IN06", "IN09"), 1),
        **dict.fromkeys(("OUT02", "OUT05", "OUT08"), 5),
        "M00": 6,
    }
    assert Counter(map(block_of, frozen_keys("sd1", "locon"))) == sd1
    assert Counter(map(block_of, frozen_keys("sd2", "locon"))) == sd1
    assert Counter(map(block_of, frozen_keys("sdxl", "locon"))) == {
        **dict.fromkeys(narrow, 3),
        **dict.fromkeys(("IN04", "IN07", *way_up, "OUT08"), 4),
        **dict.fromkeys(("IN03", "IN06"), 1),
        **dict.fromkeys(("OUT02", "OUT05"), 5),
        "M00": 6,
    }
