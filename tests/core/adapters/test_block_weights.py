"""Block weights as users write them, and the built-in presets."""

import math
import re

import pytest

from lora_loop.core.adapters.block_weights import BlockWeights, chosen_blocks, preset
from lora_loop.core.adapters.blocks import ORDERS
from lora_loop.core.adapters.presets import PRESETS, preset_names
from lora_loop.core.errors import ConfigError

ATTENTION, EVERY = ORDERS[17], ORDERS[26]
ONES = ",".join("1" * 17)


def on(weights: BlockWeights) -> set[str]:
    return {block for block in EVERY if weights.ratio(block)}


def test_a_vector_is_expanded_by_name() -> None:
    values = [index / 16 for index in range(17)]
    weights = BlockWeights.parse(",".join(map(str, values)))
    assert weights.effective(ATTENTION) == tuple(values)
    assert weights.ratio("IN00") == 0
    assert weights.ratio(None) == 1
    assert BlockWeights.parse(values) == weights
    every = BlockWeights.parse([1] * 26)
    assert every.effective(EVERY) == (1.0,) * 26


def test_spaces_full_width_signs_and_labels() -> None:
    plain = BlockWeights.parse(ONES)
    assert BlockWeights.parse(f"  {ONES.replace(',', ' , ')}\n") == plain
    assert BlockWeights.parse(ONES.replace(",", "，")) == plain
    named = BlockWeights.parse(f"我的 LoRA:{ONES}")
    assert (named, named.label) == (plain, "我的 LoRA")
    assert BlockWeights.parse(named) is named
    ruled = BlockWeights.parse("ALL; OUT03:attn1:0.5")
    assert BlockWeights.parse("ALL；OUT03：attn1：0.5") == ruled


def test_presets_of_ones_own_have_names_with_any_signs() -> None:
    own = {"脸：轻": "OUT03=0.5", "a,b": "M00=1"}
    for given, label, blocks in (
        ("脸：轻", "脸：轻", {"OUT03"}),
        (" 脸：轻 ；M00::1", "脸：轻; M00::1", {"OUT03"}),
        ("a，b", "a,b", {"M00"}),
    ):
        found = BlockWeights.parse(given, presets=own)
        assert (found.label, on(found)) == (label, blocks)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (16, "one short of 17: is BASE or OUT11 missing"),
        (18, "one more than 17"),
        (25, "one short of 26"),
        (27, "one more than 26"),
        (12, "a vector for sdxl"),
        (20, "a vector for sdxl"),
        (3, "3 values given; sd1 takes 17 .* or 26"),
    ],
)
def test_wrong_lengths(count: int, words: str) -> None:
    for given in (",".join("1" * count), [1.0] * count):
        with pytest.raises(ConfigError, match=words) as caught:
            BlockWeights.parse(given)
        assert all(word in str(caught.value) for word in ("17", "26", str(count)))


def test_one_number_or_none() -> None:
    with pytest.raises(ConfigError, match=r"1 value given.*ALL=0\.5"):
        BlockWeights.parse("0.5")
    for empty in ("", "  ", "，"):
        with pytest.raises(ConfigError):
            BlockWeights.parse(empty)
    with pytest.raises(ConfigError, match="0 values given"):
        BlockWeights.parse([])


@pytest.mark.parametrize(
    "value",
    ["", "x", "nan", "inf", "-inf", "1e400", "1001", "1_0", "0x1", "一", "1.2.3", "X*2", "T"],
)
def test_a_value_that_is_no_number_is_located(value: str) -> None:
    values = ["1"] * 17
    values[9] = value
    with pytest.raises(ConfigError, match=r"value 10 \(OUT04\)"):
        BlockWeights.parse(",".join(values))


@pytest.mark.parametrize("value", [math.nan, math.inf, True, None, "a"])
def test_a_sequence_is_checked_too(value: object) -> None:
    with pytest.raises(ConfigError, match=r"value 3 \(IN02\)"):
        BlockWeights.parse([1, 1, value, *[1] * 14])  # pyright: ignore[reportArgumentType]


def test_random_values_repeat_with_their_seed() -> None:
    text = "R,U," + ",".join(["R", "U", "0"] * 5)
    weights = BlockWeights.parse(text, seed=7)
    assert BlockWeights.parse(text, seed=7) == weights
    assert BlockWeights.parse(text, seed=8) != weights
    values = weights.effective(ATTENTION)
    assert len(set(values)) > 8
    assert all(0 <= value <= 1 for value in (values[0], *values[2::3]))
    assert all(-0.5 <= value <= 1.5 for value in values)
    with pytest.raises(ConfigError, match=r"value 1 \(BASE\) is R \(random\), but no seed"):
        BlockWeights.parse(text)


def test_x_stands_for_a_number() -> None:
    text = "X,X+0.2,X-0.2," + ",".join("0" * 14)
    assert BlockWeights.parse(text, x=0.5).effective(ATTENTION[:3]) == (0.5, 0.7, 0.3)
    assert BlockWeights.parse(text).effective(ATTENTION[:3]) == (1.0, 1.2, 0.8)
    with pytest.raises(ConfigError, match=r"value 1 \(BASE\) is nan"):
        BlockWeights.parse(text, x=math.nan)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("IN04-IN08=0.5, OUT03=0", {"IN04", "IN05", "IN06", "IN07", "IN08"}),
        ("NOT OUT03-OUT05=1", set(EVERY) - {"OUT03", "OUT04", "OUT05"}),
        ("not OUT03 OUT05=1", set(EVERY) - {"OUT03", "OUT05"}),
        ("ALL=1, M00=0", set(EVERY) - {"M00"}),
        ("base=1,in11-out00=-2", {"BASE", "IN11", "M00", "OUT00"}),
        ("M00=1, M00=0", set()),
        ("IN04\uff1dX", {"IN04"}),
    ],
)
def test_blocks_by_name(text: str, blocks: set[str]) -> None:
    assert on(BlockWeights.parse(text)) == blocks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IN4=1", "no block 'IN4'; did you mean IN04"),
        ("OUT05-OUT03=1", "runs backwards; write OUT03-OUT05"),
        ("IN04=1, OUT03", "'OUT03' is not of the form BLOCKS=VALUE"),
        ("=1", "not of the form"),
        ("IN04=", "IN04 is empty"),
        ("IN04=nan", "IN04 is 'nan'"),
        ("OUT12=1", "no block 'OUT12'"),
        ("IN01-=1", "no block ''"),
    ],
)
def test_wrong_blocks(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        BlockWeights.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("noface", "did you mean NOFACE"),
        ("NOFACES", "did you mean NOFACE"),
        ("LYNOFACE", "did you mean LyNOFACE"),
        ("INSS", "INS"),
        ("zzz", "there are NONE, NOT, ALL"),
    ],
)
def test_unknown_presets(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BlockWeights.parse(text)


def test_the_seeds_lynoface_is_one_short() -> None:
    with pytest.raises(ConfigError, match="one short of 26"):
        BlockWeights.parse("LyNOFACE:1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,1,0,0,0,0,1,1,1,1,1")


REFERENCE = {  # the table of the reference, its run lengths written out
    "NOFACE": [1] * 8 + [0] * 3 + [1] * 6,
    "FACE": [1] + [0] * 7 + [1] * 3 + [0] * 6,
    "INS": [1] * 4 + [0] * 13,
    "IND": [1, 0, 0, 0, 1, 1, 1] + [0] * 10,
    "INALL": [1] * 7 + [0] * 10,
    "MIDD": [1, 0, 0, 0] + [1] * 8 + [0] * 5,
    "OUTD": [1] + [0] * 7 + [1] * 4 + [0] * 5,
    "OUTS": [1] + [0] * 11 + [1] * 5,
    "OUTALL": [1] + [0] * 7 + [1] * 9,
    "LyNOFACE": [1] * 14 + [0, 1, 0, 0, 0, 0] + [1] * 6,
    "NONE": [0] * 26,
    "NOT": [0] * 26,
    "ALL": [1] * 26,
    "ALL0.5": [0.5] * 26,
    "ArtLab/NOT": [0] * 17,
    "ArtLab/ALL": [1] * 17,
    "ArtLab/INS": [1] * 5 + [0] * 12,
    "ArtLab/IND": [1, 0, 0, 0, 1, 1, 1, 1] + [0] * 9,
    "ArtLab/INALL": [1] * 8 + [0] * 9,
    "ArtLab/MIDD": [1, 0, 0, 0] + [1] * 8 + [0] * 5,
    "ArtLab/OUTD": [1] + [0] * 7 + [1] * 5 + [0] * 4,
    "ArtLab/OUTS": [1] + [0] * 10 + [1] * 6,
    "ArtLab/OUTALL": [1] + [0] * 8 + [1] * 8,
    "ArtLab/NOFACE": [1] * 8 + [0] * 3 + [1] * 6,
    "ArtLab/LyNOFACE": [1] * 14 + [0, 1, 0, 0, 0, 0] + [1] * 6,
}


def test_presets_are_those_of_the_reference() -> None:
    assert {name: list(values) for name, values in PRESETS.items()} == REFERENCE


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_parses_to_its_vector(name: str) -> None:
    weights = BlockWeights.parse(f" {name} ")
    assert weights.label == name
    assert weights == BlockWeights.parse(weights.text())
    assert weights.effective(ORDERS[len(PRESETS[name])]) == PRESETS[name]


def test_noface_and_face_share_the_base_only() -> None:
    assert on(preset("NOFACE")) & on(preset("FACE")) == {"BASE"}
    assert on(preset("NOFACE")) | on(preset("FACE")) == set(ATTENTION)


def test_presets_of_sdxl_go_by_name_and_know_no_face() -> None:
    assert not any("FACE" in name for name in preset_names("sdxl"))
    weights = BlockWeights.parse("IND", "sdxl")
    assert [b for b in ORDERS[12] if weights.ratio(b)] == ["BASE", "IN05", "IN07", "IN08"]
    assert BlockWeights.parse([1] * 12, "sdxl").ratio("OUT05") == 1
    with pytest.raises(ConfigError, match="not defined for sdxl"):
        BlockWeights.parse("NOFACE", "sdxl")
    with pytest.raises(ConfigError, match="a vector for sd1"):
        BlockWeights.parse(ONES, "sdxl")


def test_blocks_turned_off_by_silence_are_told() -> None:
    noface = preset("NOFACE")
    assert noface.turned_off(EVERY) == (
        *("IN00", "IN03", "IN06", "IN09", "IN10", "IN11"),
        *("OUT00", "OUT01", "OUT02"),
    )
    finding = noface.finding(EVERY)
    assert finding is not None
    assert finding.level == "warning"
    assert "NOFACE name 17 blocks; IN00, IN03, IN06" in finding.text
    assert noface.finding(ATTENTION) is None
    assert preset("LyNOFACE").finding(EVERY) is None
    assert BlockWeights.parse("M00=1").finding(EVERY) is None


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", None),
        ("OUT03-OUT05 M00", {"OUT03", "OUT04", "OUT05", "M00"}),
        ("in04, out03", {"IN04", "OUT03"}),
        ("NOT IN00-OUT10", {"BASE", "OUT11"}),
        ("FACE", {"BASE", "OUT03", "OUT04", "OUT05"}),
        ("ALL=0, OUT03=0.5", {"OUT03"}),
        ("1,0,0,0,0,0,0,0,0,0,0,2", {"BASE", "OUT05"}),
        ("1，0，0，0，0，0，0，0，0，0，0，2", {"BASE", "OUT05"}),
    ],
)
def test_blocks_to_train(text: str, blocks: set[str] | None) -> None:
    assert chosen_blocks(text) == blocks


def test_blocks_to_train_that_are_wrong() -> None:
    for text, words in (("OUT3", "OUT3"), ("NOFACES", "NOFACE"), ("1,2,3", "3 values")):
        with pytest.raises(ConfigError, match=words):
            chosen_blocks(text)
