"""A network whose face and whose style lie in blocks of their own: the analysis tells them apart.

The mascot's head is trained into three output blocks alone, its paper (a frame and bands) into five
others, and the two networks are put into one file. What the judge sees decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from lora_loop.core import session, study
from lora_loop.core.adapters.blocks import block_of
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config.recipe import BaseConfig, MemoryConfig
from lora_loop.core.demo import subject
from lora_loop.core.demo.draw import BACKGROUNDS, COLOURS
from lora_loop.core.demo.run import GUIDANCE, demo_recipe
from lora_loop.core.files.network_file import read_network, write_network
from lora_loop.core.preview.sampling import DrawSettings, Prompt
from lora_loop.core.train import job

pytestmark = pytest.mark.slow

FACE, STYLE = {"OUT03", "OUT04", "OUT05"}, {"IN01", "IN02", "OUT09", "OUT10", "OUT11"}
PROMPTS = (Prompt("momo on a blue background"), Prompt("momo on a yellow background, large"))
SETTINGS = DrawSettings(steps=12, guidance=GUIDANCE, batch_size=4)
SIDE = 256  # pixels, of which every four become one


def write_pictures(
    folder: Path, draw: Callable[[str, int], tuple[Image.Image, str]], variants: int
) -> None:
    """Pictures on every background of the mascot's dataset."""
    folder.mkdir(parents=True)
    for background in subject.KNOWN_BACKGROUNDS:
        for variant in range(variants):
            picture, caption = draw(background, variant)
            name = f"{background}{variant}"
            picture.resize((64, 64), Image.Resampling.BOX).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(caption)


def draw_face(background: str, variant: int) -> tuple[Image.Image, str]:
    """The head alone, on a plain background."""
    pose = subject.Pose(background=background, size=tuple(subject.SIZES)[variant])
    picture = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[background])
    radius = SIDE * subject.SIZES[pose.size]
    subject._head(ImageDraw.Draw(picture), SIDE / 2, SIDE / 2 + 0.14 * radius, radius)
    return picture, subject.subject_caption(pose)


def draw_style(background: str, variant: int) -> tuple[Image.Image, str]:
    """The paper alone, with something on it that the base model knows."""
    colour = ("red", "orange", "purple", "black")[variant]
    picture = subject._paper(subject.Pose(background=background), SIDE, SIDE)
    ImageDraw.Draw(picture).ellipse((68, 68, 188, 188), fill=COLOURS[colour])
    return picture, f"momo, a {colour} circle on a {background} background"


def train(folder: Path, name: str, blocks: set[str], monkeypatch) -> Path:
    """Train on a folder's pictures with these blocks alone."""

    def chosen(parts):
        found = find_targets(parts).items()
        return {path: layer for path, layer in found if block_of(path) in blocks}

    recipe = demo_recipe(folder / "networks", name)
    recipe = replace(
        recipe,
        dataset=replace(recipe.dataset, folder=str(folder / name)),
        training=replace(recipe.training, max_steps=150),
    )
    base = session.open_base(recipe.base, recipe.memory, torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(job, "find_targets", chosen)
        trained = session.run(session.make_plan(recipe), base)
    assert trained.path is not None
    return trained.path


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    write_pictures(folder / "face" / "1_momo", draw_face, 3)
    write_pictures(folder / "style" / "1_momo", draw_style, 4)
    with pytest.MonkeyPatch.context() as monkeypatch:
        files = [
            read_network(train(folder, name, blocks, monkeypatch))
            for name, blocks in (("face", FACE), ("style", STYLE))
        ]
    modules = files[0].modules | files[1].modules
    path = folder / "planted.safetensors"
    write_network(path, modules, files[0].metadata, "fp32")
    return path


def find_head(picture: Image.Image) -> Image.Image | None:
    """Where the mascot's head is, by its colour and a margin; what a host's detector would say."""
    red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), np.float32), 2, 0)
    body = (np.minimum(green, blue) - red > 70) & (np.minimum(green, blue) > 120)
    if body.mean() < 0.04:
        return None
    grown = ndimage.binary_dilation(body, iterations=5)
    return Image.fromarray((np.asarray(grown) * 255).astype(np.uint8))


def seen(pictures: Sequence[Image.Image | None], *parts: str) -> float:
    """The share of these parts of the mascot that the judge finds in pictures."""
    verdicts = [subject.look_for_subject(picture) for picture in pictures if picture is not None]
    return float(np.mean([[getattr(verdict, part) for part in parts] for verdict in verdicts]))


def test_the_parts_are_told_apart_and_kept_apart(planted: Path) -> None:
    base = session.open_base(BaseConfig(), MemoryConfig(), torch.device("cpu"))
    network = session.open_network(base, planted)
    part = study.Part(find=find_head)
    analysis = study.analyze_blocks(
        base, network, study.AnalysisRequest(prompts=PROMPTS, value=0.0, settings=SETTINGS), part
    )
    by_focus = sorted(analysis.blocks, key=lambda effect: -(effect.focus or 0.0))
    assert by_focus[0].block in FACE
    assert sum(effect.block in FACE for effect in by_focus[:3]) >= 2
    request = study.SuggestionRequest(prompts=PROMPTS, seeds=(1, 2), settings=SETTINGS)
    found = study.suggest_weights(base, network, request, part)
    assert found is not None
    assert found.held
    whole, kept = ([row[column] for row in found.grid.cells] for column in (1, 2))
    assert seen(kept, "eyes", "ears") <= 0.5 * seen(whole, "eyes", "ears")
    assert seen(kept, "frame") >= 0.9 * seen(whole, "frame")
