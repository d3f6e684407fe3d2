"""The hosts' hook: what it adds, what it never touches, and what it takes back."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WANTED = ["torch", "diffusers", "safetensors"]


class Pip:
    """An environment in memory. offers: version that pip finds for a requirement, None for none."""

    def __init__(self, packages, offers):
        self.packages, self.offers = dict(packages), offers
        self.log = []
        self.side_effects, self.complaints, self.imports = {}, "", 0

    def pip(self, *arguments):
        self.log.append(arguments)
        command, last = arguments[0], arguments[-1]
        if command == "check":
            return answer(self.complaints)
        if command == "uninstall":
            for name in arguments[2:]:
                del self.packages[name]
            return answer()
        if "--no-deps" in arguments:
            self.packages.update(one.split("==") for one in arguments[2:])
            return answer()
        version = self.offers.get(last)
        if version is None:
            return answer(error=f"ERROR: No matching distribution found for {last}")
        held = Path(arguments[2]).read_text()
        assert held.splitlines() == [f"{n}=={v}" for n, v in self.packages.items()]
        self.packages[last.split("=")[0].rstrip("<>")] = version
        self.packages.update(self.side_effects)
        return answer()

    def run(self, command):
        self.log.append(tuple(command[1:]))
        return answer(error="ImportError: no such name" if self.imports else "")


def answer(out="", error=""):
    return subprocess.CompletedProcess([], int(bool(error)), out, error)


@pytest.fixture
def hook(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("host_packages", ROOT / "host_packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORD", tmp_path / "record.json")
    return module


@pytest.fixture
def host(hook, monkeypatch):
    """A WebUI's environment without diffusers, in which pip would find two versions of it."""
    packages = {"torch": "2.1.2", "safetensors": "0.4.2", "transformers": "4.30.2"}
    found = Pip(packages, {"diffusers==0.31.0": "0.31.0", "diffusers>=0.31": "0.42.1"})
    monkeypatch.setattr(hook, "pip", found.pip)
    monkeypatch.setattr(hook, "run", found.run)
    monkeypatch.setattr(hook, "installed", lambda: dict(found.packages))
    monkeypatch.setattr(
        hook, "missing_packages", lambda wanted: [n for n in wanted if n not in found.packages]
    )
    return found


def test_only_what_is_missing_is_added_and_noted(hook, host):
    before = dict(host.packages)
    told = hook.add_missing(WANTED)
    assert told == "LoRA Loop: added diffusers; nothing else was changed"
    assert host.packages == {**before, "diffusers": "0.31.0"}
    assert hook.read_record() == {"added": ["diffusers"]}
    assert hook.add_missing(WANTED) == "LoRA Loop: all packages are there"


def test_what_was_added_can_be_taken_out_and_nothing_else(hook, host):
    before = dict(host.packages)
    host.side_effects = {"regex": "2024.1"}
    hook.add_missing(WANTED)
    host.packages["someone-elses"] = "1.0"
    assert "diffusers, regex" in hook.remove_added()
    assert host.packages == {**before, "someone-elses": "1.0"}
    assert "nothing was added" in hook.remove_added()


def test_a_newer_transformers_gets_a_newer_diffusers(hook, host):
    host.packages["transformers"] = "5.1.0"
    host.offers = {"diffusers>=0.35": "0.42.1"}
    hook.add_missing(WANTED)
    assert host.packages["diffusers"] == "0.42.1"


@pytest.mark.parametrize("trouble", ["changed", "complaints", "import"])
def test_whatever_makes_the_host_worse_is_taken_back(hook, host, trouble):
    before = dict(host.packages)
    pip = host.pip

    def spoiling(*arguments):
        done = pip(*arguments)
        if arguments[0] == "install":
            if trouble == "complaints":
                host.complaints = "gradio 3.41.2 requires pydantic<2"
            if trouble == "import":
                host.imports = 1
        return done

    hook.pip = spoiling
    if trouble == "changed":
        host.side_effects = {"safetensors": "0.5.0"}
    told = hook.add_missing(WANTED)
    assert "can't be installed" in told
    assert {
        "changed": "safetensors",
        "complaints": "pydantic<2",
        "import": "no such name",
    }[trouble] in told
    assert host.packages == before


def test_without_a_network_it_says_so_and_waits_a_day_before_it_tries_again(
    hook, host, monkeypatch
):
    before, offers = dict(host.packages), host.offers
    host.offers = {}
    told = hook.add_missing(WANTED)
    assert "diffusers can't be installed" in told
    assert "No matching distribution" in told
    assert host.packages == before
    calls = len(host.log)
    assert "could not be installed lately" in hook.add_missing(WANTED)
    assert len(host.log) == calls
    host.offers = offers
    assert "added diffusers" in hook.add_missing(WANTED, now=True)


def test_the_next_day_it_tries_again(hook, host):
    hook.write_record({"failed_at": hook.time.time() - 2 * hook.TRY_AGAIN, "why": "x"})
    assert "added diffusers" in hook.add_missing(WANTED)


def test_a_host_without_its_own_packages_is_left_alone(hook, host):
    del host.packages["torch"]
    assert "torch should come with the host" in hook.add_missing(WANTED)
    assert host.log == []


def test_a_record_that_cannot_be_written_is_told(hook, host, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(hook, "RECORD", tmp_path / "no folder" / "record.json")
    assert "added diffusers" in hook.add_missing(WANTED)
    assert "can't be written" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"'])
def test_a_damaged_record_counts_as_none(hook, content):
    hook.RECORD.write_text(content)
    assert hook.read_record() == {}


def test_the_real_environment_is_listed_by_plain_names(hook):
    found = hook.installed()
    assert {"torch", "safetensors", "huggingface-hub"} <= set(found)
    assert hook.missing_packages(["torch", "no-such-package-of-ours"]) == [
        "no-such-package-of-ours"
    ]
