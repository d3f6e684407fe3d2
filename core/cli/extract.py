"""Make a LoRA of the difference between two checkpoints."""

import argparse

from .. import session
from ..errors import ConfigError
from .bake import add_file_options, say_baked
from .resize import add_rank_options, rank_rule


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop extract`."""
    parser.add_argument("tuned", help="the changed checkpoint")
    parser.add_argument("base", help="the checkpoint that it was made from")
    add_rank_options(parser)
    parser.add_argument(
        "--conv-rank",
        type=int,
        default=0,
        help="rank for the layers between the transformers; 0 leaves them out (0)",
    )
    add_file_options(parser, "file to write; must be given")


def run(options: argparse.Namespace) -> int:
    """Read both, decompose what differs, write, read back and check."""
    if options.output is None:
        raise ConfigError("--output is missing; name the file to write")
    say_baked(
        session.extract_file(
            options.tuned,
            options.base,
            options.output,
            rank_rule(options),
            conv_rank=options.conv_rank,
            precision=options.precision or "fp16",
            overwrite=options.overwrite,
        )
    )
    return 0
