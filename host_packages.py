"""What install.py does when a host runs it: add what is missing, change nothing that is there.

Standard library only, and quick where nothing is missing: hosts run it at every start. A host that
finds a package of its own changed installs its own again, and so on at every start; so pip is given
every installed version as a constraint, and whatever turns out worse afterwards is taken back.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
RECORD = ROOT / ".host-packages.json"
TRY_AGAIN = 24 * 3600  # seconds until a failed installation is tried again by itself
# Versions that were tried beside a host's packages, the best first. By whether transformers is
# older than 4.50: newer ones have lost names that old versions of diffusers import.
VERSIONS = {
    ("diffusers", True): ("==0.31.0", ">=0.31"),
    ("diffusers", False): (">=0.35", "==0.31.0"),
}
# Never added nor changed, whatever happens: a host without them is not a host that we know.
HOSTS_OWN = {"torch", "transformers", "tokenizers", "numpy", "pillow", "gradio", "safetensors"}
PLAIN_VERSION = re.compile(r"[0-9A-Za-z.!+_-]+")


def missing_packages(wanted: list[str]) -> list[str]:
    """Those of our packages that this Python lacks."""
    return [name for name in wanted if not any(metadata.distributions(name=name))]


def add_missing(wanted: list[str], *, now: bool = False) -> str:
    """Install what is missing and say in one line what was done; now: even if it failed lately."""
    missing = missing_packages(wanted)
    if not missing:
        return "LoRA Loop: all packages are there"
    foreign = sorted(HOSTS_OWN.intersection(missing))
    if foreign:
        return (
            f"LoRA Loop: {', '.join(foreign)} should come with the host and is not here; nothing "
            "was changed. Start the host's own installation first"
        )
    record = read_record()
    wait = record.get("failed_at", 0) + TRY_AGAIN - time.time()
    if not now and 0 < wait <= TRY_AGAIN:
        return (
            f"LoRA Loop: {', '.join(missing)} could not be installed lately "
            f"({record.get('why', '')}); its tab says so. Try again: python install.py add"
        )
    before = installed()
    try:
        for name in missing:
            install(name, before)
    except InstallationError as error:
        undone = take_back(before)
        write_record({**record, "failed_at": time.time(), "why": str(error)})
        return (
            f"LoRA Loop: {', '.join(missing)} can't be installed: {error}. {undone}"
            "The host starts as before, and the tab says what it lacks"
        )
    added = sorted(set(installed()) - set(before))
    kept = sorted({*record.get("added", []), *added})
    write_record({"added": kept})
    return f"LoRA Loop: added {', '.join(added)}; nothing else was changed"


class InstallationError(Exception):
    """Why a package could not be added."""


def install(name: str, before: dict[str, str]) -> None:
    """Add one package beside all that is there. Raises InstallationError."""
    complaints = pip_check()
    said = ""
    for version in VERSIONS.get((name, old_transformers(before)), ("",)):
        with tempfile.TemporaryDirectory() as folder:
            held = Path(folder) / "held.txt"
            lines = [f"{one}=={number}" for one, number in before.items()]
            held.write_text("\n".join(lines), encoding="utf-8")
            done = pip("install", "--constraint", str(held), f"{name}{version}")
        said = done.stdout + done.stderr
        if done.returncode:
            continue
        after = installed()
        changed = [one for one, number in before.items() if after.get(one) != number]
        new_complaints = pip_check() - complaints
        works = run([sys.executable, "-c", f"import {name}"])
        if not changed and not new_complaints and works.returncode == 0:
            return
        take_back(before)
        last = (works.stderr.strip().splitlines() or [""])[-1]
        said = "; ".join([*changed, *sorted(new_complaints), last])
    lines = [line for line in said.strip().splitlines() if line.strip()]
    raise InstallationError(lines[-1][:300] if lines else "pip said nothing")


def take_back(before: dict[str, str]) -> str:
    """Put the environment back to what it was; says so, as the start of a sentence."""
    now = installed()
    told = remove(set(now) - set(before))
    changed = [f"{one}=={number}" for one, number in before.items() if now.get(one) != number]
    if changed:
        pip("install", "--no-deps", *changed)
    return told


def remove(names: set[str]) -> str:
    """Take packages out again; says so, as the start of a sentence."""
    if not names:
        return ""
    pip("uninstall", "--yes", *sorted(names))
    return f"What it had added was taken out again ({', '.join(sorted(names))}). "


def remove_added() -> str:
    """Take out what was added in all earlier runs, and nothing else."""
    names = set(read_record().get("added", [])) & set(installed())
    told = remove(names)
    write_record({})
    return f"LoRA Loop: {told or 'nothing was added that could be taken out'}"


def installed() -> dict[str, str]:
    """Every installed package with its version, by its plain name."""
    importlib.invalidate_caches()
    found = {}
    for one in metadata.distributions():
        name, version = one.metadata["Name"], one.version
        if name and version and PLAIN_VERSION.fullmatch(version):
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return found


def old_transformers(packages: dict[str, str]) -> bool:
    """Whether the host's transformers is older than 4.50."""
    numbers = re.findall(r"\d+", packages.get("transformers", "0"))[:2]
    return tuple(map(int, numbers)) < (4, 50)


def pip_check() -> set[str]:
    """What pip finds wrong with the environment, line by line."""
    return set(pip("check").stdout.splitlines())


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip; without a network it gives up soon."""
    options = ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "10"]
    return run([sys.executable, "-m", "pip", *arguments, *options])


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it says."""
    environment = {**os.environ, "PIP_USER": "0", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )


def read_record() -> dict:
    """What earlier runs have noted; nothing where the file is missing or damaged."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(record: dict) -> None:
    """Note it beside this file, where that can be written."""
    try:
        RECORD.write_text(json.dumps(record, indent=2), encoding="utf-8")
    except OSError as error:
        print(
            f"LoRA Loop: {RECORD} can't be written ({error.strerror}); what was added is not noted"
        )
