"""From a picture file to upright 8-bit RGB pixels, or to one sentence about what is wrong."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from ..log import logger

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# What a file with one of those suffixes may really hold: saved under the wrong name is common.
CONTENTS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "AVIF", "TIFF", "GIF")
OTHER_PICTURES = frozenset(
    {".gif", ".heic", ".heif", ".jxl", ".psd", ".svg", ".tga", ".dng", ".cr2", ".nef"}
)
MAX_PIXELS = 2 * 89_478_485  # Pillow's own limit, kept where a host has switched that off
DEEP_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
ORIENTATION = 0x0112
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# All that Pillow's readers raise on damaged files; none of it is a fault of ours.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UnusablePictureError(Exception):
    """The file can't be used as a picture; its text is the reason, without the path."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Size in pixels when upright; whether something shines through; whether it has frames."""

    width: int
    height: int
    alpha: bool
    animated: bool


def supported_suffixes() -> tuple[str, ...]:
    """Lower-case suffixes of the pictures that this Pillow reads."""
    readable = _readable(tuple(SUFFIXES.values()))
    return tuple(suffix for suffix, kind in SUFFIXES.items() if kind in readable)


def inspect_picture(path: Path) -> PictureFacts:
    """Decode the file completely, so that no later step can fail on it, and keep only facts.

    Raises UnusablePictureError.
    """
    with _loaded(path) as image:
        upright = _upright(image)
        rgb = to_rgb(upright)
        alpha = _shines_through(upright)
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
        return PictureFacts(rgb.width, rgb.height, alpha, animated)


def decode_picture(path: Path) -> Image.Image:
    """The upright picture in 8-bit RGB, transparent parts on white, of an animation the first.

    Raises UnusablePictureError.
    """
    with _loaded(path) as image:
        return to_rgb(_upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring any of Pillow's modes to 8-bit RGB, transparent parts on white.

    Grey of 16 or 32 bits is scaled, not clipped, as Pillow's own conversion would do.
    An embedded colour profile other than sRGB is applied.
    """
    if image.mode in DEEP_GREY:
        return _from_deep_grey(image)
    if not _has_transparency(image):
        return _in_srgb(image)
    layered = image.convert("RGBA")
    opaque = layered.convert("RGB")
    opaque.info["icc_profile"] = image.info.get("icc_profile")
    white = Image.new("RGB", image.size, "white")
    white.paste(_in_srgb(opaque), mask=layered.getchannel("A"))
    return white


@contextmanager
def _loaded(path: Path) -> Iterator[Image.Image]:
    try:
        if not path.is_file():
            raise UnusablePictureError("it isn't a file, or is a link that leads nowhere")
        with _whole_files_only(), Image.open(path, formats=_readable(CONTENTS)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusablePictureError(
                    f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}; "
                    "make it smaller"
                )
            image.load()
            yield image
    except UnusablePictureError:
        raise
    except DAMAGE as error:
        raise UnusablePictureError(_reason(path, error)) from error


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Hosts tell Pillow to fill what is missing of a file with grey; we'd train on that."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _readable(kinds: tuple[str, ...]) -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in kinds if kind in Image.OPEN)


def _reason(path: Path, error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "there is no permission to read it"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has too many pixels; make it smaller ({error})"
    if isinstance(error, UnidentifiedImageError):
        empty = path.is_file() and path.stat().st_size == 0
        return "the file is empty" if empty else "it isn't a picture of a kind that can be read"
    if "truncated" in str(error) or isinstance(error, EOFError):
        return "the file is cut short"
    return f"it is damaged ({type(error).__name__}: {error})"


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; Pillow's `exif_transpose` fails on damaged EXIF blocks.

    TIFF files are turned when loaded, but not all versions of Pillow then forget the tag.
    """
    if image.format == "TIFF":
        return image
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except DAMAGE as error:
        logger.debug("unreadable EXIF block ignored: %s", error)
        return image
    method = TRANSPOSES.get(orientation)
    return image if method is None else image.transpose(method)


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "RGBa", "LA", "La", "PA"} or "transparency" in image.info


def _shines_through(image: Image.Image) -> bool:
    if image.mode in DEEP_GREY or not _has_transparency(image):
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """White is 65535 for 16 bits; else the first of 1 (floats only), 255, 65535 that holds all."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    whites = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    white = next((white for white in whites if values.max() <= white), whites[-1])
    grey = np.clip(values / white * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "CMYK"}:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
                return image.convert("RGB") if converted is None else converted
        except (ImageCms.PyCMSError, *DAMAGE) as error:
            logger.debug("unusable colour profile ignored: %s", error)
    return image.convert("RGB")
