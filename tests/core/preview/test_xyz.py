"""Grids over any axes: what each cell is, equal ones drawn once, told as they finish, repeated."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core.adapters.lora import AdapterWeights
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.errors import ConfigError, FileError
from lora_loop.core.events import CellDrawn, Event, PhaseStarted
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.axes import AXES, Axis, XYZRequest
from lora_loop.core.preview.grid import Grid, render_grid
from lora_loop.core.preview.record import read_grid
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

FAST = DrawSettings(steps=1)
CAT = Prompt("a cat", "ugly")


def ratios(cell, *blocks: str) -> list[float]:
    return [cell.weights.ratio(block) for block in blocks]


def pixels(picture: Image.Image | None) -> np.ndarray:
    assert picture is not None
    return np.asarray(picture)


def drawn_steps(events: list[Event]) -> int:
    (started,) = [event for event in events if isinstance(event, PhaseStarted)]
    return started.total


def test_blocks_and_values_make_the_cells_of_a_block_study() -> None:
    request = XYZRequest(
        x=Axis("values", ("0", "0.5")),
        y=Axis("blocks", ("IN04", "OUT03-OUT05 M00", "NOT OUT03-OUT11")),
        prompt=CAT,
    )
    (page,) = request.table("sd1").cells
    assert [len(row) for row in page] == [2, 2, 2]
    assert ratios(page[0][1], "IN04", "IN05", "M00") == [0.5, 1, 1]
    assert ratios(page[1][0], "OUT03", "OUT05", "M00", "OUT06") == [0, 0, 0, 1]
    assert ratios(page[2][1], "OUT03", "OUT11", "IN04", "BASE") == [1, 1, 0.5, 0.5]


def test_every_axis_changes_its_own_part_of_a_cell() -> None:
    axes = {
        "seed": (("7-9",), lambda cell: cell.seed, [7, 8, 9]),
        "weights": (("NONE", "OUTS"), lambda cell: ratios(cell, "OUT11"), [[0], [1]]),
        "weight": (("0.5",), lambda cell: (cell.unet, cell.text_encoder), [(0.5, 0.5)]),
        "unet": (("0.5",), lambda cell: (cell.unet, cell.text_encoder), [(0.5, 1)]),
        "text_encoder": (("0.5",), lambda cell: (cell.unet, cell.text_encoder), [(1, 0.5)]),
        "prompt": (("a dog",), lambda cell: cell.prompt, [Prompt("a dog", "ugly")]),
        "network": (("", "x/e1.safetensors"), lambda cell: cell.network, ["", "x/e1.safetensors"]),
        "blocks": (("M00",), lambda cell: ratios(cell, "M00", "IN04"), [[0.25, 1]]),
    }
    assert {"none", "values", *axes} == set(AXES)
    for kind, (entries, part, wanted) in axes.items():
        for name in "xyz":
            request = XYZRequest(**{name: Axis(kind, entries)}, prompt=CAT, value=0.25)
            cells = [cell for _, cell in request.table("sd1").places()]
            assert [part(cell) for cell in cells] == wanted


def test_the_second_axis_of_weights_fills_what_the_first_leaves_off() -> None:
    request = XYZRequest(
        x=Axis("weights", ("INS", "OUTS")), y=Axis("weights", ("OUTD", "ALL0.5")), prompt=CAT
    )
    (page,) = request.table("sd1").cells
    assert ratios(page[0][0], "IN01", "OUT03", "OUT11") == [1, 1, 0]
    assert ratios(page[1][1], "IN01", "OUT03", "OUT11") == [0.5, 0.5, 1]


def test_values_stand_for_the_x_in_weights() -> None:
    request = XYZRequest(x=Axis("values", ("0", "0.7")), weights="ALL=1, OUT03-OUT05=X", prompt=CAT)
    (page,) = request.table("sd1").cells
    assert [ratios(cell, "OUT03", "M00") for cell in page[0]] == [[0, 1], [0.7, 1]]


def test_without_an_axis_of_values_x_is_1_as_elsewhere() -> None:
    request = XYZRequest(x=Axis("seed", ("1", "2")), weights="M00=X", prompt=CAT, value=0.25)
    (page,) = request.table("sd1").cells
    assert [ratios(cell, "M00", "IN04") for cell in page[0]] == [[1, 0], [1, 0]]
    with pytest.raises(ConfigError, match="must be a number"):
        XYZRequest(x=Axis("values", ("0", "many")), weights="M00=X").table("sd1")


def test_users_presets_are_read_wherever_weights_stand() -> None:
    own = {"2D": "M00=X", "ALL": "M00=0.5"}
    across = XYZRequest(x=Axis("weights", ("2D", "ALL", "2D; M00:attn1:0")), presets=own)
    (page,) = across.table("sd1").cells
    assert [ratios(cell, "M00", "IN04") for cell in page[0]] == [[1, 0], [0.5, 0], [1, 0]]
    assert [label.title for label in across.table("sd1").columns][:2] == ["2D", "ALL"]
    assert len(page[0][2].weights.elements) == 1
    values = XYZRequest(x=Axis("values", ("0", "0.7")), weights="2D", presets=own)
    (page,) = values.table("sd1").cells
    assert [ratios(cell, "M00") for cell in page[0]] == [[0], [0.7]]


def test_several_prompts_take_a_free_axis() -> None:
    prompts = (CAT, Prompt("a dog", "ugly"))
    one = XYZRequest(x=Axis("seed", ("1", "2")))
    (page,) = one.with_prompts(prompts).table("sd1").cells
    assert [[cell.prompt for cell in row] for row in page] == [[prompt] * 2 for prompt in prompts]
    taken = replace(one, y=Axis("weight", ("0", "1")))
    pages = taken.with_prompts(prompts).table("sd1").cells
    assert [page[0][0].prompt for page in pages] == list(prompts)
    named = replace(one, y=Axis("prompt", ("a hill",))).with_prompts(prompts)
    assert [cell.prompt.text for _, cell in named.table("sd1").places()] == ["a hill"] * 2
    assert one.with_prompts(prompts[1:]).prompt == prompts[1]
    with pytest.raises(ConfigError, match="2 prompts, and all three axes"):
        replace(taken, z=Axis("unet", ("1",))).with_prompts(prompts)


def test_columns_are_called_what_users_typed() -> None:
    vector = ",".join(["R"] * 16 + ["X"])
    entries = ("NOFACE", "OUT03=0.5", vector, f"mine:{vector}")
    table = XYZRequest(x=Axis("weights", entries), prompt=CAT).table("sd1")
    assert [label.title for label in table.columns] == ["NOFACE", "OUT03=0.5", vector, "mine"]


def test_text_fields_are_split_as_users_type_them() -> None:
    assert Axis.of("values", "0, 0.5，1").entries == ("0", "0.5", "1")
    assert Axis.of("weights", "1,0,X\nNOFACE | ALL").entries == ("1,0,X", "NOFACE", "ALL")
    assert Axis.of("prompt", "a cat, red\n\na dog").entries == ("a cat, red", "a dog")
    assert Axis.of("none", "anything") == Axis()


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"x": ("seed", ("-1",))}, "-1"),
        ({"x": ("seed", ("9-7",))}, "9-7"),
        ({"x": ("seed", ("99999999999999999999",))}, "99999"),
        ({"x": ("weight", ("nan",))}, "nan"),
        ({"x": ("blocks", ("IN04,IN05",))}, "IN04,IN05"),
        ({"x": ("blocks", ("IN99",))}, "IN99"),
        ({"x": ("weights", ("NOFACES",))}, "NOFACE"),
        ({"x": ("values", ("0",))}, "blocks"),
        ({"x": ("values", ("a lot",)), "y": ("blocks", ("M00",))}, "a lot"),
        ({"x": ("seed", ("1",)), "z": ("seed", ("2",))}, "two axes"),
        ({"x": ("seed", ())}, "no entries"),
        ({"x": ("epochs", ("1",))}, "epochs"),
        ({"x": ("seed", ("0-199",)), "y": ("weight", tuple("12345678901234567890123"))}, "4600"),
    ],
)
def test_wrong_axes_are_named(axes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        XYZRequest(**{name: Axis(*given) for name, given in axes.items()}).table("sd1")


def test_equal_cells_are_drawn_once_and_told_with_all_their_places(
    base: BaseModel, network: Network
) -> None:
    events: list[Event] = []
    request = XYZRequest(
        x=Axis("values", ("1", "0")),
        y=Axis("blocks", ("OUT03", "OUT04")),
        z=Axis("weight", ("1", "0")),
        prompt=CAT,
        settings=FAST,
    )
    grid = render_grid(base, network, request, events.append)
    # the whole network, without OUT03, without OUT04; strength 0 is the base model's one picture
    assert drawn_steps(events) == 4
    told = {event.places: event.picture for event in events if isinstance(event, CellDrawn)}
    off = tuple((1, row, column) for row in range(2) for column in range(2))
    assert set(told) == {off, ((0, 0, 0), (0, 1, 0)), ((0, 0, 1),), ((0, 1, 1),)}
    for places, picture in told.items():
        for page, row, column in places:
            assert grid.pages[page].cells[row][column] is picture
    (alone,) = draw(base, [CAT], FAST)
    assert np.array_equal(pixels(grid.pages[1].cells[0][0]), pixels(alone))
    assert grid.pages[1].differences[1][1].percent == 0
    assert grid.pages[0].differences[1][1].percent > 0


def test_without_comparison_no_base_picture_is_drawn(base: BaseModel, network: Network) -> None:
    events: list[Event] = []
    request = XYZRequest(x=Axis("seed", ("1-3",)), prompt=CAT, settings=FAST, compare=False)
    grid = render_grid(base, network, request, events.append)
    assert drawn_steps(events) == 3
    assert all(found is None for found in grid.differences[0])


def test_pictures_in_batches_are_those_of_one_by_one(base: BaseModel, network: Network) -> None:
    request = XYZRequest(
        x=Axis("seed", ("1-5",)), y=Axis("weights", ("ALL", "OUTS")), prompt=CAT, settings=FAST
    )
    one = render_grid(base, network, request)
    many = render_grid(base, network, replace(request, settings=replace(FAST, batch_size=3)))
    for row in range(2):
        for column in range(5):
            apart = pixels(one.cells[row][column]).astype(int) - pixels(many.cells[row][column])
            assert np.abs(apart).max() <= 1  # a kernel may add up in another order
            assert not np.array_equal(pixels(one.cells[0][column]), pixels(one.cells[1][column]))


def other_network(base: BaseModel, network: Network) -> Network:
    """Half as strong as `network`, and without its text encoder."""
    return Network.from_weights(
        find_targets(base.parts),
        {
            path: AdapterWeights(own.down_RI, own.up_OR / 2, own.alpha)
            for path, own in network.weights().items()
            if path.startswith("unet.")
        },
    )


def test_an_axis_of_networks_draws_each_and_puts_the_live_one_back(
    base: BaseModel, network: Network
) -> None:
    other = other_network(base, network)
    request = XYZRequest(x=Axis("network", ("", "half.safetensors")), prompt=CAT, settings=FAST)
    asked = []

    def open_network(name: str) -> Network:
        asked.append(name)
        return other

    with network.attached(base.parts):
        (plain,) = draw(base, [CAT], FAST)
        grid = render_grid(base, network, request, open_network=open_network)
        (again,) = draw(base, [CAT], FAST)
    with other.attached(base.parts):
        (half,) = draw(base, [CAT], FAST)
    assert asked == ["half.safetensors"]
    assert np.array_equal(pixels(grid.cells[0][0]), pixels(plain))
    assert np.array_equal(pixels(grid.cells[0][1]), pixels(half))
    assert np.array_equal(pixels(again), pixels(plain))
    assert grid.legend.columns[1][0] == "half"
    with pytest.raises(ConfigError, match=r"half\.safetensors"):
        render_grid(base, network, request)


def written(grid: Grid, folder: Path) -> Path:
    path = folder / "grid.png"
    path.write_bytes(grid.png())
    return path


def test_a_grid_is_drawn_again_from_its_png(
    base: BaseModel, network: Network, tmp_path: Path
) -> None:
    request = XYZRequest(
        x=Axis("values", ("R", "0.3333333333333333")),
        y=Axis("blocks", ("IN04-IN08", "NOT BASE")),
        z=Axis("seed", ("3", "4")),
        prompt=Prompt("一只猫", "丑"),
        unet=0.9,
        settings=DrawSettings(steps=2, guidance=3.0, width=64, height=72),
        network_name="momo",
    )
    grid = render_grid(base, network, request)
    record = read_grid(written(grid, tmp_path))
    assert record.findings(base, network) == ()
    again = render_grid(base, network, record.table)
    for page, page_again in zip(grid.pages, again.pages, strict=True):
        for row, row_again in zip(page.cells, page_again.cells, strict=True):
            for cell, cell_again in zip(row, row_again, strict=True):
                assert np.array_equal(pixels(cell), pixels(cell_again))
    assert np.array_equal(pixels(grid.image), pixels(again.image))
    assert again.metadata == grid.metadata


def test_a_repeated_grid_says_what_has_changed(
    base: BaseModel, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = render_grid(base, network, XYZRequest(prompt=CAT, settings=FAST, network_name="momo"))
    record = read_grid(written(grid, tmp_path))
    other = replace(record, base_identity="0")
    texts = [finding.text for finding in other.findings(base, other_network(base, network))]
    assert len(texts) == 2
    assert "tiny" in texts[0]
    assert "momo" in texts[1]
    monkeypatch.setattr(base, "seeding", replace(base.seeding, title="GPU"))
    (finding,) = record.findings(base, network)
    assert "other noise here (GPU) than it did for this grid (CPU)" in finding.text
    again = render_grid(base, network, record.table)
    assert read_grid(written(again, tmp_path)).findings(base, network) == ()
    monkeypatch.setattr(base, "seeding", replace(base.seeding, later=31337))
    (finding,) = record.findings(base, network)
    assert "(GPU, ENSD 31337)" in finding.text


def test_files_that_are_no_grids_are_refused(
    base: BaseModel, network: Network, tmp_path: Path
) -> None:
    grid = render_grid(base, network, XYZRequest(prompt=CAT, settings=FAST))
    text, plain, damaged = tmp_path / "a.txt", tmp_path / "plain.png", tmp_path / "damaged.png"
    text.write_text("no picture")
    grid.image.save(plain)
    record = grid.metadata["lora_loop"]
    for path, words in ((text, "picture"), (plain, "no settings"), (tmp_path / "none.png", "none")):
        with pytest.raises(FileError, match=words):
            read_grid(path)
    for wrong in (
        record[:-5],
        "[]",
        "3",
        record.replace('"version": 2', '"version": 1'),
        record.replace('"prompt": 0', '"prompt": 9'),
        record.replace('"steps": 1', '"steps": "many"'),
        record.replace('"steps": 1', '"step": 1'),
    ):
        stream = io.BytesIO()
        image = replace(grid, metadata=grid.metadata | {"lora_loop": wrong}).png()
        stream.write(image)
        damaged.write_bytes(stream.getvalue())
        with pytest.raises(FileError, match="damaged"):
            read_grid(damaged)


def test_a_sheet_has_a_title_for_every_page(base: BaseModel, network: Network) -> None:
    one = XYZRequest(x=Axis("weights", ("ALL",)), prompt=CAT, settings=FAST)
    pages = replace(one, z=Axis("seed", ("1", "2")), language="zh")
    single, double = (render_grid(base, network, request) for request in (one, pages))
    assert double.image.height > 1.7 * single.image.height
    assert double.legend.pages == (("1", "随机种子"), ("2", "随机种子"))
    assert "底模" in double.legend.footer


def test_nothing_of_the_base_stays_changed(base: BaseModel, network: Network) -> None:
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    request = XYZRequest(x=Axis("weights", ("ALL", "OUTS")), prompt=CAT, settings=FAST)
    render_grid(base, network, request)
    after = base.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
