"""Thin captioners and pictures."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny():
    """The helper that writes thin models."""
    name, path = "tiny_caption_models", Path(__file__).parent / "tiny_models.py"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
