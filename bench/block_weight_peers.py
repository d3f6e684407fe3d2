"""What other block weights for each picture cost: here, in lora-block-weight, in the Inspire pack.

    python bench/block_weight_peers.py --vectors 30 --steps 20 --side 64

The WebUI and ComfyUI with their extensions are named by WEBUI_DIR, LBW_DIR, COMFYUI_DIR and
INSPIRE_DIR. In each of the three programs the variants take turns, picture by picture: without a
network, with one whose block weights stay, with other block weights for each picture. The
processor's own time is counted, which other programs on the machine do not change. Every program
draws with a checkpoint of random weights, as thin as it allows, and a LoCon file that adapts all
of its layers: compare the ratios, not the seconds of different programs.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from step import load_package

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "momo"
Draw = Callable[[str, str, int], float]
"""Draws "plain", "one" or "many" with a vector and a seed; the processor's seconds it took."""


def main() -> None:
    """Measure all three, or be the part of it that runs in ComfyUI."""
    if sys.argv[1:2] == ["--in-comfyui"]:
        in_comfyui(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    load_package()
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        **{name: getattr(options, name) for name in ("vectors", "steps", "side")},
    }
    with tempfile.TemporaryDirectory() as folder:
        result["LoRA Loop"] = ours(Path(folder), options)
        result["lora-block-weight"] = lora_block_weight(Path(folder) / "webui", options)
        result["Inspire pack"] = inspire(Path(folder) / "comfyui", options)
    print(json.dumps(result, indent=1))
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def measure(draw: Draw, count: int) -> dict[str, float]:
    """Medians of the seconds of each variant, and their ratios."""
    chance = random.Random(0)
    vectors = [",".join(f"{chance.random():.2f}" for _ in range(26)) for _ in range(count + 1)]
    seconds: dict[str, list[float]] = {"plain": [], "one": [], "many": []}
    for kind in seconds:  # the first of each warms up
        draw(kind, vectors[0], 0)
    for number, vector in enumerate(vectors[1:], 1):
        seconds["plain"].append(draw("plain", "", number))
        draw("one", vectors[0], 0)  # it may have to come back from another vector, or from none
        seconds["one"].append(draw("one", vectors[0], number))
        seconds["many"].append(draw("many", vector, number))
    plain, one, many = (statistics.median(seconds[kind]) for kind in seconds)
    return {
        "plain_s": round(plain, 3),
        "one_over_plain": round(one / plain, 4),
        "many_over_one": round(many / one, 4),
        "many_over_plain": round(many / plain, 4),
    }


def ours(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Our previews, on the WebUI's checkpoint."""
    import torch

    from lora_loop.core import session
    from lora_loop.core.config.recipe import BaseConfig, MemoryConfig
    from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw
    from lora_loop.tests.core.models import make_checkpoint
    from lora_loop.tests.hosts.network_files import write_random

    torch.set_num_threads(1)
    checkpoint = make_checkpoint.write_sd1_checkpoint(
        folder / "thin.safetensors", shape=make_checkpoint.THIN, seed=0, dtype=torch.float32
    )
    file = write_random(checkpoint, folder / "net.safetensors", "lora")
    base = session.open_base(
        BaseConfig(checkpoint=str(checkpoint)), MemoryConfig(precision="fp32"), torch.device("cpu")
    )
    network = session.open_applied(base, file)

    def picture(kind: str, vector: str, seed: int) -> float:
        settings = DrawSettings(
            steps=options.steps, width=options.side, height=options.side, seed=seed
        )
        if kind == "plain":
            network.detach()
        elif not network.is_attached_to(base.parts):
            network.attach(base.parts)
        start = time.process_time()
        if vector:
            network.set_strength(block_weights=session.BlockWeights.parse(vector))
        draw(base, [Prompt(PROMPT)], settings)
        return time.process_time() - start

    return measure(picture, options.vectors)


def lora_block_weight(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The extension in the WebUI, through its API."""
    import shutil

    from lora_loop.tests.hosts.conftest import HostProgram
    from lora_loop.tests.hosts.network_files import write_random
    from lora_loop.tests.hosts.running import Running

    host = Path(os.environ["WEBUI_DIR"])
    python = Path(os.environ.get("WEBUI_PYTHON", host / "venv/bin/python"))
    own = shutil.copytree(os.environ["LBW_DIR"], folder / "lora-block-weight")
    running = Running("webui", HostProgram(host, python), folder, {"lora-block-weight": own})
    write_random(folder / "models/first.safetensors", folder / "loras/net.safetensors", "lora")

    def picture(kind: str, vector: str, seed: int) -> float:
        tag = "" if kind == "plain" else f" <lora:net:1:lbw={vector}>"
        start = running.seconds()
        running.picture(PROMPT + tag, options.side, options.steps, seed)
        return running.seconds() - start

    try:
        return measure(picture, options.vectors)
    finally:
        running.stop()


def inspire(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The pack in ComfyUI, in a process of its own."""
    host = Path(os.environ["COMFYUI_DIR"])
    python = os.environ.get("COMFYUI_PYTHON", str(host / "venv/bin/python"))
    found = folder.with_suffix(".json")
    numbers = [str(number) for number in (options.vectors, options.steps, options.side)]
    command = [python, str(Path(__file__).resolve()), "--in-comfyui", str(host), str(folder)]
    command += [os.environ["INSPIRE_DIR"], str(found), *numbers]
    subprocess.run(command, cwd=host, check=True, stdout=subprocess.DEVNULL)
    return json.loads(found.read_text(encoding="utf-8"))


def in_comfyui(host: str, folder: str, pack: str, found: str, *numbers: str) -> None:
    """Measure the pack's node; run by ComfyUI's Python."""
    vectors, steps, side = map(int, numbers)
    sys.path.append(str(ROOT / "tests" / "hosts"))
    from comfyui_kept import Host

    running = Host(host, ROOT, folder, pack)
    load_package()
    from lora_loop.core.adapters.block_weights import BlockWeights
    from lora_loop.core.adapters.inspire import inspire_vector, positions_of
    from lora_loop.core.files.adapter_file import read_adapters
    from lora_loop.tests.hosts.network_files import write_random

    file = write_random(running.checkpoint, running.loras / "net.safetensors", "lora")
    positions = positions_of(read_adapters(file).layers)

    def picture(kind: str, vector: str, seed: int) -> float:
        loader = None
        if kind != "plain":
            theirs = inspire_vector(BlockWeights.parse(vector, "sd1"), positions)
            loader = running.inspire(file.name, theirs)
        start = time.process_time()
        running.picture(loader, side=side, steps=steps, seed=seed)
        return time.process_time() - start

    Path(found).write_text(json.dumps(measure(picture, vectors)), encoding="utf-8")


if __name__ == "__main__":
    main()
