"""Decoding pictures of every kind, whole and damaged."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from lora_loop.core.data.decode import (
    UnusablePictureError,
    decode_picture,
    inspect_picture,
    supported_suffixes,
    to_rgb,
)

RED, HALF_RED = (255, 0, 0), (255, 127, 127)


def corner(image: Image.Image) -> tuple[int, ...]:
    value = image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation(tmp_path, orientation, suffix):
    """An upright picture with a red top left corner, stored as each orientation wants it."""
    upright = np.zeros((48, 96, 3), np.uint8)
    upright[:24, :48] = RED
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    decoded = decode_picture(path)
    assert decoded.size == (96, 48)
    facts = inspect_picture(path)
    assert (facts.width, facts.height) == (96, 48)
    assert np.abs(np.asarray(decoded).astype(int) - upright)[4:20, 4:44].max() < 12
    assert np.abs(np.asarray(decoded).astype(int) - upright)[28:, 52:].max() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 20), RED).save(
        path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01" * 40
    )
    assert decode_picture(path).size == (40, 20)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), HALF_RED),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (4, 4), (0, 128)), (127, 127, 127)),
        (Image.new("PA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 100), (100, 100, 100)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), RED),
        (Image.new("YCbCr", (4, 4), (255, 128, 128)), (255, 255, 255)),
        (Image.new("F", (4, 4), 0.5), (128, 128, 128)),
        (Image.new("F", (4, 4), float("nan")), (0, 0, 0)),
        (Image.new("F", (4, 4), 51.0), (51, 51, 51)),
        (Image.new("I", (4, 4), 51), (51, 51, 51)),
        (Image.new("I", (4, 4), 257 * 51), (51, 51, 51)),
        (Image.fromarray(np.full((4, 4), 257 * 51, np.uint16)), (51, 51, 51)),
        (Image.fromarray(np.full((4, 4), 51, np.uint8)).convert("P"), (51, 51, 51)),
    ],
)
def test_modes(image, expected):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert corner(rgb) == pytest.approx(expected, abs=1)


def test_transparent_palette_and_transparent_colour(tmp_path):
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "a.png", transparency=bytes([128, 255]))
    assert corner(decode_picture(tmp_path / "a.png")) == pytest.approx(HALF_RED, abs=1)
    assert inspect_picture(tmp_path / "a.png").alpha
    Image.new("RGB", (40, 40), RED).save(tmp_path / "b.png", transparency=RED)
    assert corner(decode_picture(tmp_path / "b.png")) == (255, 255, 255)


def test_alpha_means_that_something_shines_through(tmp_path):
    path = tmp_path / "a.png"
    for opacity, alpha in ((255, False), (254, True)):
        Image.new("RGBA", (40, 40), (9, 9, 9, opacity)).save(path)
        assert inspect_picture(path).alpha is alpha


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert inspect_picture(tmp_path / "a.png").animated
    assert corner(decode_picture(tmp_path / "a.png")) == RED


def test_colour_profiles_are_applied(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40), (120, 200, 40)).save(path, icc_profile=linear_profile())
    assert corner(decode_picture(path)) == pytest.approx((182, 229, 111), abs=4)
    Image.new("RGB", (40, 40), (120, 200, 40)).save(path, icc_profile=b"no profile at all")
    assert corner(decode_picture(path)) == (120, 200, 40)


def linear_profile() -> bytes:
    """sRGB's primaries with a straight tone curve; 120 / 255 there is 182 / 255 in sRGB."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    def text(value: bytes) -> bytes:
        return b"desc\0\0\0\0" + struct.pack(">I", len(value) + 1) + value + b"\0" * 79

    straight = b"curv\0\0\0\0\0\0\0\0"
    parts = {
        b"desc": text(b"linear"),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
        b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": xyz(0.14307, 0.06061, 0.7141),
        b"rTRC": straight,
        b"gTRC": straight,
        b"bTRC": straight,
    }
    offset = 128 + 4 + 12 * len(parts)
    tags, data = struct.pack(">I", len(parts)), b""
    for name, part in parts.items():
        part += b"\0" * (-len(part) % 4)
        tags += name + struct.pack(">II", offset + len(data), len(part))
        data += part
    head = struct.pack(
        ">I4sI4s4s4s", offset + len(data), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + xyz(0.9642, 1.0, 0.8249)[8:]
    return head.ljust(128, b"\0") + tags + data


def test_truncated_files_fail_even_if_the_host_allows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "a.jpg"
    Image.effect_noise((200, 200), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnusablePictureError, match="cut short"):
        inspect_picture(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_wrong_suffix_is_no_obstacle(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), RED).save(buffer, "WEBP", lossless=True)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert corner(decode_picture(tmp_path / "a.jpg")) == RED


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_random_damage_never_escapes(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.effect_noise((40, 32), 60).convert("RGB").save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    chance = np.random.default_rng(3)
    failures = []
    for _ in range(60):
        damaged = whole.copy()
        places = chance.integers(0, min(len(damaged), 400), 6)
        damaged[places] = chance.integers(0, 256, 6)
        path.write_bytes(damaged[: chance.integers(len(damaged) // 2, len(damaged) + 1)].tobytes())
        try:
            inspect_picture(path)
        except UnusablePictureError as error:
            failures.append(str(error))
    assert len(failures) > 10
    assert all(failures)


def test_supported_suffixes_hold_the_usual_ones():
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp"} <= set(supported_suffixes())
