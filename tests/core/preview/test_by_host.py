"""Pictures by a host's own sampler: asked for by name, counted, stopped, and with LoRAs at work."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from lora_loop.core import session
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.strength import Strength, Window
from lora_loop.core.config import DatasetConfig, PreviewConfig, Recipe
from lora_loop.core.errors import ConfigError
from lora_loop.core.events import PhaseProgress, never
from lora_loop.core.models.artist import Brief
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.models.text import TextOptions
from lora_loop.core.preview.grid import GridRequest, render_grid
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

HOST = DrawSettings(host_sampler="Heun", host_scheduler="Karras", steps=3, seed=7)


class Artist:
    """Draws each picture in the colour of its seed, with two calls of the model a step."""

    def __init__(self, network: Network | None = None) -> None:
        self.briefs: list[Brief] = []
        self.acting: list[list[float]] = []
        self._network = network

    def check(self, sampler: str, scheduler: str) -> None:
        if (sampler, scheduler) != ("Heun", "Karras"):
            raise ConfigError(f"no {sampler} {scheduler}")

    def draw(self, brief: Brief, on_step: Callable[[int], bool]) -> Image.Image | None:
        self.briefs.append(brief)
        acting = []
        for step in range(1, brief.steps + 1):
            for _ in range(2):
                if not on_step(step):
                    return None
            if self._network is not None:
                acting.append(self._network.acting(self._network.paths[0]))
        self.acting.append(acting)
        return Image.new("RGB", (brief.width, brief.height), (brief.seed, 0, 0))


def test_a_picture_is_what_the_host_draws(base: BaseModel) -> None:
    base.artist = artist = Artist()
    settings = replace(HOST, width=128, guidance=3.5, text=TextOptions(clip_skip=2))
    done = []

    def on_event(event) -> None:
        if isinstance(event, PhaseProgress):
            done.append((event.done, event.total))

    pictures = draw(base, [Prompt("a", "b"), Prompt("c")], settings, on_event)
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(7, 0, 0), (8, 0, 0)]
    assert pictures[0].size == (128, 64)
    assert done == [(number, 6) for number in range(1, 7)]
    wanted = Brief(
        text="a",
        negative="b",
        seed=7,
        sampler="Heun",
        scheduler="Karras",
        steps=3,
        guidance=3.5,
        width=128,
        height=64,
        clip_skip=2,
    )
    assert artist.briefs == [wanted, replace(wanted, text="c", negative="", seed=8)]


def test_a_stop_keeps_the_pictures_before(base: BaseModel) -> None:
    base.artist = artist = Artist()
    stop = lambda: len(artist.briefs) == 2  # noqa: E731
    assert len(draw(base, [Prompt("a"), Prompt("b"), Prompt("c")], HOST, stop=stop)) == 1


def test_networks_are_told_of_the_hosts_steps(base: BaseModel, network: Network) -> None:
    base.artist = artist = Artist(network)
    with network.attached(base.parts), network.using(Strength(window=Window(2, 3))):
        draw(base, [Prompt("a")], HOST)
        assert artist.acting == [[0, 1, 0]]


def test_a_grid_names_the_hosts_sampler(base: BaseModel, network: Network) -> None:
    base.artist = artist = Artist()
    request = GridRequest(prompts=(Prompt("a"),), presets=("NONE", "ALL"), settings=HOST)
    grid = render_grid(base, network, request)
    assert len(artist.briefs) == 2
    assert not network.is_attached_to(base.parts)
    assert "Sampler: Heun, Schedule type: Karras" in grid.metadata["parameters"]


@pytest.mark.parametrize(
    ("settings", "artist", "message"),
    [
        (HOST, None, "preview.host_sampler is 'Heun': that is for the tab in the WebUI"),
        (replace(HOST, host_scheduler="Karas"), Artist(), "no Heun Karas"),
    ],
)
def test_what_no_host_can_draw_is_refused_before_a_picture(base, settings, artist, message) -> None:
    base.artist = artist
    with pytest.raises(ConfigError, match=message):
        draw(base, [Prompt("a")], settings)


def test_a_training_with_such_samples_is_refused_before_its_first_step(base: BaseModel) -> None:
    preview = PreviewConfig(prompts=("a",), host_sampler="Heun")
    recipe = Recipe(dataset=DatasetConfig(folder="."), preview=preview)
    plan = SimpleNamespace(recipe=recipe)
    with pytest.raises(ConfigError, match="Leave it empty"):
        session._own_pictures(plan, base, never)
    base.artist = artist = Artist()
    with pytest.raises(ConfigError, match="no Heun"):
        session._own_pictures(plan, base, never)
    assert not artist.briefs
