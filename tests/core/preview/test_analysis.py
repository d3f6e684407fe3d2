"""The analyzer: by hand, by part, beside the extension's figures; masks and detectors."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_loop.core.adapters.network import Network
from lora_loop.core.errors import ConfigError
from lora_loop.core.events import CellDrawn, Event, PhaseStarted
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.analysis import AnalysisRequest, analyze_blocks
from lora_loop.core.preview.bars import Series, analysis_chart, bar_chart
from lora_loop.core.preview.part import Part
from lora_loop.core.preview.record import read_grid
from lora_loop.core.preview.sampling import DrawSettings, Prompt

FAST = DrawSettings(steps=1)
CAT, DOG = Prompt("a cat"), Prompt("a dog")


def half(white: str = "left", size: tuple[int, int] = (64, 64)) -> Image.Image:
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = 255
    return Image.fromarray(mask if white == "left" else 255 - mask)


def levels(first: Image.Image | None, second: Image.Image | None) -> np.ndarray:
    return np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max(axis=2)


def test_each_block_is_compared_with_the_whole_network(base: BaseModel, network: Network) -> None:
    events: list[Event] = []
    request = AnalysisRequest(prompts=(CAT, DOG), seeds=(3, 4), value=0.0, settings=FAST)
    found = analyze_blocks(base, network, request, on_event=events.append)
    blocks = network.blocks()
    (started,) = [event for event in events if isinstance(event, PhaseStarted)]
    assert started.total == 4 * (len(blocks) + 1)  # the base model's picture is not needed
    assert sum(isinstance(event, CellDrawn) for event in events) == started.total
    assert tuple(effect.block for effect in found.blocks) == blocks
    assert found.pictures == 4
    assert found.with_part == 0
    for column, effect in enumerate(found.blocks, 1):
        own = [levels(row[0], row[column]) for row in found.grid.cells]
        assert effect.whole.percent == pytest.approx(100 * float((np.stack(own) > 20).mean()))
        assert effect.whole.mean == pytest.approx(float(np.stack(own).mean()))
        assert effect.inside is effect.outside is effect.focus is None
        cells = found.grid.table.cells[0]
        ratios = [cells[0][column].weights.ratio(block) for block in blocks]
        assert ratios == [0.0 if block == effect.block else 1.0 for block in blocks]
    assert found.ranked()[0].whole.mean == max(effect.whole.mean for effect in found.blocks)


def test_inside_and_outside_of_a_mask(base: BaseModel, network: Network) -> None:
    request = AnalysisRequest(prompts=(CAT,), value=0.0, settings=FAST)
    found = analyze_blocks(base, network, request, Part(mask=half(size=(32, 32))))
    assert found.with_part == 1
    for column, effect in enumerate(found.blocks, 1):
        own = levels(found.grid.cells[0][0], found.grid.cells[0][column])
        assert effect.inside.mean == pytest.approx(float(own[:, :32].mean()))
        assert effect.outside.mean == pytest.approx(float(own[:, 32:].mean()))
        assert effect.focus == pytest.approx(effect.inside.mean / effect.outside.mean)
    assert analysis_chart(found).size == analysis_chart(found, "zh").size


def test_a_detector_finds_the_part_in_each_picture(base: BaseModel, network: Network) -> None:
    seen = []

    def find(picture: Image.Image):
        seen.append(picture)
        return None if len(seen) == 1 else [(-5.0, 0.0, 32.0, 99.0)]

    request = AnalysisRequest(prompts=(CAT, DOG), value=0.0, settings=FAST)
    found = analyze_blocks(base, network, request, Part(find=find))
    assert [id(picture) for picture in seen] == [id(row[0]) for row in found.grid.cells]
    assert found.with_part == 1
    own = levels(found.grid.cells[1][0], found.grid.cells[1][1])
    assert found.blocks[0].inside.mean == pytest.approx(float(own[:, :32].mean()))
    nothing = analyze_blocks(base, network, request, Part(find=lambda picture: []))
    assert nothing.with_part == 0
    assert nothing.blocks[0].inside is None


def fail(picture: Image.Image):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("find", [fail, lambda picture: [(1.0, 2.0)], lambda picture: 3])
def test_a_detector_that_fails_costs_the_part_alone(
    base: BaseModel, network: Network, find, caplog: pytest.LogCaptureFixture
) -> None:
    request = AnalysisRequest(prompts=(CAT,), value=0.0, settings=FAST)
    found = analyze_blocks(base, network, request, Part(find=find))
    assert (found.pictures, found.with_part) == (1, 0)
    assert tuple(effect.block for effect in found.blocks) == network.blocks()
    assert "it must give a mask, boxes (left, top, right, bottom) or None" in caplog.text


def torn_mask(folder: Path) -> Image.Image:
    half().resize((640, 640)).rotate(30).save(folder / "mask.png")
    whole = (folder / "mask.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    return Image.open(folder / "torn.png")


def test_a_mask_of_no_use_is_refused_before_anything_is_drawn(
    base: BaseModel, network: Network, tmp_path: Path
) -> None:
    events: list[Event] = []
    request = AnalysisRequest(prompts=(CAT,), value=0.0, settings=FAST)
    black = Image.new("L", (8, 8))
    for mask, words in ((black, "all black"), (torn_mask(tmp_path), "mask can't be read")):
        with pytest.raises(ConfigError, match=words):
            analyze_blocks(base, network, request, Part(mask=mask), events.append)
    assert events == []


def test_masks_of_any_kind() -> None:
    picture = Image.new("RGB", (64, 48))
    left = np.zeros((48, 64), bool)
    left[:, :32] = True
    clear = Image.new("RGBA", (64, 48), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (0, 0, 32, 48))
    for mask in (half(), half().convert("RGB"), half(size=(128, 96)).convert("1"), clear):
        assert np.array_equal(Part(mask=mask).of(picture), left)
    for colour in ("black", "white"):
        with pytest.raises(ConfigError, match=colour):
            Part(mask=Image.new("L", (8, 8), colour)).of(picture)
    assert Part().of(picture) is None
    assert not Part().is_given


def test_stopping_keeps_the_blocks_that_are_drawn(base: BaseModel, network: Network) -> None:
    events: list[Event] = []

    def stop() -> bool:
        return sum(isinstance(event, CellDrawn) for event in events) > 2

    request = AnalysisRequest(prompts=(CAT,), value=0.0, settings=FAST)
    found = analyze_blocks(base, network, request, on_event=events.append, stop=stop)
    assert found.stopped
    assert tuple(effect.block for effect in found.blocks) == network.blocks()[:2]
    nothing = analyze_blocks(base, network, request, stop=lambda: True)
    assert nothing.blocks == ()
    assert nothing.pictures == 0
    assert analysis_chart(nothing).width > 100


def test_its_grid_is_a_grid(base: BaseModel, network: Network, tmp_path) -> None:
    request = AnalysisRequest(prompts=(CAT,), settings=FAST, network_name="momo", language="zh")
    found = analyze_blocks(base, network, request)
    path = tmp_path / "blocks.png"
    path.write_bytes(found.grid.png())
    table = read_grid(path).table
    assert table.cells == found.grid.table.cells
    assert table.columns == found.grid.table.columns
    assert (table.compare, table.language) == ("first", "zh")


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompts"):
        AnalysisRequest(prompts=())
    with pytest.raises(ConfigError, match="1 for the block"):
        AnalysisRequest(prompts=(CAT,), value=1.0)


def test_bars_by_hand() -> None:
    chart = bar_chart("bars", ["A", "B"], [Series("one", [50.0, -50.0])], "percent")
    blue = (np.abs(np.asarray(chart, int) - (20, 84, 184)).sum(axis=2) < 30)[80:]
    rows = np.flatnonzero(blue.any(axis=1))
    first, second = blue[rows[0] + 3], blue[rows[-1] - 3]
    assert abs(int(first.sum()) - int(second.sum())) <= 4  # edges are antialiased
    assert np.flatnonzero(second).max() <= np.flatnonzero(first).min() + 3
    assert bar_chart("none", [], [], "").width == chart.width
