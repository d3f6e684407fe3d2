"""A process that reads mutated files: `fuzz_worker.py TARGET FOLDER COUNT`, one line a case.

Before each case it prints the case's number, after it what came of it, so that a crash or a hang is
known by its case. Its memory is limited where the system can do that.
"""

import faulthandler
import importlib.util
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

import torch

HERE = Path(__file__).resolve().parent
MORE = 512 << 20  # bytes of address space that the cases may add


def loaded(path: Path):
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


loaded(HERE.parent / "conftest.py")
fuzz_text = loaded(HERE / "fuzz_text.py")
fuzz_pickles = loaded(HERE / "fuzz_pickles.py")

from lora_loop.core.errors import TrainerError  # noqa: E402
from lora_loop.core.files import network_file, resume, serialise  # noqa: E402
from lora_loop.core.models.checkpoint import open_checkpoint  # noqa: E402


class WrongError(AssertionError):
    """A file was accepted and gives what it can't hold."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise WrongError(what)


def tame(content: bytes) -> bytes:
    """Bytes that are finite numbers of every dtype, wherever one begins."""
    return bytes(0x20 + byte % 0x20 for byte in content)


class Target:
    """Makes a case of its number and reads it."""

    kinds: ClassVar[dict[str, Callable]]
    parts: object  # of the good file, for the mutations

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "case.safetensors"

    def case(self, number: int) -> tuple[str, bytes]:
        kind = [*self.kinds][number % len(self.kinds)]
        return kind, self.make(kind, Random(f"{type(self).__name__} {number}"))

    def make(self, kind: str, chance: Random) -> bytes:
        return self.kinds[kind](chance, self.parts)

    def read(self, kind: str) -> None:
        raise NotImplementedError

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)


def read_all(path: Path, finite: bool) -> None:
    opened, held = open_checkpoint(path), 0
    for name, shape in opened.shapes.items():
        read = opened.tensor(name)
        require(tuple(read.shape) == shape, f"{name!r} is {tuple(read.shape)} instead of {shape}")
        require(read.is_contiguous() or not read.numel(), f"{name!r} does not lie in order")
        held = max(held, read.numel() * read.element_size())
        total = float(read.double().abs().sum())  # touches every number
        require(math.isfinite(total) or not finite, f"{name!r} is not finite")
    require(held <= path.stat().st_size, "a tensor is larger than its file")


class Checkpoint(Target):
    kinds = fuzz_text.GENERAL

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        chance = torch.Generator().manual_seed(1)
        shapes = {"a.weight": (3, 4), "b.bias": (5,), "c": (), "d": (2, 3, 1, 1), "é none": (0, 3)}
        kinds = (torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.int64)
        tensors = {
            name: torch.randn(shape, generator=chance).to(kind)
            for (name, shape), kind in zip(shapes.items(), kinds, strict=True)
        }
        serialise.write_file(self.path, tensors, {"format": "pt", "é": "ü"})
        parts = fuzz_text.Parts.of(self.path.read_bytes())
        self.parts = fuzz_text.Parts(parts.header, tame(parts.data))

    def read(self, kind: str) -> None:
        read_all(self.path, kind not in fuzz_text.CHANGES_NUMBERS)


class Pickle(Target):
    kinds = fuzz_pickles.KINDS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path, self.proof = folder / "case.ckpt", folder / "proof"

    def make(self, kind: str, chance: Random) -> bytes:
        if kind == "code":
            return fuzz_pickles.code(chance, str(self.proof))
        return self.kinds[kind](chance)

    def read(self, kind: str) -> None:
        try:
            read_all(self.path, finite=False)
        finally:
            require(not self.proof.exists(), "code in the file was run")


class Network(Target):
    kinds = fuzz_text.OF_NETWORKS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        modules = {
            "lora_te_x": (torch.ones(2, 3), torch.ones(4, 2), 1.0),
            "lora_unet_y": (torch.ones(1, 2, 3, 3), torch.ones(3, 1, 1, 1), 0.5),
        }
        network_file.write_network(self.path, modules, {"ss_seed": "7"}, overwrite=True)
        parts = fuzz_text.Parts.of(self.path.read_bytes())
        self.parts = fuzz_text.Parts(parts.header, tame(parts.data))

    def read(self, kind: str) -> None:
        read = network_file.read_network(self.path)
        require(read.precision in network_file.DTYPES and bool(read.modules), "no network")
        for name, (down, up, alpha) in read.modules.items():
            require(math.isfinite(alpha), f"alpha of {name!r} is not finite")
            require(down.shape[0] == up.shape[1], f"factors of {name!r} do not fit")
            for factor in (down, up):
                require(factor.dtype == torch.float32, f"{name!r} is not fp32")
                require(0 < factor.numel() < 100, f"{name!r} has {factor.numel()} numbers")
                require(bool(torch.isfinite(factor).all()), f"{name!r} is not finite")


class State(Target):
    kinds: ClassVar[dict[str, Callable]] = {**fuzz_text.GENERAL, "facts": fuzz_text.noise}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.network = folder / "a.safetensors"
        state = resume.ResumeState(
            recipe="r" * 8,
            dataset="d" * 8,
            base="b" * 8,
            step=2,
            images=4,
            losses=(0.5, 0.25),
            lrs=(1e-3, 1e-4),
            tensors={"factor.a": torch.randn(2, 3), "n": torch.tensor([1, 2])},
        )
        self.path = resume.save_state(self.network, state)
        self.parts = fuzz_text.Parts.of(self.path.read_bytes())
        self.good = resume.load_state(self.network)
        self.tensors = dict(state.tensors)
        self.tensors |= {f"history.{name}": torch.rand(2).double() for name in ("losses", "lrs")}

    def make(self, kind: str, chance: Random) -> bytes:
        return self._facts(chance) if kind == "facts" else super().make(kind, chance)

    def _facts(self, chance: Random) -> bytes:
        """Wild facts under a checksum that is right."""
        whole = '{"recipe": "r", "dataset": "d", "base": "b", "step": 2, "images": 4}'
        pattern, choices = chance.choice(
            ((r"\d", fuzz_text.NUMBERS), (r'"\w+"', fuzz_text.STRINGS), (".", ("", "[" * 99_999)))
        )
        facts = fuzz_text.replaced(chance, whole, pattern, choices)
        metadata = {"format": resume.FORMAT, "facts": facts}
        metadata["sha256"] = serialise.content_hash(self.tensors, metadata)
        draft = self.folder / "draft"
        serialise.write_file(draft, self.tensors, metadata)
        return draft.read_bytes()

    def read(self, kind: str) -> None:
        read = resume.load_state(self.network)
        require(read is not None, "the state is not there")
        if kind == "facts":
            texts = (read.recipe, read.dataset, read.base)
            require(all(isinstance(text, str) for text in texts), "facts that are no texts")
            require(type(read.step) is int and read.step >= 0, "a step that is no count")
            require(type(read.images) is int and read.images >= 0, "images that are no count")
            return
        facts = ("recipe", "dataset", "base", "step", "images", "losses", "lrs")
        require(all(getattr(read, n) == getattr(self.good, n) for n in facts), "changed facts")
        require(read.tensors.keys() == self.good.tensors.keys(), "changed names")
        for name, own in self.good.tensors.items():
            require(torch.equal(read.tensors[name], own), f"changed numbers in {name}")


TARGETS = {"checkpoint": Checkpoint, "pickle": Pickle, "network": Network, "state": State}


def limit_memory() -> None:
    """Allow little more address space than there is in use."""
    status = Path("/proc/self/status")
    if status.is_file():
        import resource

        line = next(li for li in status.read_text().splitlines() if li.startswith("VmSize:"))
        used = int(line.split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE, resource.RLIM_INFINITY))


def peak() -> int:
    """The most memory that this process had, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def outcome(target: Target, kind: str, content: bytes) -> str:
    """ "read", "refused", or what is wrong."""
    target.write(content)
    try:
        target.read(kind)
    except TrainerError as error:
        text = str(error)
        text.encode("utf-8")  # hosts show it
        if len(text) > 5000:
            return f"an error of {len(text)} characters"
        return f"asks for memory: {text}" if "memory" in text or "alloc" in text else "refused"
    except BaseException as error:  # noqa: BLE001  whatever it is, the case is to be named
        return f"{type(error).__name__}: {error}"[:500]
    return "read"


def main() -> None:
    faulthandler.enable()
    logging.disable()
    torch.set_num_threads(1)
    name, folder, first, count = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    target = TARGETS[name](folder)
    limit_memory()
    for number in range(first, first + count):
        kind, content = target.case(number)
        sys.stdout.write(json.dumps([number, kind]) + "\n")
        sys.stdout.flush()
        before, start = peak(), time.process_time()
        found = outcome(target, kind, content)
        spent = time.process_time() - start
        result = {"found": found, "seconds": spent, "bytes": peak() - before, "size": len(content)}
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
