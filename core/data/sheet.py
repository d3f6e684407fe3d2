"""The dataset report as a picture: every bucket's pictures, with what is cropped away dimmed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .buckets import Bucket, BucketPlan, Fit
from .decode import UnusablePictureError, decode_picture
from .images import kept_box
from .items import Dataset, ImageItem
from .listing import in_words, legible

MOST_PICTURES = 120
COLUMNS = 6
THUMB = 176
MARGIN = 28
GAP = 16
LINE = 17
HEAD = 70
BUCKET_HEAD = 54
CELL_WIDTH = THUMB + GAP
CELL_HEIGHT = THUMB + 4 * LINE + GAP
PAPER = "#f6f5f2"
CARD = "#e7e5df"
RULE = "#cfccc4"
INK = "#22252b"
GREY = "#6c7078"
FRAME = "#ffb000"
BAD = "#c0392b"
DIMMED = 0.35
MUCH_CROPPED = 0.2

AnyFont = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Fonts(NamedTuple):
    title: AnyFont
    head: AnyFont
    small: AnyFont


@dataclass(frozen=True, slots=True)
class _Section:
    """A bucket and those of its pictures that the sheet has room for."""

    bucket: Bucket
    fits: tuple[Fit, ...]

    @property
    def columns(self) -> int:
        return min(COLUMNS, len(self.fits))

    @property
    def height(self) -> int:
        return BUCKET_HEAD - (-len(self.fits) // COLUMNS) * CELL_HEIGHT


def report_sheet(dataset: Dataset, plan: BucketPlan) -> Image.Image:
    """A contact sheet by bucket: the trained area bright and framed, the rest dimmed.

    At most 120 pictures are shown, as evenly from the buckets as they allow; the head says so.
    """
    sections = _chosen(plan.buckets)
    places, height = _placed(sections)
    sheet = Image.new("RGB", (2 * MARGIN + COLUMNS * CELL_WIDTH - GAP, height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    fonts = _Fonts(_font(24), _font(17), _font(12))
    _draw_head(draw, dataset, plan, sections, fonts)
    for section, (left, top) in zip(sections, places, strict=True):
        _draw_bucket_head(draw, dataset.items, section, (left, top), fonts)
        for place, fit in enumerate(section.fits):
            row, column = divmod(place, COLUMNS)
            corner = left + column * CELL_WIDTH, top + BUCKET_HEAD + row * CELL_HEIGHT
            size = section.bucket.width, section.bucket.height
            _draw_picture(sheet, corner, dataset.items[fit.item], fit, size, fonts.small)
    return sheet


def _placed(sections: list[_Section]) -> tuple[list[tuple[int, int]], int]:
    """Left top corners of the sections, side by side while they fit, and where the last ends."""
    places: list[tuple[int, int]] = []
    top, bottom, column = HEAD, HEAD, 0
    for section in sections:
        if column + section.columns > COLUMNS:
            top, column = bottom, 0
        places.append((MARGIN + column * CELL_WIDTH, top))
        bottom = max(bottom, top + section.height)
        column += section.columns
    return places, bottom


def _chosen(buckets: Sequence[Bucket]) -> list[_Section]:
    """One picture more of each bucket in turn, the largest buckets first, until all is full."""
    by_size = sorted(range(len(buckets)), key=lambda place: -len(buckets[place].fits))
    counts = dict.fromkeys(by_size[:MOST_PICTURES], 0)
    free = min(MOST_PICTURES, sum(len(buckets[place].fits) for place in counts))
    while free:
        for place in counts:
            if free and counts[place] < len(buckets[place].fits):
                counts[place] += 1
                free -= 1
    return [
        _Section(buckets[place], buckets[place].fits[:count])
        for place, count in sorted(counts.items())
    ]


def _draw_head(
    draw: ImageDraw.ImageDraw,
    dataset: Dataset,
    plan: BucketPlan,
    sections: list[_Section],
    fonts: _Fonts,
) -> None:
    shown = sum(len(section.fits) for section in sections)
    _write(draw, (MARGIN, 16), dataset.root.name or str(dataset.root), fonts.title, INK)
    count = in_words(len(dataset.items))
    text = f"{count} · {in_words(len(plan.buckets), 'bucket')} · resolution {plan.resolution}"
    if shown < len(dataset.items):
        text += f" · {shown} of {len(dataset.items):,} shown"
    _write(draw, (MARGIN, 46), text, fonts.small, GREY)


def _draw_bucket_head(
    draw: ImageDraw.ImageDraw,
    items: Sequence[ImageItem],
    section: _Section,
    corner: tuple[int, int],
    fonts: _Fonts,
) -> None:
    left, top = corner
    bucket, width = section.bucket, section.columns * CELL_WIDTH - GAP
    draw.line((left, top + 4, left + width - 1, top + 4), fill=RULE, width=1)
    _write(draw, (left, top + 11), f"{bucket.width} x {bucket.height}", fonts.head, INK)
    seen = sum(items[fit.item].repeats for fit in bucket.fits)
    text = f"{in_words(len(bucket.fits))}, {seen:,} an epoch"
    if len(section.fits) < len(bucket.fits):
        text += f", {len(section.fits)} shown"
    _write(draw, (left, top + 32), _cut(draw, text, fonts.small, width), fonts.small, GREY)


def _draw_picture(
    sheet: Image.Image,
    corner: tuple[int, int],
    item: ImageItem,
    fit: Fit,
    bucket_size: tuple[int, int],
    font: AnyFont,
) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + THUMB - 1, top + THUMB - 1), fill=CARD)
    try:
        thumb = _thumbnail(item, fit, bucket_size)
    except UnusablePictureError as error:
        _write(draw, (left + 8, top + 8), _cut(draw, str(error), font, THUMB - 16), font, BAD)
    else:
        place = left + (THUMB - thumb.width) // 2, top + (THUMB - thumb.height) // 2
        sheet.paste(thumb, place)
    colour = BAD if fit.crop_loss > MUCH_CROPPED else GREY
    sizes = f"{item.width} x {item.height}, cropped {fit.crop_loss:.0%}"
    repeats = f"{item.repeats} x " if item.repeats > 1 else ""
    caption = item.caption if item.has_caption else f"({item.caption})"
    first, rest = _wrapped(draw, repeats + caption, font, THUMB)
    lines = ((item.path.name, INK), (sizes, colour), (first, GREY), (rest, GREY))
    for row, (text, ink) in enumerate(lines):
        below = top + THUMB + 3 + row * LINE
        _write(draw, (left, below), _cut(draw, text, font, THUMB), font, ink)


def _thumbnail(item: ImageItem, fit: Fit, bucket_size: tuple[int, int]) -> Image.Image:
    """The whole picture within THUMB pixels, its cropped parts dimmed."""
    picture = decode_picture(item.path)
    scale = min(THUMB / picture.width, THUMB / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    thumb = picture.resize(size, Image.Resampling.LANCZOS)
    left, top, right, bottom = kept_box(item, fit, bucket_size)
    box = round(left * scale), round(top * scale), round(right * scale), round(bottom * scale)
    box = box[0], box[1], max(box[0] + 1, box[2]), max(box[1] + 1, box[3])
    dimmed = Image.blend(Image.new("RGB", size, CARD), thumb, DIMMED)
    dimmed.paste(thumb.crop(box), box[:2])
    if fit.crop_loss > 0:
        frame = (box[0], box[1], box[2] - 1, box[3] - 1)
        ImageDraw.Draw(dimmed).rectangle(frame, outline=FRAME, width=1)
    return dimmed


def _font(size: int) -> AnyFont:
    """Pillow's own font; before Pillow 10.1 it has one size and Western letters only."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: AnyFont, ink: str
) -> None:
    draw.text(place, _drawable(text, font), fill=ink, font=font)


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: AnyFont, width: int) -> tuple[str, str]:
    """`text` broken once between words, where the first part still fits into `width` pixels."""
    words = _drawable(text[:200], font).split(" ")
    count = 1
    while count < len(words) and draw.textlength(" ".join(words[: count + 1]), font=font) <= width:
        count += 1
    return " ".join(words[:count]), " ".join(words[count:])


def _cut(draw: ImageDraw.ImageDraw, text: str, font: AnyFont, width: int) -> str:
    """As much of the first 200 letters of `text` as fits into `width` pixels."""
    text = _drawable(text[:200], font)
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _drawable(text: str, font: AnyFont) -> str:
    """`text` on one line; letters that a bitmap font can't have become question marks."""
    text = legible(" ".join(text.split()))
    if isinstance(font, ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", errors="replace").decode("latin-1")
