"""Drawing the cells of a grid: equal ones once, those of one state of the network together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from PIL import Image

from ..adapters.blocks import BASE, block_of
from ..adapters.live import LiveNetwork
from ..adapters.strength import Strength
from ..events import CellDrawn, OnEvent, StopFlag
from ..log import logger
from ..models.base_model import BaseModel
from .sampling import DrawSettings, Painter, Progress, Prompt, Stopped
from .table import Cell, Place

OpenNetwork = Callable[[str], LiveNetwork]
"""Gives the network of a file; ConfigError or FileError where that can't be."""


class State(NamedTuple):
    """Which network acts, and how strongly in each of its layers; off is the same for all."""

    network: str
    strengths: tuple[float, ...]


OFF = State("", ())
"""No layer acts: the base model, whatever the network."""


class Key(NamedTuple):
    """What a picture depends on: cells of equal keys show the same one."""

    state: State
    prompt: Prompt
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """What cells are drawn with; `open_network` is asked for the networks of other files."""

    base: BaseModel
    network: LiveNetwork
    settings: DrawSettings
    open_network: OpenNetwork
    on_event: OnEvent
    stop: StopFlag


class CellPainter:
    """Draws cells with live networks; strengths, and where networks were attached, are put back.

    Cells that mean the same for the network's layers are drawn once, and whatever turns all of it
    off is the base model's one picture. A state's pictures are drawn in batches of the settings'
    size, in the order in which its cells are first met.
    """

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._networks: dict[str, LiveNetwork] = {"": hand.network}

    def key(self, cell: Cell) -> Key:
        """Say what this cell's picture depends on."""
        paths = self.network(cell.network).paths
        strength = _strength(cell)
        strengths = tuple(strength.of(path) for path in paths)
        state = State(cell.network, strengths) if any(strengths) else OFF
        return Key(state, cell.prompt, cell.seed)

    @property
    def networks(self) -> Mapping[str, LiveNetwork]:
        """Every network that a cell named so far, by its name."""
        return self._networks

    def network(self, name: str) -> LiveNetwork:
        """Give the network of a cell, read from its file at the first time."""
        if name not in self._networks:
            self._networks[name] = self._hand.open_network(name)
        return self._networks[name]

    def paint(self, cells: Iterable[tuple[Cell, Place | None]]) -> dict[Key, Image.Image]:
        """Draw every distinct cell, those that are first met first; stopped, what was drawn.

        A place is told when its picture is drawn; None is a picture that no cell shows.
        """
        groups: dict[State, dict[Key, Cell]] = {}
        places: dict[Key, list[Place]] = {}
        for cell, place in cells:
            key = self.key(cell)
            groups.setdefault(key.state, {}).setdefault(key, cell)
            places.setdefault(key, []).extend([] if place is None else [place])
        hand = self._hand
        progress = Progress(len(places) * hand.settings.steps, hand.on_event)
        painter = Painter(hand.base, hand.settings, progress.step, hand.stop)
        pictures: dict[Key, Image.Image] = {}
        try:
            for name, states in groupby(groups.items(), key=lambda one: one[0].network):
                # closed at once, so that networks are put back where an event fails
                with closing(self._paint_states(painter, self.network(name), states)) as painted:
                    for key, picture in painted:
                        pictures[key] = picture
                        told = tuple(places[key])
                        if told:
                            hand.on_event(CellDrawn(picture=picture, places=told))
        except Stopped:
            logger.info("preview stopped; what was drawn is kept")
        return pictures

    def _paint_states(
        self,
        painter: Painter,
        network: LiveNetwork,
        states: Iterable[tuple[State, Mapping[Key, Cell]]],
    ) -> Generator[tuple[Key, Image.Image], None, None]:
        """Draw the cells of one network, state by state, in batches."""
        size = self._hand.settings.batch_size
        with (
            attached(self._hand.base, self._hand.network, network),
            network.using(network.strength),
        ):
            for state, group in states:
                keys = list(group)
                off = Strength(unet=0, text_encoder=0)
                network.use(off if state == OFF else _strength(group[keys[0]]))
                for start in range(0, len(keys), size):
                    batch = keys[start : start + size]
                    prompts, seeds = [key.prompt for key in batch], [key.seed for key in batch]
                    pictures = painter.paint(prompts, seeds, self._text_state(state))
                    yield from zip(batch, pictures, strict=True)

    def _text_state(self, state: State) -> State:
        """What the text encoder says depends on BASE alone: states that agree there share it."""
        paths = self.network(state.network).paths
        own = tuple(
            strength
            for path, strength in zip(paths, state.strengths, strict=False)
            if block_of(path) == BASE
        )
        return State(state.network, own) if any(own) else OFF


@contextmanager
def attached(base: BaseModel, live: LiveNetwork, wanted: LiveNetwork) -> Iterator[None]:
    """Have `wanted` attached for the length of a with block, afterwards what was before.

    Where it is attached already, also as one of a stack, all of that stays; other networks than
    `live` are attached alone.
    """
    if wanted is live and live.is_attached_to(base.parts):
        yield
        return
    with live.suspended(base.parts), wanted.attached(base.parts):
        yield


def _strength(cell: Cell) -> Strength:
    return Strength(unet=cell.unet, text_encoder=cell.text_encoder, block_weights=cell.weights)


def without_network(cell: Cell) -> Cell:
    """Give the cell that shows the base model alone with the same prompt and seed."""
    return replace(cell, network="", unet=0.0, text_encoder=0.0)
