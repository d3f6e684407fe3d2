"""The card's files beside a network."""

import json

import pytest

from lora_loop.core.errors import FileError
from lora_loop.extension.hosts.protocol import Written
from lora_loop.extension.hosts.sidecar import with_trigger, write_sidecars


@pytest.mark.parametrize(
    ("card", "trigger", "expected"),
    [
        ({}, "momo", {"activation text": "momo"}),
        ({}, "", {}),
        ({"notes": "mine"}, "momo", {"notes": "mine", "activation text": "momo"}),
        ({"activation text": "my own"}, "momo", {"activation text": "my own"}),
        ({"activation text": ""}, "momo", {"activation text": "momo"}),
    ],
)
def test_a_users_words_stay(card, trigger, expected):
    before = dict(card)
    assert with_trigger(card, trigger) == expected
    assert card == before


def test_card_and_picture_lie_beside_the_network(tmp_path):
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"picture")
    write_sidecars(Written(path=tmp_path / "a.safetensors", trigger="猫", picture=picture))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "activation text": "猫"
    }
    assert (tmp_path / "a.preview.png").read_bytes() == b"picture"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.json",
        "a.preview.png",
        "grid.png",
    ]


def test_nothing_is_written_for_nothing(tmp_path):
    write_sidecars(Written(path=tmp_path / "a.safetensors"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "[1]", '"text"'])
def test_a_damaged_card_is_kept(tmp_path, content):
    card = tmp_path / "a.json"
    card.write_text(content)
    with pytest.raises(FileError, match=r"a\.json is no card"):
        write_sidecars(Written(path=tmp_path / "a.safetensors", trigger="momo"))
    assert card.read_text() == content
