"""Train on the bundled pictures, draw the block-weight grid, and judge what was learned."""

import argparse
from pathlib import Path

from .. import session
from .console import STOPPED, Console, say, stop_on_signals


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop demo`."""
    parser.add_argument(
        "--output", type=Path, default=Path("lora-loop-demo"), help="folder (lora-loop-demo)"
    )
    parser.add_argument("--again", action="store_true", help="train anew, even if it is all there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")


def run(options: argparse.Namespace) -> int:
    """Run the demo, or show what an earlier run of it made."""
    from ..demo.run import fresh_folder, load_result, run_demo

    folder = options.output.expanduser().resolve()
    earlier = None if options.again else load_result(folder)
    if earlier is not None:
        say(earlier.text())
        say("This was made earlier and is still whole; train anew with --again.")
        return 0
    console = Console()
    try:
        with stop_on_signals() as wanted:
            device = session.pick_device(options.device)
            folder = fresh_folder(folder) if options.again else folder
            result = run_demo(folder, device, console, wanted.is_set)
    finally:
        console.close()
    if result is None:
        say("Stopped; run it again to go on.")
        return STOPPED
    say(result.text())
    return 0
