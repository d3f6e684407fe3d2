"""Make one LoRA of several, each with its own block weights, or fold them into a checkpoint."""

import argparse
from pathlib import Path

from .. import session
from ..errors import ConfigError
from .bake import add_file_options, say_baked
from .console import readable_bytes, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop merge`."""
    parser.add_argument("networks", nargs="+", type=Path, help="the networks' files")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="PRESET|VECTOR|RANGES",
        help="block weights of the first network, then of the second, ... (ALL)",
    )
    parser.add_argument(
        "--strength",
        action="append",
        type=float,
        default=[],
        help="strength of the first network, then of the second, ... (1)",
    )
    parser.add_argument(
        "--rank", type=int, default=0, help="0: exact, the ranks add up; else the best of that rank"
    )
    parser.add_argument("--into", default="", help="fold into this checkpoint instead")
    parser.add_argument(
        "--checkpoint", default="", help="the base model; needed for DoRA, IA3, GLoRA and OFT"
    )
    add_file_options(parser, "file to write; must be given")


def run(options: argparse.Namespace) -> int:
    """Read all, add up, write, read back and check."""
    count = len(options.networks)
    for name, given in (("--weights", options.weights), ("--strength", options.strength)):
        if len(given) > count:
            raise ConfigError(f"{name} is given {len(given)} times for {count} networks")
    if options.output is None:
        raise ConfigError("--output is missing; name the file to write")
    weights = [*options.weights, *["ALL"] * (count - len(options.weights))]
    strengths = [*options.strength, *[1.0] * (count - len(options.strength))]
    merges = [
        session.Merge(path=path, bake=session.Bake(weights=text, unet=value, text_encoder=value))
        for path, text, value in zip(options.networks, weights, strengths, strict=True)
    ]
    if options.into:
        folded = session.fold_files(
            options.into,
            merges,
            options.output,
            precision=options.precision,
            overwrite=options.overwrite,
        )
        say(f"wrote {folded.path}: {readable_bytes(folded.bytes)}, sha256 {folded.sha256}")
        return 0
    say_baked(
        session.merge_files(
            merges,
            options.output,
            rank=options.rank,
            checkpoint=options.checkpoint,
            precision=options.precision,
            overwrite=options.overwrite,
        )
    )
    return 0
