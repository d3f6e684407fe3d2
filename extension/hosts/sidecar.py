"""The small files beside a network file that the WebUI and Forge show with its card."""

import json
import shutil
from pathlib import Path

from ...core.errors import FileError
from .protocol import Written


def with_trigger(card: dict[str, object], trigger: str) -> dict[str, object]:
    """A card's settings with the words that call the network; what a user wrote stays."""
    if not trigger or card.get("activation text"):
        return card
    return {**card, "activation text": trigger}


def write_sidecars(file: Written) -> None:
    """Write NAME.json and NAME.preview.png beside a network file. Raises FileError."""
    path = file.path.with_suffix(".json")
    card = _read_card(path)
    new = with_trigger(card, file.trigger)
    try:
        if new != card:
            _replace(path, json.dumps(new, ensure_ascii=False, indent=4))
        if file.picture is not None:
            shutil.copyfile(file.picture, file.path.with_suffix(".preview.png"))
    except OSError as error:
        raise FileError(
            f"the card of {file.path.name} can't be written ({error}); the network itself is saved"
        ) from error


def _read_card(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is no card that can be read ({error}); move it away") from error
    if not isinstance(card, dict):
        raise FileError(f"{path} is no card: it holds a {type(card).__name__}; move it away")
    return card


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
