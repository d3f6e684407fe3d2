"""Fold block weights into a plain LoRA file that any tool loads."""

import argparse
from pathlib import Path

from .. import session
from .console import readable_bytes, say, say_finding


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop bake`."""
    parser.add_argument(
        "network", type=Path, help="the network, a .safetensors file of any LoRA or LyCORIS kind"
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="PRESET|VECTOR|RANGES",
        help="NOFACE, 1,0,...,1 or 'IN04-IN08=0.5, OUT03=0'; after a semicolon rules for elements, "
        "as in 'ALL; OUT03-OUT05:attn2:0'",
    )
    parser.add_argument("--unet", type=float, default=1.0, help="strength of the U-Net's part (1)")
    parser.add_argument("--text-encoder", type=float, default=1.0, help="the text encoder's (1)")
    parser.add_argument(
        "--form",
        choices=("lora", "same", "diff"),
        default="lora",
        help="lora: for every tool; same: each layer's own kind; diff: whole deltas, exact and "
        "large (lora)",
    )
    parser.add_argument(
        "--rank",
        type=int,
        default=0,
        help="largest rank; 0 keeps factors whole and 99.9 %% of what has none (0)",
    )
    parser.add_argument(
        "--checkpoint", default="", help="the base model; needed for DoRA, IA3, GLoRA and OFT"
    )
    parser.add_argument(
        "--dylora-rank", type=int, default=0, help="how many components of a DyLoRA to use (all)"
    )
    parser.add_argument("--seed", type=int, default=1, help="for R and U among the weights (1)")
    add_file_options(parser, "file to write (NETWORK-PRESET.safetensors)")


def add_file_options(parser: argparse.ArgumentParser, output: str) -> None:
    """The options of whatever writes a network file."""
    parser.add_argument("--output", type=Path, help=output)
    parser.add_argument(
        "--precision", choices=("fp16", "bf16", "fp32"), default="", help="(as the file has it)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def say_baked(baked: session.Baked) -> None:
    """Say what was written, and what its user should know."""
    for finding in baked.findings:
        say_finding(finding)
    written = baked.file
    say(f"wrote {written.path}: {written.modules} modules, {readable_bytes(written.bytes)}")


def run(options: argparse.Namespace) -> int:
    """Read, fold, write, read back and check."""
    bake = session.Bake(
        weights=options.weights,
        unet=options.unet,
        text_encoder=options.text_encoder,
        form=options.form,
        rank=options.rank,
        checkpoint=options.checkpoint,
        precision=options.precision,
        dylora_rank=options.dylora_rank,
        seed=options.seed,
    )
    say_baked(session.bake_file(options.network, bake, options.output, overwrite=options.overwrite))
    return 0
