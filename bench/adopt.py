"""Adopting a model that a host has in memory, beside reading the same model from its file.

    python bench/adopt.py --model sdxl --dtype fp16 --rounds 5 --output adopt.jsonl

The host is stood for by nested modules of inference tensors in a single file's names and the
model's true shapes, as ComfyUI and Forge hold theirs. Rounds of adopting and giving back take
turns; reading the file, into the same dtype, is done once at the end, when the host's model is
gone, with the file in the system's cache. All in one process with both libraries imported.

adopt: seconds until the base model is ready, the receipt's first half in it. adopt_busy: of these,
what the processor spent on it; where other programs compete, the difference is theirs. give_back:
the receipt's second half. glance: what is looked at every few seconds while training. grown: the
process's memory while adopted, in parts of the model's size.
"""

import argparse
import gc
import importlib.util
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
PIECE = 1 << 20  # random numbers that a model's weights repeat


def load(name: str, path: Path, **package: Any) -> ModuleType:
    """Import a module by its file."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path, **package)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def names_of(model: str, shapes: ModuleType) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a checkpoint's tensors."""
    return {
        "thin": lambda: list(shapes.sd1_names(shapes.THIN)),
        "sd15": lambda: list(shapes.sd1_names(shapes.FULL)),
        "sdxl": lambda: shapes.sdxl_names(shapes.FULL_SDXL, shapes.FULL_SDXL_TEXT),
    }[model]()


def make_host(names: list[tuple[str, tuple[int, ...]]], dtype: torch.dtype) -> torch.nn.Module:
    """Nested modules of inference tensors."""
    with torch.inference_mode():
        piece = torch.randn(PIECE, generator=torch.Generator().manual_seed(0)) * 0.02
        piece = piece.to(dtype)
        root = torch.nn.Module().eval()
        for name, size in names:
            *path, own = name.split(".")
            module = root
            for part in path:
                if part not in module._modules:  # noqa: SLF001
                    module.add_module(part, torch.nn.Module().eval())
                module = module.get_submodule(part)
            count = math.prod(size)
            weight = torch.empty(count, dtype=dtype)
            for start in range(0, count, PIECE):
                weight[start : start + PIECE] = piece[: count - start]
            weight = torch.nn.Parameter(weight.view(size), requires_grad=False)
            module.register_parameter(own, weight)
    return root


def resident() -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def adopt_once(session: ModuleType, host: torch.nn.Module) -> dict[str, float]:
    """Seconds of adopting, of a glance and of giving back; bytes that the process has grown by."""
    from lora_loop.core.config import BaseConfig, MemoryConfig

    live = session.LiveModel.of_checkpoint(host, session.LiveFacts(name="host"))
    gc.collect()
    held, busy, start = resident(), time.process_time(), time.perf_counter()
    lent = session.adopt(live, BaseConfig(), MemoryConfig(), torch.device("cpu"))
    base = lent.__enter__()
    ready, busy = time.perf_counter(), time.process_time() - busy
    grown = resident() - held
    base.loan.changes()
    looked = time.perf_counter()
    lent.__exit__(None, None, None)
    end = time.perf_counter()
    return {
        "adopt": ready - start,
        "adopt_busy": busy,
        "glance": looked - ready,
        "give_back": end - looked,
        "grown": grown,
    }


def read_once(path: Path, dtype: torch.dtype) -> float:
    """Seconds of reading a file into this dtype."""
    from lora_loop.core.models.base_model import load_base_model

    start = time.perf_counter()
    load_base_model(path, dtype=dtype, vae_dtype=dtype)
    return time.perf_counter() - start


def write_host(host: torch.nn.Module, path: Path) -> None:
    """Write a host's weights as its checkpoint, and let go of them."""
    from lora_loop.core.files.serialise import write_file as write

    with torch.inference_mode():
        write(path, dict(host.named_parameters()), {})


def machine() -> str:
    """The processor, as the system names it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = next((line for line in lines if line.startswith("model name")), ":")
    return found.partition(":")[2].strip() or platform.processor()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    package = {"submodule_search_locations": [str(ROOT)]}
    load("lora_loop", ROOT / "__init__.py", **package)
    from lora_loop.core import session

    shapes = load("make_checkpoint", ROOT / "tests/core/models/make_checkpoint.py")
    dtype = DTYPES[arguments.dtype]
    adopt_once(session, make_host(names_of("thin", shapes), dtype))
    host = make_host(names_of(arguments.model, shapes), dtype)
    size = sum(p.numel() * p.element_size() for p in host.parameters())
    rounds = [adopt_once(session, host) for _ in range(arguments.rounds)]
    sys.stderr.write(f"{rounds}\n")  # the file's part takes long, and as much of the disk
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "model.safetensors"
        write_host(host, path)
        del host
        gc.collect()
        read = read_once(path, dtype)
    seconds = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    grown = max(r["grown"] for r in rounds) / size
    return {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "model_bytes": size,
        **{key: round(value, 3) for key, value in seconds.items() if key != "grown"},
        "slowest_adopt": round(max(r["adopt"] for r in rounds), 3),
        "quickest_adopt": round(min(r["adopt"] for r in rounds), 3),
        "grown": round(grown, 5),
        "read_from_disk": round(read, 3),
        "rounds": arguments.rounds,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, print, and append to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=["thin", "sd15", "sdxl"], default="sdxl")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the model's file is written for a while")
    parser.add_argument("--output", type=Path, help="append the result here, one line of JSON")
    arguments = parser.parse_args()
    line = json.dumps(measure(arguments))
    print(line)
    if arguments.output is not None:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
