"""Preset files, in and out."""

import pytest

from lora_loop.core.adapters.block_weights import BlockWeights, preset
from lora_loop.core.adapters.preset_file import (
    fitting_families,
    read_element_presets,
    read_presets,
    write_presets,
)
from lora_loop.core.errors import ConfigError

ONES = ",".join("1" * 17)


def test_the_extensions_own_file_is_read_unchanged() -> None:
    text = (
        f"NONE:{ONES.replace('1', '0')}\n"
        "INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0\r\n"
        "ALL0.5:0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5\n"
        f"FLUXALL:{','.join('1' * 61)}"
    )
    found = read_presets(text)
    assert list(found.presets) == ["NONE", "INS", "ALL0.5"]
    assert BlockWeights.parse("INS", presets=found.presets) == preset("INS")
    (flux,) = found.skipped
    assert flux.number == 4
    assert "Flux" in str(flux)


def test_lines_that_cannot_be_used_are_named_with_the_reason() -> None:
    text = "\n".join(
        (
            "\ufeff# my presets",
            "",
            "no colon",
            f"SHORT:{ONES[:-2]}",
            f"WORD:{ONES[:-1]}x",
            f"mine:{ONES}  # a comment",
            "mine:" + ONES.replace("1", "0.5"),
            "ranges:IN04-IN08=0.5, OUT03=0",
            "chance:" + ONES.replace("1", "R"),
            ":1,1",
            f"a=b:{ONES}",
        )
    )
    found = read_presets(text)
    assert list(found.presets) == ["mine", "ranges", "chance"]
    assert found.presets["mine"].startswith("0.5")
    said = {line.number: line.reason for line in found.skipped}
    assert sorted(said) == [3, 4, 5, 7, 10, 11]
    assert "16 values" in said[4]
    assert "OUT11" in said[5]
    assert "replaces" in said[7]
    assert "name without" in said[11]


def test_what_is_written_is_read() -> None:
    own = {"mine": ONES, "ranges": "IN04-IN08=0.5", "我的": "ALL=1; OUT03:attn:0"}
    assert read_presets(write_presets(own)).presets == own
    for name, body in (("a:b", ONES), (" a", ONES), ("", ONES), ("a", "1,2")):
        with pytest.raises(ConfigError):
            write_presets({name: body})


def test_own_presets_come_first_and_are_suggested() -> None:
    own = {"NOFACE": ONES, "gentle": "ALL=0.5"}
    assert BlockWeights.parse("NOFACE", presets=own).ratio("OUT03") == 1
    named = BlockWeights.parse("gentle; OUT03::0", presets=own)
    assert (named.label, named.ratio("M00")) == ("gentle; OUT03::0", 0.5)
    with pytest.raises(ConfigError, match="did you mean gentle"):
        BlockWeights.parse("gentel", presets=own)
    assert fitting_families(ONES) == ("sd1", "sd2")
    assert fitting_families(",".join("1" * 12)) == ("sdxl",)


def test_entries_for_elements() -> None:
    text = "DEEP:IN05-OUT05:attn:1,M00::0\n\nTWO:IN01:ff:1\nIN02:ff:0\n\nXYZ:::1"
    assert read_element_presets(text) == {
        "DEEP": "IN05-OUT05:attn:1,M00::0",
        "TWO": "IN01:ff:1,IN02:ff:0",
        "XYZ": "::1",
    }
