"""The package's root: its doors, and what a built wheel holds."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lora_loop
from lora_loop.core import events

ROOT = Path(__file__).parents[1]


def test_version_is_a_plain_string():
    assert re.fullmatch(r"\d+\.\d+\.\d+", lora_loop.__version__)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{lora_loop.__version__}"\n' in project


@pytest.mark.parametrize("name", ["/somewhere/custom_nodes/lora-loop", "lora loop"])
def test_comfyui_finds_the_nodes_under_any_name(name, monkeypatch):
    """ComfyUI imports the root under its path and asks for the tables with hasattr()."""
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    for table in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"):
        assert hasattr(module, table)
    assert (ROOT / module.WEB_DIRECTORY).is_dir()
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_importing_the_root_loads_nothing_heavy():
    code = (
        "import importlib.util as u, sys;"
        f"s = u.spec_from_file_location('lora_loop', {str(ROOT / '__init__.py')!r},"
        f" submodule_search_locations=[{str(ROOT)!r}]);"
        "m = u.module_from_spec(s); sys.modules['lora_loop'] = m; s.loader.exec_module(m);"
        "import lora_loop.core.config, lora_loop.core.events;"
        "print([name for name in ('torch', 'numpy', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]", done.stderr


def test_events_are_values():
    step = events.StepDone(step=1, steps=10, loss=0.5, lr=1e-4, images=4)
    assert step == events.StepDone(step=1, steps=10, loss=0.5, lr=1e-4, images=4)
    with pytest.raises(AttributeError):
        step.loss = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    assert events.never() is False
    assert events.ignore(step) is None


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the list of tracked files")
def test_the_wheel_holds_every_file_of_the_core(tmp_path):
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(tmp_path / "clone")], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "core", "__init__.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    missing = {f"lora_loop/{name}" for name in tracked if name} - held
    assert not missing
    assert not [name for name in held if "tests" in name]
