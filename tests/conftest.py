"""Make the repository importable as `lora_loop`, whatever its folder is called."""

import importlib.util
import sys
from pathlib import Path


def alias_repository() -> None:
    """Load the root package under its name, as the WebUI's door does."""
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "lora_loop", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["lora_loop"] = package
    spec.loader.exec_module(package)


if "lora_loop" not in sys.modules:
    alias_repository()


def pytest_addoption(parser):
    parser.addoption("--screenshots", help="folder for pictures of the page, to be looked at")
