"""LoRA Loop's nodes for ComfyUI. Their ids never change: saved workflows name them."""

import sys
from importlib import import_module
from typing import Any

WEB_DIRECTORY = "comfy_nodes/web"

_TABLES = frozenset({"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"})


def __getattr__(name: str) -> Any:
    """Build the tables when ComfyUI asks for them, and add our routes where it runs."""
    if name not in _TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    table = import_module(".table", __name__)
    if name == "NODE_CLASS_MAPPINGS" and "server" in sys.modules:
        import_module(".routes", __name__).add_routes()
    return table.node_classes() if name == "NODE_CLASS_MAPPINGS" else table.display_names()
