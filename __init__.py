"""LoRA Loop: one training core, three faces: a WebUI tab, ComfyUI nodes and a command line."""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_NODE_TABLES = frozenset({"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"})


def __getattr__(name: str) -> Any:
    """ComfyUI asks for the node tables with hasattr(); nobody else ever loads the nodes."""
    if name not in _NODE_TABLES or not Path(__file__).with_name("comfy_nodes").is_dir():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".comfy_nodes", __name__), name)
