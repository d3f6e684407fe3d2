"""The WebUI's door: name the repository's root `lora_loop`, then register the tab.

The host loads this file by its path and again at each "Reload UI"; the package and what runs in it
stay as they are.
"""

import importlib.util
import sys
from pathlib import Path

if "lora_loop" not in sys.modules:
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "lora_loop", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["lora_loop"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["lora_loop"])

from lora_loop.extension.register import register

if register():
    from lora_loop.extension.hosts.tag_weights import TagWeights  # noqa: F401  the host looks for it
