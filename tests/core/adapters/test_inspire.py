"""The Inspire pack's dialect: values counted over the blocks that the file has."""

import pytest

from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.inspire import inspire_vector, positions_of, read_inspire
from lora_loop.core.errors import ConfigError

KEYS = [
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "lora_unet_time_embedding_linear_1",
    "lora_unet_up_blocks_1_attentions_0_proj_in",
    "lora_unet_down_blocks_0_attentions_0_proj_in",
    "lora_unet_down_blocks_2_resnets_0_conv1",
    "lora_unet_mid_block_resnets_0_conv1",
    "lora_unet_mid_block_attentions_0_proj_in",
    "lora_unet_mid_block_resnets_1_conv1",
]
POSITIONS = ("IN01", "IN07", "M00", "M00", "M00", "OUT03")


def test_positions_are_those_of_the_file() -> None:
    assert positions_of(KEYS) == POSITIONS
    assert positions_of(["lora_unet_middle_block_1_proj_in", *KEYS[:3]]) == ("M00", "OUT03")


def test_a_vector_there_and_back() -> None:
    weights = BlockWeights.parse("BASE=1, IN01=0.5, M00=0.25, OUT03=-1")
    vector = inspire_vector(weights, POSITIONS)
    assert vector == "1,0.5,0,0.25,0.25,0.25,-1"
    again = read_inspire(vector, POSITIONS)
    assert [again.ratio(block) for block in ("BASE", *POSITIONS)] == [
        1, 0.5, 0, 0.25, 0.25, 0.25, -1
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="elements"):
        inspire_vector(BlockWeights.parse("ALL;::0"), POSITIONS)


def test_reading_its_own_ways() -> None:
    def ratios(text: str, **options) -> list[float]:
        found = read_inspire(text, POSITIONS, **options)
        return [found.ratio(block) for block in ("BASE", "IN01", "IN07", "M00", "OUT03")]

    assert ratios("NAME:1,0,0.5") == [1, 0, 0.5, 0.5, 0.5]
    assert ratios("A,B,a,b", a=4, b=1) == [4, 1, 2, 0.5, 0.5]
    assert ratios("%default=0.5,base=1,in1=0,out=2") == [1, 0, 0.5, 0.5, 2]
    assert ratios("%in1-9=0.25,out7=0") == [1, 0.25, 0.25, 1, 1]
    drawn = ratios("R,U,r,1,1,1,u", seed=3)
    assert drawn == ratios("R,U,r,1,1,1,u", seed=3)
    assert 0 <= drawn[0] <= 3
    assert -1.5 <= drawn[1] <= 1.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,1,1,1,1,1,1,1", "8 values given; this file has 6 blocks"),
        ("1,1,1,0.5,1,0.5,1", "middle block"),
        ("1,R", "random"),
        ("1,x", "'x'"),
        ("1,0.5 0.2", "single layers"),
        ("1,1.2.3", r"value 2 is '1\.2\.3'; it must be a number"),
        ("1," + "9" * 400, "value 2 is '999"),
        ("%in1=x", "in1=x"),
        ("%in1=1.2.3", r"'in1=1\.2\.3' is not of the form"),
        ("%in1=.", "not of the form"),
        ("%in1-999999999999=0", "not of the form"),
    ],
)
def test_what_cannot_be_kept_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_inspire(text, POSITIONS)
