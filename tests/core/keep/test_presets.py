"""The user's own presets."""

import pytest

from lora_loop.core.errors import ConfigError, FileError
from lora_loop.core.keep.presets import PresetBook

ONES = ",".join("1" * 17)


@pytest.fixture
def book(tmp_path) -> PresetBook:
    return PresetBook(tmp_path / "folder" / "presets.txt")


def test_a_life_of_presets(book) -> None:
    assert book.presets() == {}
    book.save("soft", "ALL=0.5")
    book.save("mine", f"{ONES}\n")
    with pytest.raises(ConfigError, match="exists already"):
        book.save("soft", ONES)
    book.save("soft", "ALL=0.25", overwrite=True)
    book.rename("soft", "softer")
    assert list(book.presets().items()) == [("softer", "ALL=0.25"), ("mine", ONES)]
    assert book.names()[:2] == ("softer", "mine")
    assert "NOFACE" in book.names()
    assert "NOFACE" not in book.names("sdxl")
    book.delete("mine")
    assert list(book.presets()) == ["softer"]
    assert [path.name for path in book.path.parent.iterdir()] == ["presets.txt"]


def test_only_the_changed_line_is_touched(book) -> None:
    flux = f"two:{','.join('1' * 61)}"
    lines = [
        "\ufeff# from a friend",
        "",
        f"one:{ONES}  # mine",
        "no preset at all",
        flux,
        "two:ALL=0.5",
        f"two:{ONES}",
    ]
    book.path.parent.mkdir()

    def write(ending: str) -> None:
        book.path.write_bytes(ending.join(lines).encode())

    def left() -> list[str]:
        return book.path.read_bytes().decode().splitlines()

    for ending in ("\n", "\r\n"):
        write(ending)
        book.save("one", "ALL=0.25", overwrite=True)
        changed = lines.copy()
        changed[2] = "one:ALL=0.25  # mine"
        assert book.path.read_bytes().decode() == ending.join(changed)
        write(ending)
        book.save("three", ONES)
        assert book.path.read_bytes().decode() == ending.join([*lines, f"three:{ONES}", ""])
        write(ending)
        book.rename("two", "both")
        assert left() == [*lines[:5], f"both:{ONES}"]
        write(ending)
        book.delete("two")
        assert left() == lines[:5]
        write(ending)
        book.add_text(f"one:ALL=0\ntwo:{ONES}\n", overwrite=True)
        assert left() == [*lines[:2], "one:ALL=0  # mine", *lines[3:]]


def test_a_files_mark_and_its_other_ends_of_lines_stay(book) -> None:
    book.path.parent.mkdir()
    book.path.write_bytes(f"\ufeff柔和:{ONES}\ntwo:ALL=1\u2028three:{ONES}\n".encode())
    book.delete("柔和")
    book.save("two", "ALL=0.5", overwrite=True)
    assert book.path.read_bytes().decode() == f"\ufefftwo:ALL=0.5\u2028three:{ONES}\n"


def test_sharing(book, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no preset of your own"):
        book.share(tmp_path / "all.txt")
    book.save("one", ONES)
    book.save("two", "ALL=0.5")
    shared = tmp_path / "shared.txt"
    book.share(shared, ("two",))
    assert shared.read_text() == "two:ALL=0.5\n"
    with pytest.raises(FileError, match="exists"):
        book.share(shared)
    other = PresetBook(tmp_path / "other.txt")
    other.save("two", ONES)
    shared.write_text(f"two:ALL=0.5\nthree:{ONES}\nbad:1,2\n")
    (skipped,) = other.add_file(shared)
    assert skipped.number == 3
    assert other.presets() == {"two": ONES, "three": ONES}
    other.add_file(shared, overwrite=True)
    assert other.presets()["two"] == "ALL=0.5"


def test_what_cannot_be_done_changes_nothing(book, tmp_path) -> None:
    book.save("one", ONES)
    before = book.path.read_bytes()
    for action, words in (
        (lambda: book.save("two", "1,2,3"), "3 values"),
        (lambda: book.save("a:b", ONES), "can't be called"),
        (lambda: book.save("two", f"1,1,\n{ONES[4:]}"), "on one line"),
        (lambda: book.save("two", "ALL=1; OUT03:a#b:0.5"), "without #"),
        (lambda: book.save("t\u2028wo", ONES), "on one line"),
        (lambda: book.rename("two", "three"), "no preset 'two'"),
        (lambda: book.rename("one", "a#b"), "can't be called"),
        (lambda: book.delete("two"), "there are one"),
        (lambda: book.share(tmp_path / "x.txt", ("two",)), "no preset 'two'"),
    ):
        with pytest.raises(ConfigError, match=words):
            action()
    empty = tmp_path / "empty.txt"
    empty.write_text("nothing here\n")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, words in (
        (empty, "no preset"),
        (binary, "UTF-8"),
        (tmp_path / "no", "can't be read"),
    ):
        with pytest.raises(FileError, match=words):
            book.add_file(path)
    assert book.path.read_bytes() == before
