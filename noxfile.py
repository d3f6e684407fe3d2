"""Run the core's and the tab's tests with the packages that each host has, and with the newest.

    nox -s a1111 forge       with these hosts' versions, which constraints/ holds
    nox -s current           with the newest tested versions, which constraints.txt holds
    nox -s a1111 -- tests/core/models -k vae      other tests, or options of pytest

`current` is `python install.py test`, no more: the tests as the README and .ci/run start them.
A host's environment takes 6 GB where torch comes with CUDA's libraries; --envdir puts it elsewhere.
LORA_LOOP_TORCH_INDEX names a package index to take torch from, as in install.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import nox
from python_discovery import get_interpreter

ROOT = Path(__file__).resolve().parent

# What the hosts bring along of what the core uses; LoRA Loop adds the rest and changes none of it.
A1111_HAS = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow"),
    *("accelerate", "huggingface-hub"),
    *("gradio", "fastapi", "pydantic", "httpx"),
)
FORGE_HAS = (*A1111_HAS, "diffusers", "peft")

# Both hosts ask for 3.10, and their packages have no builds for 3.12. Where there is neither, nox
# says what it misses.
PYTHON = next((version for version in ("3.10", "3.11") if get_interpreter(version)), "3.10")

TESTS = ("tests/core", "tests/extension")
TEST_TOOLS = ("pytest", "scikit-image")  # of the extra `test`: those that the tests import


@nox.session(python=PYTHON, tags=["hosts"])
def a1111(session: nox.Session) -> None:
    """The tests beside the packages of AUTOMATIC1111's WebUI 1.9.4, gradio 3.41.2 among them."""
    test_beside(session, A1111_HAS, ROOT / "constraints" / "a1111.txt")


@nox.session(python=PYTHON, tags=["hosts"])
def forge(session: nox.Session) -> None:
    """The tests beside the packages of Forge f2.0.1, gradio 4.40.0 among them."""
    test_beside(session, FORGE_HAS, ROOT / "constraints" / "forge.txt")


@nox.session(python=False)
def current(session: nox.Session) -> None:
    """All tests with the newest tested packages: python install.py test."""
    session.run(sys.executable, str(ROOT / "install.py"), "test", *session.posargs, external=True)


def test_beside(session: nox.Session, host_has: tuple[str, ...], constraints: Path) -> None:
    """Install what a host has, then what LoRA Loop needs beside it, and run the core's tests.

    Fails where the second step would change anything of the first: a host that finds a pin changed
    installs its own again at the next start.
    """
    if session.python != "3.10":
        session.warn(f"no Python 3.10 here, which the host asks for: tested with {session.python}")
    pins = ("--constraint", str(constraints))
    session.install(*pins, *torch_source(constraints), *host_has)
    before = installed(session)
    held = Path(session.virtualenv.location) / "installed-by-the-host.txt"
    held.write_text("\n".join(before), encoding="utf-8")
    session.install("--constraint", str(held), *pins, *needs())
    lost = sorted(set(before) - set(installed(session)))
    if lost:
        session.error(f"what LoRA Loop needs has changed packages of the host: {', '.join(lost)}")
    session.run_install("python", "-m", "pip", "check")
    session.run("python", "-m", "pytest", "-m", "not slow", *(session.posargs or TESTS))


def torch_source(constraints: Path) -> list[str]:
    """Options of pip that find the build of torch for this machine, as install.py chooses it."""
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "install.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.torch_source(constraints)


def needs() -> list[str]:
    """What LoRA Loop and its tests need, from pyproject.toml; a host has LoRA Loop as a folder."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    tools = [need for need in extras["test"] if need.startswith(TEST_TOOLS)]
    return [*project["dependencies"], *extras["demo"], *tools]


def installed(session: nox.Session) -> list[str]:
    """Every package of the session's environment as name==version."""
    listed = session.run_install("python", "-m", "pip", "freeze", silent=True, log=False)
    return [line for line in str(listed).splitlines() if "==" in line]  # None where nox skips it
