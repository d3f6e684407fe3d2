"""The prompt's tags, in every dialect that users paste."""

import pytest

from lora_loop.core.adapters.strength import Window
from lora_loop.core.adapters.tags import Tag, read_tag, read_tags, write_tag
from lora_loop.core.errors import ConfigError

ONES = ",".join("1" * 17)
FACE_KEY = "lora_unet_up_blocks_1_attentions_0_proj_in"


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("<lora:a>", Tag(name="a")),
        ("<lora:a b:0.6>", Tag(name="a b", text_encoder=0.6, unet=0.6)),
        ("<lora:a:0.5:0.8>", Tag(name="a", text_encoder=0.5, unet=0.8)),
        ("<lyco:a:1:lbw=NOFACE>", Tag(name="a", weights="NOFACE")),
        ("<lora:a:unet=0.8:te=0.5>", Tag(name="a", text_encoder=0.5, unet=0.8)),
        ("<lora:a:unet=0.8>", Tag(name="a", text_encoder=0.8, unet=0.8)),
        (f"<lora:a:1:w={ONES}>", Tag(name="a", weights=ONES)),
        ("<lora:a:1:NOFACE>", Tag(name="a", weights="NOFACE")),
        (f"<lora:a:1:{ONES}>", Tag(name="a", weights=ONES)),
        ("<lora:a:1:1:0:LyNOFACE>", Tag(name="a", weights="LyNOFACE")),
        ("<lora:a:1:0.5:4:LyNOFACE>", Tag(name="a", unet=0.5, rank=4, weights="LyNOFACE")),
        ("<lora:a:1:NOFACE:DEEP>", Tag(name="a", weights="NOFACE", elements="DEEP")),
        ("<lora:a:1:lbw=X,X+0.2,1:x=0.5>", Tag(name="a", weights="X,X+0.2,1", x=0.5)),
        ("<lora:a:1:step=5-15>", Tag(name="a", window=Window(5, 15))),
        ("<lora:a:1:start=5>", Tag(name="a", window=Window(5))),
        ("<lora:a:1:stop=5:lbw=INS>", Tag(name="a", weights="INS", window=Window(0, 5))),
        (
            "<lora:a:1:lbw=INS:lbwe=OUT03-OUT05:attn1 ff:0.5,M00::0:x=2>",
            Tag(name="a", weights="INS", elements="OUT03-OUT05:attn1 ff:0.5,M00::0", x=2),
        ),
        (
            "<lora:a:lbwe=M00::0:1:x=2:lbw=INS>",
            Tag(name="a", weights="INS", elements="M00::0:1", x=2),
        ),
        ("<lora:a:1:IN04=0.5>", Tag(name="a", weights="IN04=0.5")),
        (
            "<lora:a:0.8:all=1, M00=0:x=2>",
            Tag(name="a", text_encoder=0.8, unet=0.8, weights="all=1, M00=0", x=2),
        ),
        ("<lora:a:1:lbw=IN04=0.5,OUT03=0>", Tag(name="a", weights="IN04=0.5,OUT03=0")),
        (
            "<lora:a:1:lbw=NOFACE; OUT03:attn1 ff:0.5,M00::0:x=2>",
            Tag(name="a", weights="NOFACE", elements="OUT03:attn1 ff:0.5,M00::0", x=2),
        ),
        (
            "<lora:a:1:IN04=0.5；OUT03:attn1:0.5>",
            Tag(name="a", weights="IN04=0.5", elements="OUT03:attn1:0.5"),
        ),
        ("<lora:a;b:1:lbw=INS;>", Tag(name="a;b", weights="INS")),
    ],
)
def test_reading(text: str, tag: Tag) -> None:
    assert read_tag(text) == tag


def test_tags_are_taken_out_of_a_prompt() -> None:
    text, tags = read_tags("a cat <lora:a:1:lbw=INS>, <lyco:b:0.5> at night")
    assert text == "a cat , at night"
    assert [tag.name for tag in tags] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<lora:>", "names no network"),
        ("lora:a", "no tag"),
        ("<lora:a:1:lwb=INS>", "no lwb=; a tag has"),
        ("<lora:a:te=x>", "te=x is no number"),
        ("<lora:a:nan>", "nan is no number; write one such as 1"),
        ("<lora:a:1:-inf>", "-inf is no number"),
        ("<lora:a:1:1:1e400:INS>", "1e400 is no number"),
        ("<lora:a:te=nan>", "te=nan"),
        ("<lora:a:step=5>", "step=a-b"),
        ("<lora:a:start=x>", "'x' is no whole number"),
        ("<lora:a:stop=" + "9" * 5000 + ">", "9' is no whole number of up to 9 digits"),
        ("<lora:a:1:X=2>", "no X=; a tag has"),
        ("<lora:a:1:lbw=INS;M00::0:lbwe=DEEP>", "two places, 'M00::0' and 'DEEP'"),
        ("<lora:a:step=9-3>", "never acts"),
        ("<lora:a:1:1:0.5:INS>", "rank is 0.5"),
        ("<lora:a:1:INS:DEEP:MORE>", "'MORE' has no meaning"),
    ],
)
def test_wrong_tags_are_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_tag(text)


def test_a_tags_strength() -> None:
    tag = read_tag("<lora:a:0.5:0.8:lbw=mine:lbwe=DEEP:stop=9>")
    strength = tag.strength(presets={"mine": "ALL=0.5"}, elements={"DEEP": "OUT03:proj:2"})
    assert strength.of(FACE_KEY) == 0.8 * 2
    assert strength.of("lora_unet_mid_block_attentions_0_proj_in") == 0.8 * 0.5
    assert strength.of("lora_te_text_model_encoder_layers_0_mlp_fc1") == 0.5 * 0.5
    assert strength.window == Window(0, 9)
    assert Tag(name="a").strength().block_weights is None
    assert read_tag("<lora:a:1:lbwe=OUT03::0>").strength().of(FACE_KEY) == 0
    with pytest.raises(ConfigError, match="no such entry"):
        read_tag("<lora:a:1:lbwe=DEEP>").strength()


def test_steps_are_counted_from_one() -> None:
    window = Window(2, 4)
    assert [step for step in range(1, 7) if window.acts_at(step)] == [2, 3]
    assert Window(3).acts_at(99)


@pytest.mark.parametrize(
    "tag",
    [
        Tag(name="a", text_encoder=0.5, unet=0.75, weights="NOFACE", elements="OUT03:attn1:0"),
        Tag(name="a", rank=4, weights=ONES, x=0.5, window=Window(3)),
        Tag(name="a", window=Window(0, 9)),
    ],
)
def test_what_is_written_is_read(tag: Tag) -> None:
    assert read_tag(write_tag(tag)) == tag


def test_the_other_dialects() -> None:
    tag = Tag(name="a", text_encoder=0.5, unet=0.75, weights="NOFACE")
    assert write_tag(tag, "positional") == "<lora:a:0.5:0.75:0:NOFACE>"
    assert read_tag(write_tag(tag, "positional")) == tag
    inspire = write_tag(tag, "inspire", positions=("IN01", "M00", "OUT03"))
    assert inspire == "<lora:a:0.75:0.5:LBW=1,1,1,0;>"
    with pytest.raises(ConfigError, match="no place"):
        write_tag(Tag(name="a", elements="OUT03::0"), "positional")
    with pytest.raises(ConfigError, match="no rules for elements"):
        write_tag(Tag(name="a", elements="OUT03::0"), "inspire")
