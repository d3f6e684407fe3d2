"""Text on pictures: a font for any script that this machine can show, and wrapped lines."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Pen = ImageDraw.ImageDraw

# Looked for by name in the system's font folders; the first that has all letters of a text is used.
_CANDIDATES = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "arial.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "msyh.ttc",
    "simhei.ttf",
    "simsun.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "Arial Unicode.ttf",
)
_NO_LETTER = "\U0010fffd"  # private use: a font draws its sign for a missing letter


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """Give a font of `size` pixels: Pillow's own, or a system font that has more of the letters."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # without lone surrogates
    best = _default(size)
    fewest = _count_missing(best, text)
    if not isinstance(best, ImageFont.FreeTypeFont):
        fewest = len(text) + 1  # a bitmap has one size, a small one: any system font is better
    for name in _CANDIDATES:
        if fewest == 0:
            break
        font = _system_font(name, size)
        missing = _count_missing(font, text) if font is not None else fewest
        if font is not None and missing < fewest:
            best, fewest = font, missing
    return best


def wrap(pen: Pen, text: str, font: Font, width: int, most_lines: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words where that is possible.

    What does not fit into `most_lines` is cut, and the last line ends in dots.
    """
    lines: list[str] = []
    for paragraph in drawable(text, font).split("\n"):
        line = ""
        for piece in _pieces(paragraph, pen, font, width):
            if line and pen.textlength((line + piece).rstrip(), font=font) > width:
                lines.append(line.rstrip())
                line = ""
            line += piece if line else piece.lstrip()
        lines.append(line.rstrip())
    if len(lines) <= most_lines:
        return lines
    last = lines[most_lines - 1]
    while last and pen.textlength(last + "...", font=font) > width:
        last = last[:-1]
    return [*lines[: most_lines - 1], last + "..."]


def drawable(text: str, font: Font) -> str:
    """Replace what no font, or not this one, can be asked for: it would raise an error."""
    coding = "utf-8" if isinstance(font, ImageFont.FreeTypeFont) else "latin-1"
    return text.encode(coding, "replace").decode(coding)


def line_height(font: Font) -> int:
    """Give the distance of two lines in pixels."""
    top, bottom = font.getbbox("Ag|")[1::2]
    return round((bottom - top) * 1.3) + 1


def _pieces(text: str, pen: Pen, font: Font, width: int) -> list[str]:
    """Cut a text into words with the blank before them; words wider than a line into letters."""
    pieces: list[str] = []
    for index, word in enumerate(text.split(" ")):
        spaced = " " + word if index else word
        if pen.textlength(word, font=font) <= width:
            pieces.append(spaced)
        else:
            pieces.extend(spaced)
    return pieces


@lru_cache(maxsize=32)
def _default(size: int) -> Font:
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError):  # Pillow before 10.1, or one built without FreeType
        return ImageFont.load_default()


@lru_cache(maxsize=256)
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):
        return None


def _count_missing(font: Font, text: str) -> int:
    """Count the letters of a text that a font can only show as its sign for a missing one."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return sum(ord(letter) > 255 for letter in text)
    missing = _drawn(font, _NO_LETTER)
    letters = {letter for letter in text if not letter.isspace()}
    return sum(_drawn(font, letter) == missing for letter in letters)


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    side = round(font.size * 2)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((0, 0), letter, fill=255, font=font)
    return image.tobytes()
