"""Side by side with ComfyUI's own TrainLoraNode: one model, the same pictures, the same settings.

COMFYUI_PYTHON bench/comfy_native.py COMFYUI [--steps 40] [--rounds 3] [--side 64]

Each side runs in a process of its own, in turn, in ComfyUI's own executor. Both train the U-Net at
rank 8 in fp32 with batch 1 and AdamW, without checkpointing; ours leaves the text encoder alone,
which the native node never trains. The native node adapts every weight and bias, ours the layers
that LoRA files hold.
"""

import argparse
import asyncio
import importlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
RANK, RATE = 8, 1e-4


def helper() -> Any:
    """What the tests on the real host drive it with."""
    sys.path.append(str(REPOSITORY / "tests" / "hosts"))
    return importlib.import_module("comfyui_nodes")


def square_pictures(folder: Path, side: int) -> None:
    """All pictures as squares of one size: the native node takes no others."""
    from PIL import Image

    for path in sorted(folder.glob("*.[pj][np]g")):
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        path.unlink()
        small.save(path.with_suffix(".png"))


def ours(runner, steps: int, side: int):
    """Our two nodes."""
    return {
        "2": runner.node("LoraLoopLoadDataset", folder="momo", resolution=side),
        "8": runner.node("LoraLoopNetworkOptions", text_encoder=False),
        "9": runner.node("LoraLoopMemoryOptions", precision="fp32", options=["8", 0]),
        "3": runner.node(
            "LoraLoopTrainLoRA",
            model=["1", 0],
            clip=["1", 1],
            vae=["1", 2],
            dataset=["2", 0],
            options=["9", 0],
            rank=RANK,
            alpha=1.0,
            unet_lr=RATE,
            max_steps=steps,
            start="restart",
        ),
    }


def native(runner, steps: int):
    """ComfyUI's three nodes."""
    return {
        "2": runner.node(
            "LoadImageTextSetFromFolderNode", folder="momo", clip=["1", 1], resize_method="None"
        ),
        "4": runner.node("VAEEncode", pixels=["2", 0], vae=["1", 2]),
        "3": runner.node(
            "TrainLoraNode",
            model=["1", 0],
            latents=["4", 0],
            positive=["2", 1],
            batch_size=1,
            steps=steps,
            learning_rate=RATE,
            rank=RANK,
            optimizer="AdamW",
            loss_function="MSE",
            training_dtype="fp32",
            lora_dtype="fp32",
            algorithm="LoRA",
            gradient_checkpointing=False,
            existing_lora="[None]",
        ),
        "5": runner.node("Keep", what=["3", 1], name="lora"),
    }


def peak_bytes() -> int:
    """The most memory that this process ever held (Linux)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) * 1024


def one_side(which: str, host: str, folder: Path, steps: int, side: int) -> dict:
    """Train once; seconds for each step, to the first, and bytes above the loaded model."""
    tests = helper()
    sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(folder)]
    sys.path.insert(0, host)
    import comfy.options

    comfy.options.enable_args_parsing()
    importlib.import_module("utils.extra_config")  # before nodes, which put another `utils` first
    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    runner = tests.Runner(loop)
    extra = str(Path(host) / "comfy_extras" / "nodes_train.py")
    loop.run_until_complete(nodes.load_custom_node(extra, module_parent="comfy_extras"))
    loop.run_until_complete(nodes.load_custom_node(str(REPOSITORY)))
    nodes.NODE_CLASS_MAPPINGS["Keep"] = tests.Keep
    loader = {"1": runner.node("CheckpointLoaderSimple", ckpt_name="thin.safetensors")}
    runner.run({**loader, **tests.sampled(runner, ["1", 0], ["1", 1])})
    before = peak_bytes()
    moments: list[Moment] = []
    listen(which, moments)
    graph = ours(runner, steps, side) if which == "ours" else native(runner, steps)
    began = time.monotonic()
    ended = runner.run({**loader, **graph})
    assert [name for name, _ in ended] == ["execution_success"], ended
    pairs = list(itertools.pairwise(moments))
    return {
        "step": statistics.median(later.wall - earlier.wall for earlier, later in pairs),
        "cpu": statistics.median(later.cpu - earlier.cpu for earlier, later in pairs),
        "first": moments[0].wall - began,
        "whole": time.monotonic() - began,
        "peak": peak_bytes() - before,
    }


class Moment(NamedTuple):
    """Seconds by the clock, and seconds that all threads of the process have worked."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Moment":
        """This one."""
        return cls(time.monotonic(), time.process_time())


def listen(which: str, moments: list[Moment]) -> None:
    """Note the moment at which each step ends."""
    if which == "ours":
        trainer = next(m for name, m in sys.modules.items() if name.endswith(".core.train.trainer"))
        whole = trainer.Trainer.advance

        def advance(self):
            loss = whole(self)
            moments.append(Moment.now())
            return loss

        trainer.Trainer.advance = advance
        return
    # by name: torch has modules with whatever attribute they are asked for
    train = next(m for name, m in sys.modules.items() if "nodes_train" in name)

    class Bar:
        """tqdm's place: an iteration's end is the next one's beginning."""

        def __init__(self, steps):
            self._steps = steps

        def __iter__(self):
            for step in range(self._steps):
                yield step
                moments.append(Moment.now())

        def set_postfix(self, *_values, **_named):
            """Shown nowhere."""

    train.tqdm.trange = lambda steps, **_named: Bar(steps)


def main() -> None:
    """Run both sides in turn and print a table."""
    parser = argparse.ArgumentParser(description="Side by side with ComfyUI's own TrainLoraNode.")
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--run", choices=("ours", "native"))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.run:
        found = one_side(
            options.run, str(options.comfyui), options.folder, options.steps, options.side
        )
        (options.folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
        return
    rows: dict[str, list[dict]] = {"ours": [], "native": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        helper().make_inputs(REPOSITORY, folder)
        square_pictures(folder / "input" / "momo", options.side)
        for _ in range(options.rounds):
            for side, found in rows.items():
                shutil.rmtree(folder / "output")
                (folder / "output").mkdir()
                command = [sys.executable, __file__, str(options.comfyui), "--run", side]
                command += ["--folder", str(folder), "--steps", str(options.steps)]
                command += ["--side", str(options.side)]
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{side} failed:\n{done.stderr[-4000:]}")
                found.append(json.loads((folder / "found.json").read_text(encoding="utf-8")))
    print(f"{options.steps} steps, {options.side} px, rank {RANK}, fp32, {options.rounds} rounds")
    print("side    s/step   CPU s/step   first step   whole graph   memory above the loaded model")
    for side, found in rows.items():
        step, cpu, first, whole, peak = (
            statistics.median(one[key] for one in found)
            for key in ("step", "cpu", "first", "whole", "peak")
        )
        print(
            f"{side:<7} {step:6.3f} {cpu:12.3f} {first:10.1f} s {whole:11.1f} s "
            f"{peak / 2**20:12.0f} MiB"
        )


if __name__ == "__main__":
    main()
