"""Suggested weights: shares by hand, a path that is searched, a proof with other seeds."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.blocks import block_of, block_order
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.errors import ConfigError
from lora_loop.core.events import CellDrawn, Event, PhaseStarted
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.part import Box, Part
from lora_loop.core.preview.sampling import DrawSettings, Prompt
from lora_loop.core.preview.search import Kept, Region
from lora_loop.core.preview.suggest import SuggestionRequest, suggest_weights

FAST = DrawSettings(steps=1)
CAT = Prompt("a cat")


def left_half(size: tuple[int, int] = (64, 64)) -> Image.Image:
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = 255
    return Image.fromarray(mask)


def flat(left: int, right: int) -> Image.Image:
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2], pixels[:, 2:] = left, right
    return Image.fromarray(pixels)


def test_kept_by_hand() -> None:
    region = Region([(flat(10, 10), flat(110, 60))], Part(mask=left_half((4, 2))))
    assert region.kept([flat(10, 10)]) == (0, 0)
    assert region.kept([flat(110, 60)]) == (1, 1)
    assert region.kept([flat(50, 58)]) == pytest.approx((0.4, 0.96))
    assert region.between([flat(60, 60)], [flat(110, 60)]) == pytest.approx((0.5, 0))


def test_the_answer_is_drawn_with_other_seeds(base: BaseModel, network: Network) -> None:
    request = SuggestionRequest(prompts=(CAT,), inside=0.5, seeds=(1,), settings=FAST)
    found = suggest_weights(base, network, request, Part(mask=left_half()))
    assert found is not None
    assert tuple(block for block, _ in found.weights.ratios) == block_order("sd1", network.blocks())
    assert all(0 <= ratio <= 1 for _, ratio in found.weights.ratios)
    assert any(ratio < 1 for _, ratio in found.weights.ratios)
    assert [row[0].seed for row in found.grid.table.cells[0]] == [2]
    ((none, whole, suggested),) = found.grid.cells
    region = Region([(none, whole)], Part(mask=left_half()))
    assert found.measured == region.kept([suggested])
    assert found.promised.inside <= 0.5
    for promised, measured, held, reached, words in (
        (Kept(0.38, 0.96), Kept(0.41, 0.93), True, True, "is reached"),
        (Kept(0.38, 0.80), Kept(0.36, 0.79), True, False, "come nearest"),
        (Kept(0.38, 0.96), Kept(0.60, 0.96), False, False, "less than was promised"),
    ):
        made = replace(found, asked=Kept(0.4, 0.95), promised=promised, measured=measured)
        assert (made.held, made.reached) == (held, reached)
        assert words in made.text()
        assert f"{100 * measured.inside:.0f} %" in made.text("zh")


def test_the_block_that_does_it_is_turned_down(base: BaseModel, network: Network) -> None:
    planted = "M00"
    paths = [path for path in network.paths if block_of(path) in {planted, "BASE"}]
    weights = {
        path: own if block_of(path) == planted else own._replace(up_OR=own.up_OR * 1e-3)
        for path, own in network.weights().items()
        if path in paths
    }
    own = Network.from_weights(find_targets(base.parts), weights)
    request = SuggestionRequest(prompts=(CAT,), inside=0.5, seeds=(1,), settings=FAST)
    found = suggest_weights(base, own, request, Part(mask=left_half()))
    assert found is not None
    assert found.blocks[planted].inside > 0.9
    assert 0 < found.weights.ratio(planted) < 1
    assert found.promised.inside <= 0.5


def test_of_a_network_without_a_text_encoder_it_is_a_vector_all_the_same(
    base: BaseModel, network: Network
) -> None:
    unet = {path: own for path, own in network.weights().items() if block_of(path) != "BASE"}
    alone = Network.from_weights(find_targets(base.parts), unet)
    request = SuggestionRequest(prompts=(CAT,), inside=0.5, seeds=(1,), settings=FAST)
    found = suggest_weights(base, alone, request, Part(mask=left_half()))
    assert found is not None
    read = BlockWeights.parse(found.text().splitlines()[0])
    assert read == found.weights
    assert read.ratio("BASE") == 0


def test_stopping_gives_nothing(base: BaseModel, network: Network) -> None:
    request = SuggestionRequest(prompts=(CAT,), seeds=(1,), settings=FAST)
    part = Part(mask=left_half())
    events = []

    def stop() -> bool:
        return sum(isinstance(event, CellDrawn) for event in events) > 1

    assert suggest_weights(base, network, request, part, stop=lambda: True) is None
    assert suggest_weights(base, network, request, part, events.append, stop) is None


def test_without_a_part_there_is_nothing_to_keep(base: BaseModel, network: Network) -> None:
    request = SuggestionRequest(prompts=(CAT,), seeds=(1,), settings=FAST)
    with pytest.raises(ConfigError, match="mask"):
        suggest_weights(base, network, request, Part())


def test_a_part_that_cannot_be_found_costs_the_two_ends_at_most(
    base: BaseModel, network: Network
) -> None:
    request = SuggestionRequest(prompts=(CAT,), seeds=(1,), settings=FAST)
    for part, words, pictures in (
        (Part(find=lambda picture: None), "in none of the pictures", [2]),
        (Part(mask=Image.new("L", (8, 8))), "all black", []),
    ):
        events: list[Event] = []
        with pytest.raises(ConfigError, match=words):
            suggest_weights(base, network, request, part, events.append)
        assert [event.total for event in events if isinstance(event, PhaseStarted)] == pictures


def test_a_proof_without_the_part_keeps_what_was_found(base: BaseModel, network: Network) -> None:
    looked = []

    def find(picture: Image.Image) -> list[Box] | None:
        looked.append(picture)
        return [(0.0, 0.0, 32.0, 64.0)] if len(looked) == 1 else None

    request = SuggestionRequest(prompts=(CAT,), inside=0.5, seeds=(1,), settings=FAST)
    found = suggest_weights(base, network, request, Part(find=find))
    assert found is not None
    assert found.measured is None
    assert not found.held
    assert not found.reached
    assert "Not proved" in found.text()
    assert not found.grid.stopped


@pytest.mark.parametrize(
    ("seeds", "proof"),
    [
        ((4, 2), (5, 6)),
        ((2**64 - 2,), (2**64 - 1,)),
        ((2**64 - 2, 2**64 - 1), (0, 1)),
        ((0, 2**64 - 1), (1, 2)),
    ],
)
def test_the_proof_has_seeds_of_its_own(seeds: tuple[int, ...], proof: tuple[int, ...]) -> None:
    assert SuggestionRequest(prompts=(CAT,), seeds=seeds).proof == proof


def test_wrong_requests_are_refused() -> None:
    for wrong in (
        {"prompts": ()},
        {"seeds": ()},
        {"inside": 1.5},
        {"check_seeds": (2, 3)},
        {"seeds": (2**64,)},
        {"check_seeds": (-1,)},
    ):
        with pytest.raises(ConfigError):
            SuggestionRequest(**{"prompts": (CAT,), **wrong})
