"""noxfile.py: a host's packages stay as they are, or the session fails; without installing any."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nox")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def noxfile():
    spec = importlib.util.spec_from_file_location("noxfile_script", ROOT / "noxfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def index(monkeypatch):
    monkeypatch.setenv("LORA_LOOP_TORCH_INDEX", "https://index.example/cpu")


class SessionError(Exception):
    pass


class Session:
    """Notes what would be run; `freezes` are the answers of pip freeze, one after the other."""

    def __init__(self, folder: Path, freezes: list[str], posargs: tuple[str, ...] = ()):
        self.virtualenv = SimpleNamespace(location=str(folder))
        self.freezes, self.posargs, self.python = freezes, posargs, "3.10"
        self.ran: list[tuple[str, ...]] = []
        self.warnings: list[str] = []

    def install(self, *arguments):
        self.ran.append(("install", *arguments))

    def run(self, *arguments):
        self.ran.append(arguments)

    def run_install(self, *arguments, **_how):
        return self.freezes.pop(0) if "freeze" in arguments else self.ran.append(arguments)

    def warn(self, text):
        self.warnings.append(text)

    def error(self, text):
        raise SessionError(text)


HOST = "WARNING: not a package\ntorch==2.1.2+cpu\nnumpy==1.26.2\n"


def test_additions_are_no_change(noxfile, tmp_path):
    session = Session(tmp_path, [HOST, HOST + "pytest==9.0\n"])
    pins = ROOT / "constraints" / "a1111.txt"
    noxfile.test_beside(session, noxfile.A1111_HAS, pins)
    first, second, check, tests = session.ran
    assert first[:5] == (
        *("install", "--constraint", str(pins)),
        *("--extra-index-url", "https://index.example/cpu"),
    )
    assert first[5:] == noxfile.A1111_HAS
    held = Path(second[2])
    assert held.read_text().splitlines() == ["torch==2.1.2+cpu", "numpy==1.26.2"]
    assert {"diffusers>=0.31", "pytest>=8", "scikit-image>=0.22", "scipy>=1.9"} <= set(second)
    assert not [need for need in second if need.startswith(("nox", "ruff", "pyright"))]
    assert check[-1] == "check"
    assert tests[-4:] == ("-m", "not slow", "tests/core", "tests/extension")
    assert not session.warnings


def test_a_changed_package_of_the_host_fails_before_the_tests(noxfile, tmp_path):
    session = Session(tmp_path, [HOST, HOST.replace("1.26.2", "2.4.6")])
    with pytest.raises(SessionError, match=r"has changed packages of the host: numpy==1\.26\.2$"):
        noxfile.test_beside(session, noxfile.A1111_HAS, ROOT / "constraints" / "a1111.txt")
    assert not [command for command in session.ran if "pytest" in command[:3]]


def test_another_python_is_said_and_options_go_to_pytest(noxfile, tmp_path):
    session = Session(tmp_path, [HOST, HOST], posargs=("tests/core/files", "-x"))
    session.python = "3.11"
    noxfile.test_beside(session, noxfile.FORGE_HAS, ROOT / "constraints" / "forge.txt")
    assert "tested with 3.11" in session.warnings[0]
    assert session.ran[-1][-3:] == ("not slow", "tests/core/files", "-x")


@pytest.mark.parametrize(("host", "has"), [("a1111", "A1111_HAS"), ("forge", "FORGE_HAS")])
def test_the_versions_of_a_host_are_pinned(noxfile, host, has):
    pins = (ROOT / "constraints" / f"{host}.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in pins if "==" in line}
    assert set(getattr(noxfile, has)) <= pinned
