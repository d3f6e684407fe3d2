"""Where nodes get their host from: the running ComfyUI, or what a test has put there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .protocol import Host

_PLACE: dict[str, Host] = {}


def host() -> Host:
    """The host of this process; ComfyUI is imported at the first call."""
    if "host" not in _PLACE:
        _PLACE["host"] = import_module(".host", __package__).ComfyHost()
    return _PLACE["host"]


def use(other: Any) -> None:
    """Put what answers as a host in ComfyUI's place; None takes it away again."""
    _PLACE.pop("host", None)
    if other is not None:
        _PLACE["host"] = other
