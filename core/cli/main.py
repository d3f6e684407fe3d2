"""The `lora-loop` command."""

import argparse
import io
import logging
import sys
from collections.abc import Mapping
from typing import Any

from ... import __version__
from ..errors import TrainerError
from . import (
    analyze,
    bake,
    caption,
    demo,
    extract,
    merge,
    presets,
    preview,
    recipe,
    report,
    resize,
    tag,
    train,
)
from .console import STOPPED, say

COMMANDS = {
    "train": train,
    "preview": preview,
    "analyze": analyze,
    "bake": bake,
    "merge": merge,
    "resize": resize,
    "extract": extract,
    "tag": tag,
    "presets": presets,
    "caption": caption,
    "report": report,
    "recipe": recipe,
    "demo": demo,
}
FAILED = 2


def make_parser(commands: Mapping[str, Any]) -> argparse.ArgumentParser:
    """All commands; each module of `commands` adds its own options and runs itself."""
    parser = argparse.ArgumentParser(
        prog="lora-loop",
        description="Train a LoRA, see what each block of it does, keep the version that is best.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in commands.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = parsers.add_parser(name, help=summary, description=summary)
        module.add_options(command)
    return parser


def main(argv: list[str] | None = None, more: Mapping[str, Any] | None = None) -> int:
    """Run one command. 0: done, 2: an error that was explained, 130: stopped by the user.

    more: modules of further commands by name, which the core itself does not know.
    """
    commands = COMMANDS | dict(more or {})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a legacy console must not fail on a caption
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options = make_parser(commands).parse_args(argv)
    try:
        return commands[options.command].run(options)
    except TrainerError as error:
        sys.stdout.flush()
        sys.stderr.write(f"lora-loop {options.command}: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        say("ended")
        return STOPPED
