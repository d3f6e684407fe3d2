"""Set up LoRA Loop with nothing but Python.

    python install.py demo [...]     make .venv, install, train and show the bundled example
    python install.py ui [...]       the same with the page, then open the loop in the browser
    python install.py test [...]     the same with the test tools, then run the tests

Without a command, as the hosts run it at every start, it adds to the host's Python what is missing
and changes nothing that is there; `add` does that even if it failed lately, `remove` takes it out.
LORA_LOOP_TORCH_INDEX names a package index to take torch from; empty means none of our choosing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "lora-loop.json"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
COMMAND = BIN / ("lora-loop.exe" if os.name == "nt" else "lora-loop")
SOURCES = ("pyproject.toml", "setup.py", "constraints.txt")
TEST_PROCESSES = 4  # at most; each takes up to 2 GB
OLDEST, NEWEST = (3, 10), (3, 13)
TORCH_INDEXES = "https://download.pytorch.org/whl/"
USAGE = (
    "usage: python install.py demo [options] | ui [options] | test [--slow] [pytest options] | "
    "add | remove"
)
EXTRAS = {"demo": ["demo"], "ui": ["demo", "ui"], "test": ["demo", "test", "ui"]}


class InstallError(Exception):
    """Why it cannot go on, and what to do about it."""


def main(arguments: list[str]) -> int:
    """Run one command; the answer is the process's exit status."""
    if not arguments or arguments[0] in ("add", "remove"):
        look(*arguments[:1])
        return 0
    command, options = arguments[0], arguments[1:]
    if command not in EXTRAS:
        wanted_help = command in ("-h", "--help", "help")
        print(__doc__ if wanted_help else f"{USAGE}\nunknown command: {command}")
        return 0 if wanted_help else 2
    try:
        set_up(extras=EXTRAS[command])
    except InstallError as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    if command == "test":
        return run_tests(options)
    return become([str(COMMAND), command, *options])


# ---- the hosts' hook -------------------------------------------------------------------------


def look(command: str = "") -> None:
    """Add what this Python lacks of our packages, or take it out; say in one line what was done."""
    if sys.version_info < OLDEST:
        print(f"LoRA Loop: needs Python 3.10 to 3.13; this is {sys.version.split()[0]}")
        return
    import host_packages

    if command == "remove":
        print(host_packages.remove_added())
    else:
        print(host_packages.add_missing(requirements(), now=command == "add"))


def requirements() -> list[str]:
    """Names of the packages that we need at run time, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return re.findall(r'"([A-Za-z0-9_-]+)', block.group(1)) if block else []


# ---- the environment -------------------------------------------------------------------------


def set_up(extras: list[str]) -> None:
    """Make .venv and install into it, unless that was done before and nothing has changed."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise InstallError(
            f"this is Python {sys.version.split()[0]}; LoRA Loop needs 3.10 to 3.13. Run "
            "install.py with one of these, for example: python3.11 install.py demo"
        )
    stamp = read_stamp()
    current = stamp.get("sources") == fingerprint() and stamp.get("root") == str(ROOT)
    there = PYTHON.exists() and COMMAND.exists() and set(extras) <= set(stamp.get("extras", []))
    if current and there:
        return
    extras = sorted({*extras, *stamp.get("extras", [])})
    STAMP.unlink(missing_ok=True)  # whatever interrupts us from here on is seen next time
    moved = stamp.get("root", str(ROOT)) != str(ROOT)
    if moved or not works(PYTHON):
        make_environment()
    install_packages(extras)
    STAMP.write_text(
        json.dumps({"root": str(ROOT), "sources": fingerprint(), "extras": extras}),
        encoding="utf-8",
    )


def fingerprint() -> str:
    """Hash of everything that decides what is installed."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict:
    """What the last complete installation wrote; nothing where there was none."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def works(python: Path) -> bool:
    """Whether an environment's interpreter is of a version that we support, and has pip."""
    code = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return subprocess.run([python, "-I", "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def make_environment() -> None:
    """Make .venv anew with the running Python."""
    try:
        import ensurepip  # noqa: F401 - Debian splits it off
        import venv
    except ImportError as error:
        version = "{}.{}".format(*sys.version_info)
        raise InstallError(
            f"this Python cannot make environments ({error}); on Debian and Ubuntu: "
            f"sudo apt install python{version}-venv"
        ) from error
    print(f"making {VENV} with Python {sys.version.split()[0]}", flush=True)
    try:
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=os.name != "nt").create(VENV)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(
            f"{VENV} cannot be made: {error}. Is the disk full or the folder read-only?"
        ) from error


def install_packages(extras: list[str]) -> None:
    """Install LoRA Loop, editable, and the tested versions of all that it needs."""
    print("installing packages; the first time this takes some minutes", flush=True)
    pip("--constraint", str(ROOT / "constraints.txt"), "setuptools")
    project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip(
        *("--constraint", str(ROOT / "constraints.txt")),
        *torch_source(ROOT / "constraints.txt"),
        "--no-build-isolation",
        *("--editable", project),
    )


def pip(*arguments: str) -> None:
    """Run pip install; show what it fetches, and what it said where it fails."""
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    process = subprocess.Popen(
        # most modules are never imported: Python compiles what is, when it is
        [str(PYTHON), "-I", "-m", "pip", "install", *quiet, "--no-compile", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PIP_USER": "0", "PYTHONIOENCODING": "utf-8"},
    )
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        download = re.match(r"\s*Downloading (?:\S*/)?([^-\s]+-[^-\s]+)\S* \((.* [MG]B)\)", line)
        if download:
            print("  downloading {} ({})".format(*download.groups()), flush=True)
        elif line.startswith("Installing collected packages:"):
            print(f"  unpacking {line.count(',') + 1} packages", flush=True)
    if process.wait() != 0:
        raise InstallError(
            f"pip failed; this is what it said:\n{''.join(said[-40:])}\n"
            "Mend what it names and run the same command again: it goes on where it stopped."
        )


# ---- which build of torch --------------------------------------------------------------------


def torch_source(constraints: Path) -> list[str]:
    """Options of pip that let it find the right build of the torch that `constraints` pins.

    PyPI's build for Linux brings CUDA's libraries, gigabytes that a machine without an NVIDIA GPU
    has no use for; PyPI's build for Windows has no CUDA. pip prefers the build of the named index
    over PyPI's of the same version, and a local build that pip is set up to find over both alike.
    """
    index = os.environ.get("LORA_LOOP_TORCH_INDEX")
    if index is None:
        build = torch_build()
        index = TORCH_INDEXES + build if build else ""
        if index and not offers_torch(index, constraints):
            print(f"  {index} cannot be reached or lacks this torch: pip takes it from elsewhere")
            index = ""
    return ["--extra-index-url", index] if index else []


def torch_build() -> str:
    """The build to take instead of PyPI's, if any, by system and GPU."""
    nvidia = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    return {("linux", False): "cpu", ("win32", True): "cu130"}.get((sys.platform, nvidia), "")


def offers_torch(index: str, constraints: Path) -> bool:
    """Whether the index answers soon and lists the version of torch that `constraints` pins."""
    from urllib.request import urlopen

    pins = constraints.read_text(encoding="utf-8")
    version = re.search(r"^torch==(\S+)", pins, re.MULTILINE)
    try:
        with urlopen(f"{index}/torch/", timeout=5) as answer:
            page = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError):
        return False
    return version is not None and f"torch-{version.group(1)}" in page


# ---- running -------------------------------------------------------------------------------


def run_tests(options: list[str]) -> int:
    """Run pytest on the repository; tests marked slow only with --slow.

    Without options the files of tests are shared out among processes, one for each core.
    """
    marks = []
    if "--slow" in options:
        options = [option for option in options if option != "--slow"]
    else:
        print("running all tests but those marked slow; add --slow for these", flush=True)
        marks = ["-m", "not slow"]
    if not options:  # pytest's own may not go together with several processes
        marks += ["--numprocesses=auto", f"--maxprocesses={TEST_PROCESSES}"]
        # in their own order: that of the browser, few and long, would else come last, alone
        marks += ["--dist=loadfile", "--no-loadscope-reorder"]
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    return become([str(PYTHON), "-m", "pytest", *marks, *options])


def become(command: list[str]) -> int:
    """Go on as another program, so that signals and the exit status are its own."""
    if os.name == "posix":
        os.execv(command[0], command)
    try:
        return subprocess.run(command).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
