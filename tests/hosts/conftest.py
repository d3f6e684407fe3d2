"""Real hosts, installed outside of the repository, driven by their own Python.

WEBUI_DIR, FORGE_DIR and COMFYUI_DIR name their folders; WEBUI_PYTHON, FORGE_PYTHON and
COMFYUI_PYTHON the interpreters, where they are not in venv/bin/python of those folders.
WEBUI_FLAGS and FORGE_FLAGS are what their adoption is started with, instead of what keeps it on
the CPU. LBW_DIR and INSPIRE_DIR name the folders of the peers' extensions,
sd-webui-lora-block-weight and ComfyUI-Inspire-Pack.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
LIMIT = 900  # seconds for one run of a host, its start included


@dataclass(frozen=True, slots=True)
class HostProgram:
    """An installed host."""

    folder: Path
    python: Path

    def drive(self, script: str, folder: Path, *arguments: str) -> dict[str, Any]:
        """Run one of this folder's scripts inside of the host; what it found, from its JSON.

        folder: for its output. The script gets the host's folder, the repository, the file for its
        findings and `arguments`.
        """
        found = folder / f"{Path(script).stem}.json"
        command = [self.python, HERE / script, self.folder, REPOSITORY, found, *arguments]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return json.loads(found.read_text())


def _program(name: str) -> HostProgram:
    folder = os.environ.get(f"{name}_DIR")
    if not folder:
        pytest.skip(f"{name}_DIR names no installed host: nothing was tested with the real one")
    python = os.environ.get(f"{name}_PYTHON", f"{folder}/venv/bin/python")
    return HostProgram(Path(folder), Path(python))


@pytest.fixture(scope="session")
def webui() -> HostProgram:
    return _program("WEBUI")


@pytest.fixture(scope="session")
def forge() -> HostProgram:
    return _program("FORGE")


@pytest.fixture(scope="session")
def comfyui() -> HostProgram:
    return _program("COMFYUI")


def _extension(variable: str, name: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no folder of {name}: nothing was compared with it")
    return Path(folder)


@pytest.fixture(scope="session")
def lora_block_weight() -> Path:
    return _extension("LBW_DIR", "sd-webui-lora-block-weight")


@pytest.fixture(scope="session")
def inspire_pack() -> Path:
    return _extension("INSPIRE_DIR", "ComfyUI-Inspire-Pack")


@pytest.fixture(scope="session")
def network_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoCon file for every family, of full size, with every module that we train."""
    from lora_loop.tests.hosts.network_files import write_family

    folder = tmp_path_factory.mktemp("networks")
    return {family: write_family(folder, family) for family in ("sd1", "sd2", "sdxl")}
