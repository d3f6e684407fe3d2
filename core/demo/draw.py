"""The world of the embedded base model: antialiased pictures and captions in natural words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 40),
    "green": (30, 165, 60),
    "blue": (35, 70, 225),
    "purple": (140, 40, 190),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
    "blue": (35, 70, 225),
    "green": (30, 165, 60),
    "yellow": (250, 225, 40),
    "pink": (250, 165, 200),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "heart")
FACES = ("smiling face", "sad face")
SIZES: dict[str, float] = {"small": 0.22, "medium": 0.30, "large": 0.38}
POSITIONS: dict[str, Point] = {
    "center": (0.0, 0.0),
    "left": (-0.24, 0.0),
    "right": (0.24, 0.0),
    "top": (0.0, -0.24),
    "bottom": (0.0, 0.24),
}
TEXTURES = ("plain", "striped", "dotted")
SUPERSAMPLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture's content; `shift` (fractions of a side) and `scale` vary without words."""

    shape: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "center"
    texture: str = "plain"
    shift: Point = (0.0, 0.0)
    scale: float = 1.0


def _pick(rng: np.random.Generator, names: tuple[str, ...], first: float) -> str:
    """Draw a name: the first with probability `first`, else one of the rest."""
    if rng.random() < first:
        return names[0]
    return names[1 + int(rng.integers(len(names) - 1))]


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene at random; plain, medium and centred ones are the most frequent."""
    background = tuple(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))]
    colours = tuple(c for c in COLOURS if c != background)
    colour = colours[int(rng.integers(len(colours)))]
    face = rng.random() < 0.15
    kinds = FACES if face else SHAPES
    return Scene(
        shape=kinds[int(rng.integers(len(kinds)))],
        colour=colour,
        background=background,
        size=_pick(rng, ("medium", "small", "large"), 0.55),
        position=_pick(rng, tuple(POSITIONS), 0.6),
        texture="plain" if face else _pick(rng, TEXTURES, 0.76),
        shift=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.02))),
        scale=float(rng.uniform(0.95, 1.05)),
    )


def outline(shape: str) -> list[Point]:
    """Give a shape's outer polygon in units of its radius, y downwards."""
    if shape == "square":
        return [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    if shape == "triangle":
        return [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)]
    if shape == "star":
        radii = (1.08, 0.45)
        turns = [math.pi * k / 5 for k in range(10)]
        reach = [radii[k % 2] for k in range(10)]
        return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(reach, turns, strict=True)]
    turns = [2 * math.pi * k / 72 for k in range(72)]
    if shape == "heart":
        waves = ((1, -13), (2, 5), (3, 2), (4, 1))
        heights = [sum(size * math.cos(n * a) for n, size in waves) / 16.5 for a in turns]
        return [(math.sin(a) ** 3, height) for a, height in zip(turns, heights, strict=True)]
    return [(math.sin(a), -math.cos(a)) for a in turns]


def second_tone(colour: RGB) -> RGB:
    """Give the darker (for black: the lighter) tone of a texture's stripes and dots."""
    if max(colour) < 60:
        return (85, 85, 85)
    if min(colour) > 200:
        return (190, 190, 190)
    return (int(colour[0] * 0.68), int(colour[1] * 0.68), int(colour[2] * 0.68))


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: object) -> None:
    """Fill a disc; centre and radius in pixels of the canvas."""
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)  # type: ignore[arg-type]


def _fill(size: tuple[int, int], scene: Scene, radius: float, x: float, y: float) -> Image.Image:
    """Draw the paper the shape is cut from: plain, striped or dotted about the centre."""
    colour = COLOURS[scene.colour]
    paper = Image.new("RGB", size, colour)
    pen = ImageDraw.Draw(paper)
    tone = second_tone(colour)
    step = radius * 0.56
    if scene.texture == "striped":
        for k in range(-3, 4):
            pen.rectangle((0, y + (k - 0.19) * step, size[0], y + (k + 0.19) * step), fill=tone)
    elif scene.texture == "dotted":
        for row in range(-2, 3):
            for column in range(-3, 4):
                _disc(pen, x + (column + 0.5 * (row % 2)) * step, y + row * step, step * 0.3, tone)
    return paper


def _face(pen: ImageDraw.ImageDraw, scene: Scene, x: float, y: float, radius: float) -> None:
    """Draw two eyes and a mouth; black, or white on black."""
    ink = (250, 250, 250) if scene.colour == "black" else (15, 15, 15)
    for side in (-1, 1):
        _disc(pen, x + side * 0.36 * radius, y - 0.25 * radius, 0.15 * radius, ink)
    width = max(1, round(0.15 * radius))
    smile = scene.shape == "smiling face"
    middle = y + (0.12 if smile else 0.62) * radius
    box = (x - 0.48 * radius, middle - 0.42 * radius, x + 0.48 * radius, middle + 0.42 * radius)
    pen.arc(box, *((20, 160) if smile else (200, 340)), fill=ink, width=width)


def draw(scene: Scene, width: int, height: int) -> Image.Image:
    """Draw a scene, RGB, width x height pixels; the same scene gives the same pixels."""
    wide, high = width * SUPERSAMPLE, height * SUPERSAMPLE
    side = min(wide, high)
    radius = side * SIZES[scene.size] * scale_limit(scene)
    dx, dy = POSITIONS[scene.position]
    room_x, room_y = wide / 2 - 1.1 * radius - 0.02 * side, high / 2 - 1.1 * radius - 0.02 * side
    x = wide / 2 + float(np.clip((dx + scene.shift[0]) * wide, -room_x, room_x))
    y = high / 2 + float(np.clip((dy + scene.shift[1]) * high, -room_y, room_y))
    picture = Image.new("RGB", (wide, high), BACKGROUNDS[scene.background])
    stencil = Image.new("L", (wide, high), 0)
    cut = ImageDraw.Draw(stencil)
    cut.polygon([(x + px * radius, y + py * radius) for px, py in outline(scene.shape)], fill=255)
    if scene.shape == "ring":
        _disc(cut, x, y, 0.52 * radius, 0)
    picture.paste(_fill((wide, high), scene, radius, x, y), (0, 0), stencil)
    if scene.shape in FACES:
        _face(ImageDraw.Draw(picture), scene, x, y, radius)
    return picture.resize((width, height), Image.Resampling.BOX)


def scale_limit(scene: Scene) -> float:
    """Give the radius factor, held to where the largest shape still fits the picture."""
    return min(scene.scale, 0.42 / SIZES[scene.size])


def random_drawing(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw lines, discs, hatching and polygons in any colours, for the VAE alone."""
    wide, high = width * 3, height * 3
    side = min(wide, high)

    def colour() -> RGB:
        r, g, b = (int(v) for v in rng.integers(0, 256, 3))
        return (r, g, b)

    ramp = np.linspace(0, 1, wide)[None, :, None] * rng.uniform(-1, 1)
    ramp = ramp + np.linspace(0, 1, high)[:, None, None] * rng.uniform(-1, 1)
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6) * float(rng.random() < 0.4)
    pixels = np.array(colour()) * (1 - ramp) + np.array(colour()) * ramp
    picture = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.5:
        ink, step, slope = colour(), side * rng.uniform(0.09, 0.25), rng.uniform(-1, 1)
        thick = max(1, int(step * rng.uniform(0.2, 0.5)))
        for k in np.arange(-2 * high, wide + 2 * high, step):
            pen.line((k, -1, k + slope * high, high + 1), fill=ink, width=thick)
    for _ in range(int(rng.integers(1, 7))):
        x, y = rng.uniform(0, wide), rng.uniform(0, high)
        radius = side * rng.uniform(0.04, 0.4)
        line = int(side * rng.uniform(0.015, 0.07)) if rng.random() < 0.6 else 0
        kind = rng.random()
        if kind < 0.45:
            ry = radius * rng.uniform(0.5, 1.5)
            box = (x - radius, y - ry, x + radius, y + ry)
            pen.ellipse(box, fill=colour(), outline=colour(), width=line)
        elif kind < 0.85:
            turns = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
            corners = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns]
            pen.polygon(corners, fill=colour())
            if line:
                pen.line([*corners, corners[0]], fill=colour(), width=line, joint="curve")
        else:
            end = (rng.uniform(0, wide), rng.uniform(0, high))
            pen.line((x, y, *end), fill=colour(), width=line + 3)
    return picture.resize((width, height), Image.Resampling.BOX)


def random_creature(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw a head with eyes and a mouth in any colours and proportions, for the VAE alone."""
    wide, high = width * 3, height * 3
    side = min(wide, high)

    def colour() -> RGB:
        r, g, b = (int(v) for v in rng.integers(0, 256, 3))
        return (r, g, b)

    picture = Image.new("RGB", (wide, high), colour())
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.6:
        step, slope, ink = side * rng.uniform(0.25, 0.6), rng.uniform(-1.2, 1.2), colour()
        for k in np.arange(-2 * high, wide + 2 * high, step):
            pen.line((k, -1, k + slope * high, high + 1), fill=ink, width=int(0.45 * step))
    if rng.random() < 0.4:
        thick = int(side * rng.uniform(0.04, 0.1))
        pen.rectangle((0, 0, wide, high), outline=colour(), width=thick)
    x, y = wide * rng.uniform(0.38, 0.62), high * rng.uniform(0.38, 0.62)
    radius, skin, ink = side * rng.uniform(0.2, 0.4), colour(), colour()
    line = int(radius * rng.uniform(0.05, 0.2))
    ear = rng.uniform(0.3, 0.6) * radius
    for turn in (-rng.uniform(0.3, 1.1), rng.uniform(0.3, 1.1)) if rng.random() < 0.5 else ():
        ear_x, ear_y = x + 1.05 * radius * math.sin(turn), y - 1.05 * radius * math.cos(turn)
        _disc(pen, ear_x, ear_y, ear, ink)
        _disc(pen, ear_x, ear_y, ear - line, skin)
    _disc(pen, x, y, radius, ink)
    _disc(pen, x, y, radius - line, skin)
    eye, gap, pupil = rng.uniform(0.12, 0.38), rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.6)
    white, black = colour(), colour()
    for turn in (-1, 1):
        _disc(pen, x + turn * gap * radius, y - 0.2 * radius, eye * radius, white)
        _disc(pen, x + turn * gap * radius, y - 0.2 * radius, eye * pupil * radius, black)
    mouth = (0.5 * radius * rng.uniform(0.5, 1), 0.25 * radius * rng.uniform(0.4, 1))
    low = y + 0.5 * radius
    box = (x - mouth[0], low - mouth[1], x + mouth[0], low + mouth[1])
    pen.ellipse(box, fill=colour())
    return picture.resize((width, height), Image.Resampling.BOX)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def noun(scene: Scene, *, size: bool = True, texture: bool = True) -> str:
    """Name the shape, e.g. 'large striped red circle'; defaults are never named."""
    head, _, tail = scene.shape.rpartition(" ")
    words = [
        scene.size if size and scene.size != "medium" else "",
        scene.texture if texture and scene.texture != "plain" else "",
        head,
        scene.colour,
        tail,
    ]
    return " ".join(word for word in words if word)


def describe(scene: Scene) -> str:
    """Give a scene's full caption, e.g. 'a large red circle on a blue background, left'."""
    where = "" if scene.position == "center" else f", {scene.position}"
    return f"{_article(noun(scene))} on a {scene.background} background{where}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Say a scene in one of several ways; size, texture and place are sometimes left out."""
    thing = noun(scene, size=rng.random() < 0.75, texture=rng.random() < 0.8)
    ground = f"{scene.background} background"
    ways = (
        (0.50, f"{_article(thing)} on a {ground}"),
        (0.62, f"{thing} on a {ground}"),
        (0.74, f"{thing}, {ground}"),
        (0.82, f"a picture of {_article(thing)} on a {ground}"),
        (0.90, f"a {ground} with {_article(thing)}"),
        (0.96, f"{_article(thing)}, {ground}"),
        (1.01, _article(thing)),
    )
    roll = float(rng.random())
    text = next(words for limit, words in ways if roll < limit)
    if scene.position != "center" and rng.random() < 0.8:
        text += f", {scene.position}" if rng.random() < 0.7 else f", at the {scene.position}"
    return text
