"""Write captions with a tagger or BLIP, or change those that are there by rules."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import session
from ..config.caption import CaptionConfig, caption_sections
from ..config.fields import Setting, describe
from ..config.mapping import from_mapping, to_mapping
from .console import STOPPED, Console, say, say_finding, stop_on_signals

MODELS = "~/.cache/lora-loop/captioners"
_MOST_TAGS = 60


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop caption`; each setting is one, with its group's words."""
    parser.add_argument("dataset", type=Path, help="folder of pictures, or of N_name folders")
    parser.add_argument("--config", type=Path, help="settings, a JSON file, overruled by options")
    parser.add_argument(
        "--models-folder",
        type=Path,
        action="append",
        help=f"folder in which models lie, may be given repeatedly ({MODELS})",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--tags", action="store_true", help="only list the tags that are there")
    parser.add_argument("--undo", action="store_true", help="take the last captioning back")
    for title, items in _settings():
        group = parser.add_argument_group(title)
        for item in items:
            _add_setting(group, item)


def _settings() -> Iterator[tuple[str, tuple[Setting, ...]]]:
    for section in caption_sections().values():
        yield section.TITLE.en, describe(section)  # pyright: ignore[reportAttributeAccessIssue]


def _add_setting(group: Any, item: Setting) -> None:
    """One option; left out, it is None and the settings file or the default holds."""
    name = f"--{item.name.replace('_', '-')}"
    words = f"{item.label.en}: {item.help.en}".replace("%", "%%")
    if item.type == "bool":
        group.add_argument(name, action=argparse.BooleanOptionalAction, help=words, default=None)
    elif item.type == "texts":
        group.add_argument(name, action="append", metavar="TEXT", help=f"{words} (repeatable)")
    elif item.type == "choice":
        group.add_argument(name, choices=tuple(item.choices), help=f"{words} ({item.default})")
    else:
        kinds: dict[str, type] = {"int": int, "float": float}
        group.add_argument(
            name,
            type=kinds.get(item.type, str),
            metavar="TEXT" if item.type == "str" else "NUMBER",
            help=f"{words} ({item.default})" if item.default != "" else words,
        )


def settings_of(options: argparse.Namespace) -> CaptionConfig:
    """The settings file with the options in its places, checked."""
    start = CaptionConfig() if options.config is None else CaptionConfig.load(options.config)
    mapping = to_mapping(start)
    for name, section in caption_sections().items():
        place = mapping if name == "caption" else mapping[name]
        for item in describe(section):
            given = getattr(options, item.name)
            if given is not None:
                place[item.name] = given
    return from_mapping(CaptionConfig, mapping, "caption")


def run(options: argparse.Namespace) -> int:
    """Caption; Ctrl+C stops after the batch and keeps what is written."""
    config = settings_of(options)
    if options.undo:
        return _show(session.undo_captions(options.dataset))
    if options.tags:
        return _list_tags(options.dataset, config)
    folders = options.models_folder or [Path(MODELS).expanduser()]
    console = Console()
    try:
        with stop_on_signals("the captions that are written are kept") as wanted:
            session.read_captions(options.dataset, config.caption_extension, config.recursive)
            captioner = session.open_captioner(config, folders, session.pick_device(options.device))
            report = session.caption(
                options.dataset, config, captioner, on_event=console, stop=wanted.is_set
            )
    finally:
        console.close()
    return _show(report)


def _show(report: session.CaptionReport) -> int:
    if report.dry_run and report.changes:
        say(report.diff())
    for finding in report.findings:
        say_finding(finding)
    say(report.summary())
    if report.stopped:
        say("Run the same command again to go on.")
        return STOPPED
    return 0


def _list_tags(folder: Path, config: CaptionConfig) -> int:
    captions = session.read_captions(folder, config.caption_extension, config.recursive)
    counts = captions.tags()
    for tag, count in list(counts.items())[:_MOST_TAGS]:
        say(f"{count:6,}  {tag}")
    if len(counts) > _MOST_TAGS:
        say(f"        and {len(counts) - _MOST_TAGS} more")
    without = sum(1 for item in captions.items if not item.text)
    say(f"{len(captions.items)} pictures, {without} without a caption, {len(counts)} tags")
    return 0
