"""What is drawn with the network at hand, and when it is drawn anew; drawing itself is stood in."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from lora_loop.core.config import PreviewConfig
from lora_loop.core.diffusion.seeds import ON_CPU
from lora_loop.core.errors import ConfigError
from lora_loop.core.session import Axis, Seeding, workbench
from lora_loop.extension.desk import Live
from lora_loop.extension.redraw import Easel

PREVIEW = PreviewConfig(prompts=("momo", "a star"), presets=("NONE", "ALL"), seed=7)


class Network:
    """As much of a network as is asked before anything is drawn."""

    paths = ()

    def blocks(self):
        return workbench.ATTENTION_BLOCKS


def live(recipe, number):
    return Live(
        number=number, network=Network(), recipe=recipe, family="sd1", path=None, name="momo"
    )


@pytest.fixture
def base():
    facts = {"identity": "a", "prediction": "epsilon", "zero_terminal_snr": False}
    return SimpleNamespace(**facts, seeding=ON_CPU)


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: block weights, None for the base model alone."""
    found = []

    def draw_with(base, network, weights, request, *_):
        found.append(weights)
        level = 0 if weights is None else round(255 * weights.ratio("M00"))
        return [Image.new("RGB", (8, 8), (level, 0, 0)) for _ in request.prompts]

    monkeypatch.setattr(workbench, "draw_with", draw_with)
    return found


@pytest.fixture
def easel(desk, recipe, base, monkeypatch, drawn):
    @contextmanager
    def borrow(*_):
        yield base

    monkeypatch.setattr(desk.host, "borrow", borrow)
    desk.live = live(recipe, 1)
    return Easel(desk)


@pytest.fixture
def redraw(easel, over):
    return lambda text="M00=1": over(easel.redraw(easel.weights(text), PREVIEW)).take()


def test_another_checkpoint_is_drawn_anew_and_the_first_one_taken_from_the_cache(
    redraw, base, drawn
):
    first = redraw()
    assert len(drawn) == 3  # alone, whole, chosen
    base.identity = "b"
    second = redraw()
    assert len(drawn) == 6
    assert second.chosen is not first.chosen
    base.identity = "a"
    assert redraw().chosen is first.chosen
    base.prediction = "v"
    redraw()
    assert len(drawn) == 9
    base.seeding = Seeding("GPU", ON_CPU.begin)  # a setting of the host's
    redraw()
    assert len(drawn) == 12
    redraw()
    assert len(drawn) == 12


def test_a_network_in_anothers_place_is_drawn_anew(redraw, easel, recipe, drawn):
    redraw()
    easel.desk.live = live(recipe, 2)
    redraw()
    assert len(drawn) == 6
    redraw("M00=0.5")
    assert len(drawn) == 7


def test_every_network_of_a_desk_has_its_own_number(desk, recipe, over):
    over(desk.train(recipe))
    first = desk.live.number
    over(desk.open_file(desk.live.path, recipe.base, recipe.memory))
    assert desk.live.number > first


def test_blocks_that_are_off_by_silence_are_told(redraw, monkeypatch):
    assert redraw("NOFACE").warning == ""
    monkeypatch.setattr(Network, "blocks", lambda _: workbench.ALL_BLOCKS)
    assert "IN00" in redraw("NOFACE").warning


def test_a_moved_slider_changes_its_block_alone(easel):
    text = "1,5,-3,1,1,1,1,1,0,0,0,1,1,1,1,1,1;OUT03:attn1:0.5"
    moved = easel.moved(text, 1, "M00", 0.25)
    assert moved == "1,5,-3,1,1,1,1,0.25,0,0,0,1,1,1,1,1,1;OUT03:attn1:0.5"
    easel.desk.live = None
    assert easel.moved(text, 1, "M00", 0.25) == moved
    random = ",".join("R" * 17)
    kept = easel.moved(random, 7, "M00", 0.25).split(",")
    assert kept[:7] == easel.parsed(random, 7).text().split(",")[:7]


@pytest.fixture
def grids(easel, monkeypatch):
    """The requests that grids were made of, which are not drawn."""
    found = []
    monkeypatch.setattr(easel, "_grid", lambda live, request, controls: found.append(request))
    monkeypatch.setattr(easel, "submit", lambda kind, live, work: work(None))
    return found


def ratios(table, block):
    return [cell.weights.ratio(block) for _, cell in table.places()]


def test_values_stand_for_the_x_in_the_weights_of_the_page(easel, grids):
    one = replace(PREVIEW, prompts=("momo",))
    easel.axes(one, "ALL=1, M00=X", Axis.of("values", "0, 0.5"), Axis())
    assert ratios(grids[0].table("sd1"), "M00") == [0, 0.5]
    easel.desk.presets.save("2D", "ALL=1, M00=X")
    easel.axes(one, "2D", Axis.of("values", "0, 0.5"), Axis.of("seed", "1, 2"))
    assert ratios(grids[1].table("sd1"), "M00") == [0, 0.5, 0, 0.5]
    easel.axes(one, "ALL", Axis.of("weights", "2D | NONE"), Axis())
    assert ratios(grids[2].table("sd1"), "M00") == [1, 0]


def test_random_weights_of_a_grid_are_those_of_the_page(easel, grids):
    one = replace(PREVIEW, prompts=("momo",))
    easel.axes(one, "M00=R", Axis.of("weight", "0, 1"), Axis())
    assert ratios(grids[0].table("sd1"), "M00") == [easel.weights("M00=R", 7).ratio("M00")] * 2


def test_all_prompts_are_drawn_also_over_axes(easel, grids):
    easel.axes(PREVIEW, "ALL", Axis.of("weight", "0, 1"), Axis.of("seed", "1, 2"))
    pages = grids[0].table("sd1").cells
    assert [page[0][0].prompt.text for page in pages] == ["momo", "a star"]


def test_sheets_are_in_the_users_language(easel, grids, monkeypatch):
    monkeypatch.setattr(easel.desk.host, "language", lambda: "zh")
    easel.grid(PREVIEW)
    easel.axes(PREVIEW, "ALL", Axis.of("weight", "0, 1"), Axis())
    assert [request.language for request in grids] == ["zh", "zh"]
    assert grids[0].table("sd1").rows[0].note == "种子 7"


def test_a_grid_tells_once_what_its_weights_turn_off(easel, grids, monkeypatch):
    monkeypatch.setattr(Network, "blocks", lambda _: workbench.ALL_BLOCKS)
    easel.grid(replace(PREVIEW, presets=("ALL", "MIDD")))
    warning = easel.warning_of(SimpleNamespace(table=grids[0].table("sd1")))
    assert warning.count("MIDD") == 1
    assert "IN00" in warning


def test_a_slip_in_the_weights_is_told_before_anything_waits(easel, grids):
    with pytest.raises(ConfigError, match="NOFACE"):
        easel.axes(PREVIEW, "NOFCE", Axis.of("weight", "0, 1"), Axis())
    assert grids == []
