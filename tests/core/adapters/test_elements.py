"""Rules for elements: ratios for kinds of layers, as the lora-block-weight extension reads them."""

import pytest

from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.elements import element_name
from lora_loop.core.errors import ConfigError

UNET = "lora_unet_"
ATTN1 = UNET + "up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
ATTN2 = UNET + "up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q"
FF = UNET + "up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj"
EARLY = UNET + "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_3_self_attn_k_proj"
TIME = UNET + "time_embedding_linear_1"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (ATTN1, "output_blocks_3_1_transformer_blocks_0_attn1_to_qOUT03"),
        ("unet.down_blocks.0.resnets.1.conv1", "input_blocks_2_0_in_layers_2IN02"),
        (UNET + "down_blocks_2_downsamplers_0_conv", "input_blocks_9_0_opIN09"),
        ("unet.mid_block.resnets.1.conv_shortcut", "middle_block_2_skip_connectionM00"),
        (UNET + "conv_in", "input_blocks_0_0IN00"),
        (UNET + "conv_out", "out_2"),
        (UNET + "output_blocks_5_1_proj_in", "output_blocks_5_1_proj_inOUT05"),
        (TIME, "time_embed_0"),
        (TEXT, "transformer_text_model_encoder_layers_3_self_attn_k_projBASE"),
        (
            "lora_te2_text_model_encoder_layers_0_mlp_fc2",
            "model_transformer_resblocks_0_mlp_c_projBASE",
        ),
    ],
)
def test_layers_have_the_original_codes_names(path: str, name: str) -> None:
    assert element_name(path) == name


@pytest.mark.parametrize(
    ("rules", "ratios"),
    [
        # of ATTN1, ATTN2, FF, EARLY, TEXT, TIME, where all blocks are at 1
        ("OUT03-OUT05:attn2:0.25", (1, 0.25, 1, 1, 1, 1)),
        ("OUT03-OUT05::0", (0, 0, 0, 1, 1, 1)),
        (":attn:0.5", (0.5, 0.5, 1, 0.5, 0.5, 1)),
        ("NOT OUT03:attn1 ff:0", (1, 1, 0, 0, 1, 1)),
        ("OUT03:NOT attn1:0.5", (1, 0.5, 1, 1, 1, 1)),
        ("::0", (0, 0, 0, 0, 0, 0)),
        ("::0,OUT03:attn1:0.75", (0.75, 0, 0, 0, 0, 0)),
        ("BASE IN01:attn:2", (1, 1, 1, 2, 2, 1)),
    ],
)
def test_rules_override_blocks(rules: str, ratios: tuple[float, ...]) -> None:
    weights = BlockWeights.parse(f"ALL; {rules}")
    found = tuple(weights.ratio_of(path) for path in (ATTN1, ATTN2, FF, EARLY, TEXT, TIME))
    assert found == ratios


def test_rules_stand_after_any_weights_and_tell_weights_apart() -> None:
    plain, ruled = BlockWeights.parse("NOFACE"), BlockWeights.parse("NOFACE;OUT05:ff:0.5")
    assert (plain.ratio_of(FF), ruled.ratio_of(FF), ruled.ratio_of(ATTN1)) == (0, 0.5, 0)
    assert plain != ruled
    assert plain.effective(("OUT05",)) != ruled.effective(("OUT05",))
    assert ruled.text().endswith(";OUT05:ff:0.5")
    again = BlockWeights.parse(BlockWeights.parse("ALL; NOT IN01:NOT ff:0.5").text())
    assert again.ratio_of(ATTN1) == 0.5


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("OUT03:attn1", "BLOCKS:ELEMENTS:RATIO"),
        ("OUT3:attn1:1", "no block 'OUT3'; did you mean OUT03"),
        ("OUT05-OUT03:attn1:1", "backwards"),
        ("OUT03:attn1:x", "OUT03:attn1:x.* is 'x'"),
        ("OUT03:attn1:nan", "nan"),
    ],
)
def test_wrong_rules_are_named(rules: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BlockWeights.parse(f"ALL;{rules}")
