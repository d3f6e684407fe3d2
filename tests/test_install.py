"""install.py: what it decides, without installing anything."""

import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """install.py as a module whose environment lies in a temporary folder with a space."""
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "a clone"
    (root / ".venv").mkdir(parents=True)
    for name in module.SOURCES:
        (root / name).write_bytes((ROOT / name).read_bytes())
    for name, value in {
        "ROOT": root,
        "VENV": root / ".venv",
        "STAMP": root / ".venv" / "stamp.json",
        "PYTHON": root / ".venv" / "python",
        "COMMAND": root / ".venv" / "lora-loop",
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def work(script, monkeypatch):
    """The log of what the script would do to its environment."""
    log = []

    def make_environment():
        log.append("environment")
        script.PYTHON.touch()

    def install_packages(extras):
        log.append(f"packages {extras}")
        script.COMMAND.touch()

    monkeypatch.setattr(script, "make_environment", make_environment)
    monkeypatch.setattr(script, "install_packages", install_packages)
    monkeypatch.setattr(script, "works", lambda python: python.exists())
    return log


def test_first_call_installs_and_the_second_does_nothing(script, work):
    script.set_up([])
    assert work == ["environment", "packages []"]
    script.set_up([])
    assert len(work) == 2


def test_test_tools_are_added_once_and_kept(script, work):
    script.set_up([])
    script.set_up(["test"])
    script.set_up([])
    script.set_up(["test"])
    assert work == ["environment", "packages []", "packages ['test']"]


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "constraints.txt"])
def test_changed_requirements_are_installed_with_the_extras_that_were(script, work, name):
    script.set_up(["test"])
    with (script.ROOT / name).open("a") as file:
        file.write("# changed\n")
    script.set_up([])
    assert work[2:] == ["packages ['test']"]


def test_interrupted_installation_is_finished_by_the_next_call(script, work, monkeypatch):
    script.set_up([])
    whole = script.install_packages

    def interrupted(extras):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "install_packages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.set_up(["test"])
    monkeypatch.setattr(script, "install_packages", whole)
    script.set_up([])
    assert work[2:] == ["packages []"]


def test_damaged_or_foreign_stamp_counts_as_none(script, work):
    for content in ("", "{", "[]", '"x"', "{}"):
        script.STAMP.write_text(content)
        script.set_up([])
    assert len(work) == 6  # the environment once, the packages each time


def test_missing_command_or_python_is_noticed(script, work):
    script.set_up([])
    script.COMMAND.unlink()
    script.set_up([])
    assert work[2:] == ["packages []"]
    script.PYTHON.unlink()
    script.set_up([])
    assert work[3:] == ["environment", "packages []"]


def test_moved_folder_gets_a_new_environment(script, work, monkeypatch):
    script.set_up([])
    stamp = json.loads(script.STAMP.read_text())
    script.STAMP.write_text(json.dumps({**stamp, "root": "/somewhere/else"}))
    script.set_up([])
    assert work[2:] == ["environment", "packages []"]


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0)])
def test_other_pythons_are_refused_before_anything(script, work, monkeypatch, capsys, version):
    monkeypatch.setattr(script.sys, "version_info", version)
    assert script.main(["demo"]) == 1
    assert "needs 3.10 to 3.13" in capsys.readouterr().err
    assert work == []


@pytest.mark.parametrize(
    ("platform", "nvidia", "build"),
    [
        ("linux", False, "cpu"),
        ("linux", True, ""),
        ("win32", False, ""),
        ("win32", True, "cu130"),
        ("darwin", False, ""),
    ],
)
def test_torch_build(script, monkeypatch, platform, nvidia, build):
    monkeypatch.setattr(script.sys, "platform", platform)
    monkeypatch.setattr(script.shutil, "which", lambda name: name if nvidia else None)
    monkeypatch.setattr(script.Path, "exists", lambda path: False)
    assert script.torch_build() == build


def test_torch_source(script, monkeypatch, capsys):
    pins = ROOT / "constraints" / "forge.txt"
    index = "https://download.pytorch.org/whl/cpu"
    monkeypatch.setattr(script, "torch_build", lambda: "cpu")
    monkeypatch.delenv("LORA_LOOP_TORCH_INDEX", raising=False)
    asked = []
    monkeypatch.setattr(script, "offers_torch", lambda *asking: asked.append(asking) or True)
    assert script.torch_source(pins) == ["--extra-index-url", index]
    assert asked == [(index, pins)]
    monkeypatch.setattr(script, "offers_torch", lambda *asking: False)
    assert script.torch_source(pins) == []
    assert "cannot be reached" in capsys.readouterr().out
    monkeypatch.setenv("LORA_LOOP_TORCH_INDEX", "https://mirror.example/cu")
    assert script.torch_source(pins) == ["--extra-index-url", "https://mirror.example/cu"]
    monkeypatch.setenv("LORA_LOOP_TORCH_INDEX", "")
    assert script.torch_source(pins) == []


def test_index_that_cannot_be_reached(script):
    pins = ROOT / "constraints.txt"
    assert not script.offers_torch("http://127.0.0.1:9", pins)
    assert not script.offers_torch("no url at all", pins)


def test_index_that_has_some_versions(script, tmp_path, monkeypatch):
    page = b'<a href="/whl/cpu/torch-2.1.2%2Bcpu-cp310-cp310-linux_x86_64.whl">'
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(page)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    for version, offered in [("2.1.2", True), ("2.3.1", False), ("2.1.20", False)]:
        pins = tmp_path / "pins.txt"
        pins.write_text(f"numpy==1.26.2\ntorch=={version}\n")
        assert script.offers_torch("https://index.example/cpu", pins) is offered
    assert set(asked) == {"https://index.example/cpu/torch/"}


def test_pip_shows_what_failed(script, monkeypatch):
    monkeypatch.setattr(script, "PYTHON", Path(sys.executable))
    with pytest.raises(
        script.InstallError, match="No matching distribution found for lora-nothing"
    ):
        script.pip("--no-index", "--no-deps", "lora-nothing==7")


def test_tests_marked_slow_need_to_be_asked_for(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "become", lambda command: command[1:])
    monkeypatch.setattr(script.os, "chdir", lambda folder: None)
    assert script.run_tests(["-q"]) == ["-m", "pytest", "-m", "not slow", "-q"]
    assert "--slow" in capsys.readouterr().out
    assert script.run_tests(["--slow", "-q"]) == ["-m", "pytest", "-q"]


def test_all_tests_are_shared_out_among_processes(script, monkeypatch):
    monkeypatch.setattr(script, "become", lambda command: command[1:])
    monkeypatch.setattr(script.os, "chdir", lambda _folder: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    shared = [
        *("--numprocesses=auto", "--maxprocesses=4"),
        *("--dist=loadfile", "--no-loadscope-reorder"),
    ]
    assert script.run_tests([]) == ["-m", "pytest", "-m", "not slow", *shared]
    assert script.run_tests(["--slow"]) == ["-m", "pytest", *shared]
    assert script.os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    script.run_tests([])
    assert script.os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.delenv("OMP_NUM_THREADS")


@pytest.mark.parametrize(("arguments", "status"), [(["train"], 2), (["--help"], 0), (["-x"], 2)])
def test_commands_that_install_nothing(script, work, capsys, arguments, status):
    assert script.main(arguments) == status
    assert "install.py demo" in capsys.readouterr().out
    assert work == []


def test_every_requirement_is_pinned(script):
    names = script.requirements()
    assert {"torch", "diffusers", "transformers", "safetensors", "numpy"} <= set(names)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tools = re.findall(r"^(?:test|ui) = \[(.*)\]$", project, re.MULTILINE)
    assert len(tools) == 2
    for name in [*names, *re.findall(r'"([a-z-]+)', " ".join(tools))]:
        assert re.search(rf"^{name}==\d", pins, re.MULTILINE), name


@pytest.mark.parametrize("host", ["a1111", "forge"])
def test_every_requirement_is_pinned_for_the_hosts(script, host):
    pins = (ROOT / "constraints" / f"{host}.txt").read_text(encoding="utf-8")
    for name in [*script.requirements(), "scipy", "pytest", "scikit-image"]:
        assert re.search(rf"^{name}==\d", pins, re.MULTILINE), name


def test_the_hosts_hook_changes_nothing_where_all_is_there(tmp_path):
    for name in ("install.py", "host_packages.py", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-B", tmp_path / "install.py"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout == "LoRA Loop: all packages are there\n"
    assert sorted(tmp_path.rglob("*")) == before
