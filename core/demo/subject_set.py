"""Writes the bundled dataset: pictures of the mascot in several sizes and shapes, with captions."""

from __future__ import annotations

from pathlib import Path

from .subject import Pose, draw_subject, subject_caption

FOLDER = "10_momo"
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
