"""Fold block weights into a plain LoRA file that any tool loads."""

import argparse
from pathlib import Path

from .. import session
from .console import readable_bytes, say, say_finding


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop bake`."""
    parser.add_argument("network", type=Path, help="the LoRA, a .safetensors file")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="PRESET|VECTOR|RANGES",
        help="NOFACE, 1,0,...,1 or 'IN04-IN08=0.5, OUT03=0'",
    )
    parser.add_argument("--unet", type=float, default=1.0, help="strength of the U-Net's part (1)")
    parser.add_argument("--text-encoder", type=float, default=1.0, help="the text encoder's (1)")
    parser.add_argument("--output", type=Path, help="file to write (NETWORK-PRESET.safetensors)")
    parser.add_argument(
        "--precision", choices=("fp16", "bf16", "fp32"), default="", help="(as the file has it)"
    )
    parser.add_argument("--seed", type=int, default=1, help="for R and U among the weights (1)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(options: argparse.Namespace) -> int:
    """Read, fold, write, read back and check."""
    bake = session.Bake(
        weights=options.weights,
        unet=options.unet,
        text_encoder=options.text_encoder,
        precision=options.precision,
        seed=options.seed,
    )
    baked = session.bake_file(options.network, bake, options.output, overwrite=options.overwrite)
    for finding in baked.findings:
        say_finding(finding)
    written = baked.file
    say(f"wrote {written.path}: {written.modules} modules, {readable_bytes(written.bytes)}")
    return 0
