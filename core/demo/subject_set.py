"""Writes the bundled dataset: the mascot in several sizes and shapes, and some of the base's world.

The second folder, pictures of the base's own world, keeps the network from turning every picture
into the mascot: without it the base's own subjects are lost as the mascot is learned.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .draw import Scene, describe, draw, sample_scene
from .subject import Pose, base_prompts, draw_subject, subject_caption

FOLDER = "10_momo"
WORLD_FOLDER = "6_world"
WORLD_PICTURES = 24
_WORLD_SEED = 5
_WORLD_SIDE = 64  # pixels
ITEMS: tuple[tuple[int, int, Pose], ...] = (
    (128, 128, Pose(background="white")),
    (128, 128, Pose(background="gray")),
    (96, 96, Pose(background="pink")),
    (144, 144, Pose(background="green")),
    (64, 64, Pose(background="white", size="large")),
    (128, 128, Pose(background="gray", size="small")),
    (100, 100, Pose(background="pink", size="large")),
    (128, 128, Pose(background="green", size="small")),
    (144, 112, Pose(background="white", position="right")),
    (112, 144, Pose(background="gray", position="bottom")),
    (160, 96, Pose(background="pink", position="left")),
    (96, 160, Pose(background="green", position="top")),
    (144, 112, Pose(background="gray", position="left")),
    (96, 160, Pose(background="white", size="large", position="bottom")),
    (160, 96, Pose(background="green", size="large", position="right")),
    (112, 144, Pose(background="pink", size="small")),
)
AS_JPEG = (3, 8)


def write_dataset(parent: Path) -> Path:
    """Write pictures and captions into parent / '10_momo'; give that folder."""
    folder = parent / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for place, (width, height, pose) in enumerate(ITEMS):
        picture = draw_subject(pose, width, height)
        if place in AS_JPEG:
            picture.save(folder / f"momo_{place + 1:02}.jpg", quality=95, subsampling=0)
        else:
            picture.save(folder / f"momo_{place + 1:02}.png", optimize=True)
        (folder / f"momo_{place + 1:02}.txt").write_text(subject_caption(pose) + "\n", "utf-8")
    return folder


def world_scenes() -> list[Scene]:
    """Scenes of the base's own world, none of them among those that judge what was forgotten."""
    rng = np.random.default_rng(_WORLD_SEED)
    judged = {prompt for prompt, _ in base_prompts()}
    scenes: list[Scene] = []
    while len(scenes) < WORLD_PICTURES:
        scene = sample_scene(rng)
        if describe(scene) not in judged:
            scenes.append(scene)
    return scenes


def write_world(parent: Path) -> Path:
    """Write pictures and captions into parent / '6_world'; give that folder."""
    folder = parent / WORLD_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for place, scene in enumerate(world_scenes(), 1):
        path = folder / f"world_{place:02}.png"
        draw(scene, _WORLD_SIDE, _WORLD_SIDE).save(path, optimize=True)
        path.with_suffix(".txt").write_text(describe(scene) + "\n", "utf-8")
    return folder
