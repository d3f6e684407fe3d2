"""Give a network other ranks, by what each layer's change really consists of."""

import argparse
from pathlib import Path

from .. import session
from .bake import add_file_options, say_baked


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop resize`."""
    parser.add_argument("network", type=Path, help="the network's file")
    add_rank_options(parser)
    parser.add_argument(
        "--checkpoint", default="", help="the base model; needed for DoRA, IA3, GLoRA and OFT"
    )
    add_file_options(parser, "file to write (NETWORK-resized.safetensors)")


def add_rank_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which ranks layers get."""
    parser.add_argument("--rank", type=int, default=32, help="the largest rank of a layer (32)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--ratio", type=float, help="keep singular values over the largest / this")
    chosen.add_argument(
        "--cumulative", type=float, help="keep this part (0 to 1) of the sum of singular values"
    )
    chosen.add_argument(
        "--frobenius", type=float, help="keep this part (0 to 1) of the norm of the change"
    )


def rank_rule(options: argparse.Namespace) -> session.RankRule:
    """What `add_rank_options` stands for, checked."""
    for kind in ("ratio", "cumulative", "frobenius"):
        value = getattr(options, kind)
        if value is not None:
            return session.RankRule(kind=kind, value=value, limit=options.rank)
    return session.RankRule(limit=options.rank)


def run(options: argparse.Namespace) -> int:
    """Read, decompose, write, read back and check."""
    say_baked(
        session.resize_file(
            options.network,
            rank_rule(options),
            options.output,
            checkpoint=options.checkpoint,
            precision=options.precision,
            overwrite=options.overwrite,
        )
    )
    return 0
