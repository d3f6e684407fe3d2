"""Reading caption files in any encoding."""

import pytest

from lora_loop.core.data.captions import MAX_BYTES, read_caption


@pytest.mark.parametrize(
    ("data", "text", "encoding", "notes"),
    [
        (b"  a cat, red \r\n", "a cat, red", "utf-8", ()),
        ("\ufeffa cät".encode(), "a cät", "utf-8", ()),
        ("猫，红色".encode(), "猫，红色", "utf-8", ()),
        ("a cat, 猫".encode("utf-16"), "a cat, 猫", "utf-16", ("encoding",)),
        ("a cat, 红色的猫".encode("gb2312"), "a cat, 红色的猫", "gb2312", ("encoding",)),
        ("a café, naïve".encode("cp1252"), "a café, naïve", "cp1252", ("encoding",)),
        (b"\x81 cat", "\ufffd cat", "cp1252", ("encoding",)),
        (b"a\0 cat\0", "a cat", "utf-8", ("nul",)),
        (b"a cat,\n\n  red fur\nhat", "a cat, red fur, hat", "utf-8", ("lines",)),
        (b"a cat, red,", "a cat, red,", "utf-8", ()),
        (b"", "", "utf-8", ()),
        (b"\xff\xfe", "", "utf-16", ("encoding",)),
    ],
)
def test_encodings_and_lines(tmp_path, data, text, encoding, notes):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    caption = read_caption(path)
    assert (caption.text, caption.encoding, caption.notes) == (text, encoding, notes)


def test_long_files_are_cut_between_letters(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x" + "猫" * MAX_BYTES, encoding="utf-8")
    caption = read_caption(path)
    assert caption.notes == ("long",)
    assert set(caption.text) == {"x", "猫"}
    assert len(caption.text) == 1 + (MAX_BYTES - 1) // 3
