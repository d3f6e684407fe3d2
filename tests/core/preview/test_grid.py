"""The grid: NONE is the base, ALL the plain network, equal cells drawn once, all put back."""

import copy
import io
import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core.adapters.applied import AppliedNetwork, AppliedStack
from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.errors import ConfigError
from lora_loop.core.events import CellDrawn, Event, PhaseProgress, PhaseStarted
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.models.text import TextOptions
from lora_loop.core.preview.grid import GridRequest, render_grid
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

FAST = DrawSettings(steps=1)
PROMPTS = (Prompt("a cat", "ugly"), Prompt("a dog"))


def same(first: Image.Image | None, second: Image.Image | None) -> bool:
    assert first is not None
    assert second is not None
    return np.array_equal(np.asarray(first), np.asarray(second))


def request(*presets: str | BlockWeights, **changes: object) -> GridRequest:
    return replace(GridRequest(prompts=PROMPTS, presets=presets, settings=FAST), **changes)


def test_none_is_the_base_and_all_the_plain_network(base: BaseModel, network: Network) -> None:
    alone = draw(base, PROMPTS, FAST)
    with network.attached(base.parts):
        plain = draw(base, PROMPTS, FAST)
        grid = render_grid(base, network, request("ALL", "NONE", "OUTALL"))
    for row in range(2):
        assert same(grid.cells[row][1], alone[row])
        assert same(grid.cells[row][0], plain[row])
        assert not same(grid.cells[row][2], plain[row])
        assert not same(plain[row], alone[row])
    assert not grid.stopped
    percents = [[found.percent if found else None for found in line] for line in grid.differences]
    assert percents[0][1] == percents[1][1] == 0
    assert all(line[0] for line in percents)


def test_a_batch_holds_the_same_equalities(base: BaseModel, network: Network) -> None:
    settings = replace(FAST, batch_size=2)
    alone = draw(base, PROMPTS, settings)
    grid = render_grid(base, network, request("NONE", settings=settings))
    assert all(same(grid.cells[row][0], alone[row]) for row in range(2))


def test_everything_is_put_back(base: BaseModel, network: Network) -> None:
    one = request("INS", prompts=PROMPTS[:1])
    render_grid(base, network, one)  # attaches and detaches by itself
    find_targets(base.parts)  # refuses a base that carries adapters
    with network.attached(base.parts):
        network.set_strength(0.5, 0.25)
        before = network.strength
        with (
            mock.patch.object(base, "decode", side_effect=RuntimeError),
            pytest.raises(RuntimeError),
        ):
            render_grid(base, network, one)
        assert network.strength == before


def test_networks_that_are_attached_together_act_beside_it_and_stay(
    base: BaseModel, updates: dict[str, Update]
) -> None:
    one, other, third = (AppliedNetwork(updates) for _ in range(3))
    alone = render_grid(base, third, request("ALL", "NONE"))
    with AppliedStack([one, other]).attached(base.parts):
        other.set_strength(0.5, 0.5)
        both = draw(base, PROMPTS, FAST)
        grid = render_grid(base, one, request("ALL", "NONE"))
        assert same(grid.cells[0][0], both[0])
        assert not same(grid.cells[0][1], alone.cells[0][1])
        with one.suspended(base.parts):
            again = render_grid(base, third, request("ALL", "NONE"))
        assert all(map(same, again.cells[0], alone.cells[0]))
        assert all(each.is_attached_to(base.parts) for each in (one, other))
        assert other.strength.unet == 0.5
    assert not one.is_attached_to(base.parts)


def fail(event: Event) -> None:
    if isinstance(event, CellDrawn):
        raise RuntimeError("the page is closed")


@pytest.mark.parametrize("in_decoding", [RuntimeError, None])
def test_networks_attached_together_are_put_back_after_an_error(
    base: BaseModel, updates: dict[str, Update], in_decoding: type[Exception] | None
) -> None:
    one, other = AppliedNetwork(updates), AppliedNetwork(updates)
    with AppliedStack([one, other]).attached(base.parts):
        one.set_strength(0.75)
        other.set_strength(0.5, 0.25)
        strengths = one.strength, other.strength
        before = [parameter.clone() for parameter in base.unet.parameters()]
        decode = mock.patch.object(base, "decode", wraps=base.decode, side_effect=in_decoding)
        with decode, pytest.raises(RuntimeError) as caught:
            render_grid(base, one, request("ALL"), fail)
        assert caught.tb is not None  # which holds what was at work
        assert all(each.is_attached_to(base.parts) for each in (one, other))
        assert (one.strength, other.strength) == strengths
        assert all(map(torch.equal, base.unet.parameters(), before))


def test_equal_presets_are_drawn_once(base: BaseModel, network: Network) -> None:
    events: list[Event] = []
    one = request("NOFACE", "LyNOFACE", "NONE", "NOT", prompts=PROMPTS[:1])
    grid = render_grid(base, network, one, events.append)
    assert events[0] == PhaseStarted(name="preview", total=2)
    assert [event.done for event in events if isinstance(event, PhaseProgress)] == [1, 2]
    assert same(grid.cells[0][0], grid.cells[0][1])
    assert same(grid.cells[0][2], grid.cells[0][3])


def test_texts_are_encoded_once_for_each_state_of_the_text_encoder(
    base: BaseModel, network: Network
) -> None:
    one = request("NONE", "ALL", "INS", "OUTALL", "ALL=1, BASE=0")
    with mock.patch.object(base, "encode_text", wraps=base.encode_text) as encode:
        render_grid(base, network, one)
    # "a cat", "ugly", "a dog" and the empty negative prompt, with BASE at 0 and at 1
    assert encode.call_count == 2 * 4


def test_a_picture_does_not_depend_on_the_grid(base: BaseModel, network: Network) -> None:
    large = render_grid(base, network, request("ALL", "OUTS"))
    second = request("OUTS", prompts=PROMPTS[1:], settings=replace(FAST, seed=2))
    assert same(large.cells[1][1], render_grid(base, network, second).cells[0][0])


def test_stopping_keeps_what_is_drawn(base: BaseModel, network: Network) -> None:
    events: list[Event] = []
    grid = render_grid(
        base,
        network,
        request("NONE", "ALL"),
        events.append,
        lambda: sum(isinstance(event, CellDrawn) for event in events) > 2,
    )
    (none_1, all_1), (none_2, all_2) = grid.cells
    assert None not in (none_1, none_2, all_1)
    assert all_2 is None
    assert grid.differences[0][1] is not None
    assert grid.differences[1][1] is None
    assert grid.image.width > 300
    nothing = render_grid(base, network, request("ALL"), stop=lambda: True)
    assert nothing.cells == ((None,), (None,))
    assert nothing.stopped
    assert grid.stopped


def test_the_file_says_how_to_repeat_it(base: BaseModel, network: Network) -> None:
    prompts = (Prompt("一只\0猫, cat", "丑 \ud800"),)
    settings = DrawSettings(steps=1, seed=11, text=TextOptions(clip_skip=2))
    weights = BlockWeights((("BASE", 1.0), ("OUT03", 0.5)), "mine")
    grid = render_grid(
        base, network, request(weights, prompts=prompts, settings=settings, network_name="猫: v1")
    )
    texts = Image.open(io.BytesIO(grid.png())).text  # pyright: ignore[reportAttributeAccessIssue]
    assert texts["parameters"].splitlines() == [
        "一只 猫, cat",
        "Negative prompt: 丑 ?",
        "Steps: 1, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 11, "
        f"Size: 64x64, Model hash: {str(base.sha256)[:10]}, Model: tiny, Clip skip: 2, "
        "RNG: CPU",
    ]
    facts = json.loads(texts["lora_loop"])
    assert facts["weights"] == [
        {"label": "mine", "blocks": {"BASE": 1.0, "OUT03": 0.5}, "elements": ""}
    ]
    assert facts["settings"]["seed"] == 11
    assert facts["base"]["identity"] == base.identity
    assert facts["network"] == "猫: v1"
    assert grid.differences[0][0] is not None
    assert facts["changed_percent"] == [[[round(grid.differences[0][0].percent, 3)]]]


def test_a_network_of_the_unet_alone(base: BaseModel, network: Network) -> None:
    weights = {path: w for path, w in network.weights().items() if path.startswith("unet.")}
    own = Network.from_weights(find_targets(base.parts), weights)
    grid = render_grid(base, own, request("ALL", "ALL=1, BASE=0"))
    assert same(grid.cells[0][0], grid.cells[0][1])


def test_presets_that_silence_blocks_are_named(
    base: BaseModel, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    weights = BlockWeights((("BASE", 1.0), ("M00", 1.0)), "few")
    one = request(weights, prompts=PROMPTS[:1])
    render_grid(base, network, one)
    assert "few" in caplog.text
    assert "OUT03" in caplog.text


def test_wrong_requests_are_refused_before_any_work(base: BaseModel, network: Network) -> None:
    with pytest.raises(ConfigError, match=r"preview\.prompts"):
        GridRequest(prompts=(), presets=("ALL",))
    with pytest.raises(ConfigError, match=r"preview\.presets"):
        GridRequest(prompts=PROMPTS, presets=())
    events: list[Event] = []
    with pytest.raises(ConfigError, match="NOFACE"):
        render_grid(base, network, request("NOFACES"), events.append)
    assert events == []


def test_half_precision_weights_draw(base: BaseModel, network: Network) -> None:
    half = copy.deepcopy(base)
    half.unet.to(torch.bfloat16)
    half.text_encoders["text_encoder"].to(torch.bfloat16)
    one = request("ALL", prompts=PROMPTS[:1])
    assert render_grid(half, network, one).cells[0][0] is not None
