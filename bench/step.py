"""Our whole training step beside the bare U-Net, interleaved in one process.

    python bench/step.py --model sd15 --size 256 --precision fp32 --rounds 10

The bare U-Net is its forward pass and the gradient of its input, all weights frozen: what any
trainer of adapters must at least do. Our step is everything the loop does for one optimizer step:
draws, noisy latents, U-Net with adapters on its 192 layers, loss, backward, clipping, AdamW.
Both run with glibc's stock allocator and with the run's own setting (`memory.keep_memory`).
The medians and their ratio are printed and, with --output, written as JSON with the machine named.

What to expect: the arithmetic of a rank-16 update (forward and both gradients) is a few percent of
SD 1.5's U-Net, but 27 % of the embedded model's, whose layers are only 64 and 128 wide. That is why
its ratio is the higher one, although our blocks compute the base itself quicker than diffusers do.
"""

import argparse
import copy
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "embedded": {"block_out_channels": (64, 64, 128, 128), "cross_attention_dim": 96},
    "sd15": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
POOLED = {"sdxl": 1280}  # the width of the pooled text, for those that take one
WARM_UP = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_package() -> None:
    """Make the repository importable as lora_loop when it is not installed."""
    if "lora_loop" in sys.modules or importlib.util.find_spec("lora_loop") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "lora_loop", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["lora_loop"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["lora_loop"])


def make_unet(model: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """A randomly initialised, frozen U-Net of the model's shape, as diffusers makes it.

    With the quicker of diffusers' two attentions: plain products for the embedded model's small
    heads on the CPU, torch's fused kernel elsewhere.
    """
    import diffusers
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    torch.manual_seed(0)
    network: Any = diffusers
    with device:
        unet = network.UNet2DConditionModel(**{"attention_head_dim": 8, **SHAPES[model]})
    unet.requires_grad_(False).eval().to(device=device, dtype=dtype)
    plain = device.type == "cpu" and model == "embedded"
    unet.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())
    return unet


def as_ours(unet: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The same U-Net over the same weights, set up as our reader of checkpoints does."""
    from lora_loop.core.models import build
    from lora_loop.core.models.unet_blocks import use_lean_modules

    own = copy.deepcopy(unet, {id(p): p for p in unet.parameters()})
    use_lean_modules(own)
    build.use_quick_attention(own, device)
    build.use_quick_layout(own, device, own_weights=True)
    return own


def bare_step(unet: Any, options: argparse.Namespace, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and gradient of the input."""
    device = next(unet.parameters()).device
    size, batch = options.size, options.batch
    latents = torch.randn(batch, 4, size // 8, size // 8, device=device, dtype=dtype)
    context = torch.randn(batch, 77, unet.config.cross_attention_dim, device=device, dtype=dtype)
    timestep = torch.randint(0, 1000, (batch,), device=device)
    pooled = torch.randn(batch, POOLED.get(options.model, 0), device=device, dtype=dtype)
    added = {"text_embeds": pooled, "time_ids": torch.zeros(batch, 6, device=device)}

    def step() -> None:
        x = latents.detach().requires_grad_(True)
        unet(x, timestep, context, added_cond_kwargs=added, return_dict=False)[0].sum().backward()

    return step


def our_step(unet: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """The real trainer, and the network to attach for its steps.

    In the U-Net's own dtype.
    """
    from lora_loop.core.adapters.network import Network
    from lora_loop.core.adapters.targets import find_targets
    from lora_loop.core.config.recipe import (
        DatasetConfig,
        MemoryConfig,
        NetworkConfig,
        Recipe,
        TrainingConfig,
    )
    from lora_loop.core.train.precision import precision_of
    from lora_loop.core.train.trainer import Trainer, TrainingData

    dtype = unet.conv_in.weight.dtype
    size, batch, rank = options.size, options.batch, options.rank
    config = NetworkConfig(rank=rank, alpha=rank, text_encoder=False)
    recipe = Recipe(
        dataset=DatasetConfig(folder="."),
        network=config,
        training=TrainingConfig(batch_size=batch),
        memory=MemoryConfig(cuda_graphs=not options.no_graphs),
    )
    network = Network.create(find_targets({"unet": unet}), config, seed=0)
    shape = (4, size // 8, size // 8)
    indices = SimpleNamespace(indices=tuple(range(batch)))
    context = torch.randn(77, unet.config.cross_attention_dim, dtype=dtype)
    width = POOLED.get(options.model)
    pooled = None if width is None else torch.randn(width, dtype=dtype)
    data = TrainingData(
        batches=SimpleNamespace(steps=10**6, of_step=lambda _step: (indices,)),  # type: ignore[arg-type]
        latents=[(torch.randn(shape), torch.rand(shape)) for _ in range(batch)],
        captions=["a"] * batch,
        conditions={"a": (context, pooled)},
        time_ids=torch.zeros(batch, 6),
    )

    def predict(xt: Any, timestep: Any, condition: Any, sizes: Any) -> Any:
        added = {"text_embeds": condition.pooled, "time_ids": sizes}
        context = condition.context
        return unet(xt.to(dtype), timestep, context, added_cond_kwargs=added, return_dict=False)[0]

    base = SimpleNamespace(
        unet=unet,
        predict=predict,
        device=next(unet.parameters()).device,
        prediction="epsilon",
        zero_terminal_snr=False,
    )
    precision = precision_of(dtype)
    trainer = Trainer(base, network, data, recipe, precision)  # type: ignore[arg-type]
    return trainer, network


def timed(step: Callable[[], Any]) -> float:
    """Seconds of one call, the device's queue emptied before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


SETTINGS = {"stock allocator": False, "memory.keep_memory": True}
Rows = dict[str, dict[str, list[float]]]


def peak(step: Callable[[], Any], weights: int) -> float:
    """MiB that calls take on the GPU beside the weights' bytes, the recording of one included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP + 1):
        timed(step)
    return (torch.cuda.max_memory_reserved() - weights) / 2**20


def measure(options: argparse.Namespace) -> tuple[Rows, dict[str, float]]:
    """Seconds of every call, by allocator setting and variant; all of them take turns.

    The settings change places twice, so that a machine that slows down hits both. And the peaks of
    memory, on a GPU.
    """
    from lora_loop.core.train.allocator import kept_memory

    dtype = DTYPES[options.precision]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unet = make_unet(options.model, dtype, device)
    bare = bare_step(unet, options, dtype)
    own = as_ours(unet, device)
    trainer, network = our_step(own, options)
    ours = trainer.advance

    rows: Rows = {name: {"bare": [], "ours": []} for name in SETTINGS}
    peaks: dict[str, float] = {}
    with network.attached({"unet": own}), network.training(), trainer.recording():
        if device.type == "cuda":
            weights = torch.cuda.memory_allocated()
            peaks = {"bare": peak(bare, weights), "ours": peak(ours, weights)}
        for name in (*SETTINGS, *reversed(SETTINGS)):
            with kept_memory(SETTINGS[name]):
                for _ in range(WARM_UP):
                    timed(bare)
                    timed(ours)
                for _ in range((options.rounds + 1) // 2):
                    rows[name]["bare"].append(timed(bare))
                    rows[name]["ours"].append(timed(ours))
    return rows, peaks


def summary(rows: dict[str, list[float]]) -> dict[str, float]:
    """Medians, and the median ratio of neighbours in time."""
    result = {name: statistics.median(times) for name, times in rows.items()}
    pairs = zip(rows["ours"], rows["bare"], strict=True)
    result["ratio"] = statistics.median(ours / bare for ours, bare in pairs)
    return result


def processor_name() -> str:
    """The CPU's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=SHAPES, default="embedded")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--size", type=int, default=64, help="pixels, a multiple of 64")
    parser.add_argument("--batch", type=int, help="default: 8 for embedded, as its demo trains; 1")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--no-graphs", action="store_true", help="on a GPU: call by call")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="append the result to this JSON-lines file")
    options = parser.parse_args(argv)
    if options.batch is None:
        options.batch = 8 if options.model == "embedded" else 1
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and append to a file of results."""
    options = parse(argv)
    load_package()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    record: dict[str, Any] = {
        "machine": f"{device}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        **{
            k: getattr(options, k)
            for k in ("model", "precision", "size", "batch", "rank", "rounds", "no_graphs")
        },
    }
    print(json.dumps(record))
    measured, peaks = measure(options)
    for name, rows in measured.items():
        record[name] = row = summary(rows)
        print(
            f"{name:20} bare {row['bare']:.3f} s   ours {row['ours']:.3f} s   "
            f"ratio {row['ratio']:.3f}"
        )
    shipped = record["memory.keep_memory"]["ours"] / record["stock allocator"]["bare"]
    record["ours as shipped / bare as found"] = shipped
    print(f"ours as shipped beside the bare U-Net with the stock allocator: {shipped:.3f}")
    if peaks:
        record["MiB"] = peaks
        print(
            f"peak above the weights: bare {peaks['bare']:.0f} MiB   ours {peaks['ours']:.0f} MiB"
        )
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
