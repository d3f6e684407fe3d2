"""The demo's subject: a mascot that the base model has never seen, its captions and its judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .draw import BACKGROUNDS, POSITIONS, RGB, SUPERSAMPLE, Scene, describe, sample_scene
from .judge import parts_of

SUBJECT_TRIGGER = "momo"
BODY: RGB = (20, 200, 190)
INK: RGB = (25, 20, 50)
EYE: RGB = (250, 250, 250)
MOUTH: RGB = (235, 60, 60)
SIZES: dict[str, float] = {"small": 0.24, "medium": 0.28, "large": 0.32}
KNOWN_BACKGROUNDS = ("white", "gray", "pink", "green")  # those of the bundled pictures
NEW_BACKGROUNDS = ("blue", "yellow")  # those of the prompts that judge a training


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """One picture of the mascot."""

    background: str
    size: str = "medium"
    position: str = "center"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectVerdict:
    """Which of the mascot's parts a picture shows: of its face, and of the style around it."""

    body: bool
    eyes: bool
    ears: bool
    outline: bool
    frame: bool
    bands: bool

    @property
    def is_subject(self) -> bool:
        """Whether it is the mascot: its body and at least three of the five other parts."""
        parts = (self.eyes, self.ears, self.outline, self.frame, self.bands)
        return self.body and sum(parts) >= 3


def _paper(pose: Pose, wide: int, high: int) -> Image.Image:
    """Draw the style-like part: broad diagonal bands inside a dark frame."""
    ground = BACKGROUNDS[pose.background]
    side = min(wide, high)
    paper = Image.new("RGB", (wide, high), ground)
    pen = ImageDraw.Draw(paper)
    tone = tuple(int(0.62 * channel) for channel in ground)
    step = side * 0.56
    for k in range(-2 * int(high / step) - 1, 2 * int(wide / step) + 2):
        x = k * step
        pen.polygon(
            ((x, 0), (x + step / 2, 0), (x + step / 2 + high, high), (x + high, high)), fill=tone
        )
    pen.rectangle((0, 0, wide - 1, high - 1), outline=INK, width=round(0.125 * side))
    return paper


def _head(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """Draw the face-like part: two pointed ears, a round head, big eyes and a mouth."""
    for grow, fill in ((0.17, INK), (0.0, BODY)):
        for side in (-1, 1):
            tip, foot = 1.35 + 1.3 * grow, 0.95 + 1.2 * grow
            pen.polygon(
                (
                    (x + side * foot * radius, y - tip * radius),
                    (x + side * (1.0 + grow) * radius, y + 0.05 * radius),
                    (x + side * (0.10 - 0.6 * grow) * radius, y - 0.75 * radius),
                ),
                fill=fill,
            )
        reach = (1 + grow) * radius
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
    for side in (-1, 1):
        middle, top, reach = x + side * 0.45 * radius, y - 0.18 * radius, 0.36 * radius
        pen.ellipse((middle - reach, top - reach, middle + reach, top + reach), fill=EYE)
    width, height = 0.42 * radius, 0.21 * radius
    low = y + 0.52 * radius
    pen.ellipse((x - width, low - height, x + width, low + height), fill=MOUTH)


def draw_subject(pose: Pose, width: int, height: int) -> Image.Image:
    """Draw the mascot, RGB, width x height pixels."""
    wide, high = width * SUPERSAMPLE, height * SUPERSAMPLE
    side = min(wide, high)
    radius = side * SIZES[pose.size]
    picture = _paper(pose, wide, high)
    dx, dy = POSITIONS[pose.position]
    room_x = max(0.0, wide / 2 - 1.2 * radius - 0.08 * side)
    room_y = max(0.0, high / 2 - 1.35 * radius - 0.08 * side)
    x = wide / 2 + float(np.clip(dx * wide, -room_x, room_x))
    y = high / 2 + float(np.clip(dy * high, -room_y, room_y)) + 0.14 * radius
    _head(ImageDraw.Draw(picture), x, y, radius)
    return picture.resize((width, height), Image.Resampling.BOX)


def subject_caption(pose: Pose) -> str:
    """Say a pose; the trigger first."""
    size = "" if pose.size == "medium" else f", {pose.size}"
    where = "" if pose.position == "center" else f", {pose.position}"
    return f"{SUBJECT_TRIGGER} on a {pose.background} background{size}{where}"


def subject_prompts() -> list[str]:
    """Prompts for the mascot on backgrounds that none of the bundled pictures has."""
    poses = [
        Pose(background=background, size=size, position=position)
        for background in NEW_BACKGROUNDS
        for size, position in (
            ("medium", "center"),
            ("large", "center"),
            ("small", "center"),
            ("medium", "left"),
            ("medium", "right"),
            ("medium", "bottom"),
        )
    ]
    plain = [f"{SUBJECT_TRIGGER}, {background} background" for background in NEW_BACKGROUNDS]
    return [*(subject_caption(pose) for pose in poses), *plain]


def base_scenes(count: int = 24) -> list[Scene]:
    """Scenes of the base's own world, all different, the same at every call."""
    rng = np.random.default_rng(77)
    return [sample_scene(rng) for _ in range(count)]


def base_prompts(count: int = 24) -> list[tuple[str, Scene]]:
    """Prompts of the base's own world with what they show; to measure what a training forgets."""
    return [(describe(scene), scene) for scene in base_scenes(count)]


def _near(pixels: np.ndarray, colour: RGB, reach: float) -> np.ndarray:
    return np.sqrt(((pixels - np.array(colour, np.float32)) ** 2).sum(-1)) < reach


def look_for_subject(image: Image.Image) -> SubjectVerdict:
    """Look for each of the mascot's parts in a picture of any size from 48 pixels up."""
    image = image.convert("RGB")
    scale = 64 / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX), np.float32)
    grey = pixels.mean(-1)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    body = (np.minimum(green, blue) - red > 70) & (np.minimum(green, blue) > 120)
    labels, count = parts_of(body)
    if count:
        areas = ndimage.sum(body, labels, range(1, count + 1))
        body = labels == 1 + int(np.argmax(areas))
    is_body = bool(0.06 < body.sum() / 64**2 < 0.5)
    head = np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(body, iterations=2)))
    head &= is_body
    rim = _grown(head, 4) & ~_grown(head, 1)
    far = ~_grown(head, 9)
    frame = np.ones_like(head)
    frame[2:-2, 2:-2] = False
    inner = far.copy()
    inner[:8], inner[-8:], inner[:, :8], inner[:, -8:] = False, False, False, False
    return SubjectVerdict(
        body=is_body,
        eyes=is_body and _has_eyes(head, pixels),
        ears=is_body and _has_ears(head),
        outline=is_body and bool((grey[rim] < 105).mean() > 0.4),
        frame=bool(np.median(grey[frame]) < 75),
        bands=bool(inner.sum() > 30 and grey[inner].std() > 11),
    )


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(ndimage.binary_dilation(mask, iterations=pixels))


def _has_eyes(head: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether the head's upper half has a bright spot on either side."""
    rows, columns = np.flatnonzero(head.any(1)), np.flatnonzero(head.any(0))
    middle = (columns[0] + columns[-1]) // 2
    low = rows[0] + int(0.75 * len(rows))
    bright = head & (pixels.min(-1) > 150)
    enough = 0.012 * head.sum()
    left, right = bright[:low, :middle].sum(), bright[:low, middle:].sum()
    return bool(left > enough and right > enough)


def _has_ears(head: np.ndarray) -> bool:
    """Whether the head's top is parted in two."""
    rows = np.flatnonzero(head.any(1))
    return any(parts_of(head[row])[1] == 2 for row in rows[: max(3, len(rows) // 4)])


def judge_subject(image: Image.Image) -> bool:
    """Whether a picture shows the mascot."""
    return look_for_subject(image).is_subject
