"""Write the prompt's tag of a network with block weights, for the tool where it is used."""

import argparse
from pathlib import Path

from .. import session
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop tag`."""
    parser.add_argument("network", type=Path, help="the network's file")
    parser.add_argument("--weights", default="", metavar="PRESET|VECTOR|RANGES")
    parser.add_argument("--elements", default="", help="rules, as in OUT03-OUT05:attn2:0.5")
    parser.add_argument("--unet", type=float, default=1.0, help="strength of the U-Net's part (1)")
    parser.add_argument("--text-encoder", type=float, default=1.0, help="the text encoder's (1)")
    parser.add_argument(
        "--dialect",
        choices=("lbw", "positional", "inspire"),
        default="lbw",
        help="lbw: lora-block-weight; positional: its old form; inspire: the Inspire pack (lbw)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the tag."""
    tag = session.Tag(
        name=options.network.stem,
        text_encoder=options.text_encoder,
        unet=options.unet,
        weights=options.weights,
        elements=options.elements,
    )
    say(session.tag_for(options.network, tag, options.dialect))
    return 0
