"""Keep presets of block weights of your own, in a file that other tools read too."""

import argparse
from pathlib import Path

from .. import session
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop presets`."""
    parser.add_argument(
        "--book",
        type=Path,
        default=Path("block-presets.txt"),
        help="the file that your presets are in (block-presets.txt)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what has the same name")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="your presets and the built-in ones")
    listed.add_argument("--family", choices=("sd1", "sd2", "sdxl"), default="sd1")
    save = actions.add_parser("save", help="keep a preset")
    save.add_argument("name")
    save.add_argument("weights", help="a vector, or blocks as in 'IN04-IN08=0.5, OUT03=0'")
    rename = actions.add_parser("rename", help="give a preset another name")
    rename.add_argument("name")
    rename.add_argument("new")
    delete = actions.add_parser("delete", help="forget a preset")
    delete.add_argument("name")
    take = actions.add_parser("import", help="take over the presets of a file (lbwpresets.txt)")
    take.add_argument("file", type=Path)
    share = actions.add_parser("share", help="write your presets as a file for others")
    share.add_argument("file", type=Path)
    share.add_argument("names", nargs="*", help="which ones; all where none is named")


def run(options: argparse.Namespace) -> int:
    """Do one of the actions."""
    book = session.PresetBook(options.book)
    if options.action == "list":
        own = book.presets()
        for name in book.names(options.family):
            say(f"{name}: {own[name]}" if name in own else name)
    elif options.action == "save":
        book.save(options.name, options.weights, overwrite=options.overwrite)
    elif options.action == "rename":
        book.rename(options.name, options.new)
    elif options.action == "delete":
        book.delete(options.name)
    elif options.action == "import":
        for skipped in book.add_file(options.file, overwrite=options.overwrite):
            say(f"skipped {skipped}")
        say(f"{len(book.presets())} presets are in {book.path}")
    else:
        book.share(options.file, tuple(options.names), overwrite=options.overwrite)
        say(f"wrote {options.file}")
    return 0
