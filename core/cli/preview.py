"""Draw a grid with a trained LoRA: block-weight presets x prompts, or any axes."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import session
from ..config.recipe import BaseConfig, MemoryConfig, PreviewConfig
from ..errors import ConfigError, FileError
from ..files.atomic import refuse_existing
from ..models.text import TextOptions
from ..models.tokenizer import ROOM
from ..preview.axes import AXES, Axis, XYZRequest
from ..preview.grid import GridRequest
from ..preview.record import GridRecord
from ..preview.sampling import DrawSettings, Prompt
from ..preview.table import Table
from .console import STOPPED, Console, say_finding, stop_on_signals

_AXES = "\n".join(f"  {kind}: {words.help.en}" for kind, words in AXES.items() if kind != "none")
EPILOG = f"""Axes: --x KIND ENTRY [ENTRY ...]; --x goes across, --y down, --z from page to page.
{_AXES}
For example: lora-loop preview LORA --prompt momo --x blocks IN04-IN08 M00 OUT03 --y values 0 0.5 1
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop preview`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "network", type=Path, nargs="?", help="the LoRA, a .safetensors file (see --repeat)"
    )
    add_base_options(parser)
    add_drawing_options(parser)
    parser.add_argument(
        "--weights",
        action="append",
        default=None,
        metavar="PRESET|VECTOR|RANGES",
        help="a column: NOFACE, 1,0,...,1 or 'IN04-IN08=0.5'; may be given repeatedly. With axes: "
        f"where they start from (default: {', '.join(PreviewConfig().presets)}; with axes ALL)",
    )
    for name in "xyz":
        parser.add_argument(f"--{name}", nargs="+", metavar=("KIND", "ENTRY"), help="an axis")
    parser.add_argument("--value", type=float, default=0.0, help="for a blocks axis alone (0)")
    parser.add_argument("--unet", type=float, default=1.0, help="strength of the U-Net's blocks")
    parser.add_argument("--text-encoder", type=float, default=1.0, help="strength of BASE")
    parser.add_argument(
        "--no-compare", action="store_true", help="with axes: no base picture, no heat maps"
    )
    parser.add_argument(
        "--repeat",
        type=Path,
        metavar="GRID.png",
        help="draw a grid again from what its PNG says; without NETWORK, with the file of the "
        "grid's network beside the PNG",
    )
    parser.add_argument("--output", type=Path, help="PNG to write (NETWORK-grid.png)")
    parser.add_argument(
        "--html", action="store_true", help="write a page too that compares the cells (OUTPUT.html)"
    )
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="of the grid")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how pictures are drawn."""
    defaults = PreviewConfig()
    parser.add_argument("--prompt", action="append", default=None, help="may be given repeatedly")
    parser.add_argument("--negative-prompt", default=defaults.negative_prompt)
    parser.add_argument("--sampler", default=defaults.sampler)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--guidance", type=float, default=defaults.guidance)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--width", type=int, default=0, help="pixels; 0: the base model's own")
    parser.add_argument("--height", type=int, default=0, help="pixels; 0: the base model's own")
    parser.add_argument(
        "--prompt-tokens", type=int, choices=(75, 150, 225), default=75, help="read of each prompt"
    )
    parser.add_argument("--weighted", action="store_true", help="read (brackets:1.2) as weights")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="pictures drawn together: quicker, more memory"
    )


def drawing_settings(options: argparse.Namespace, **more: Any) -> PreviewConfig:
    """What `add_drawing_options` stands for, checked."""
    return PreviewConfig(
        prompts=tuple(options.prompt or ()),
        negative_prompt=options.negative_prompt,
        sampler=options.sampler,
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        width=options.width,
        height=options.height,
        **more,
    )


def draw_settings(options: argparse.Namespace, settings: PreviewConfig) -> DrawSettings:
    """How the pictures are drawn: settings, and how prompts are read."""
    chunks = options.prompt_tokens // ROOM
    text = TextOptions(clip_skip=options.clip_skip, chunks=chunks, weighted=options.weighted)
    return replace(DrawSettings.of(settings, text), batch_size=options.batch_size)


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which base model a network is used on."""
    parser.add_argument(
        "--checkpoint", default="embedded", help="the base model's file (the embedded one)"
    )
    parser.add_argument("--vae", default="", help="a VAE to take instead of the base model's own")
    parser.add_argument("--clip-skip", type=int, default=1)
    parser.add_argument("--prediction", choices=("auto", "epsilon", "v"), default="auto")
    parser.add_argument("--zero-terminal-snr", choices=("auto", "yes", "no"), default="auto")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")


def base_settings(options: argparse.Namespace) -> tuple[BaseConfig, MemoryConfig]:
    """The settings that `add_base_options` stands for, checked."""
    return (
        BaseConfig(
            checkpoint=options.checkpoint,
            vae=options.vae,
            clip_skip=options.clip_skip,
            prediction=options.prediction,
            zero_terminal_snr=options.zero_terminal_snr,
        ),
        MemoryConfig(precision=options.precision),
    )


def run(options: argparse.Namespace) -> int:
    """Load the base model and the network, draw, write the grid."""
    console = Console()
    try:
        with stop_on_signals() as wanted:
            record = session.read_grid(options.repeat) if options.repeat else None
            file = _network_file(options, record)
            request = _request(options, file) if record is None else _again(record.table, file)
            output = options.output or session.grid_path(file)
            page = output.with_suffix(".html") if options.html else None
            for path in filter(None, (output, page)):
                if not options.overwrite:
                    refuse_existing(path)
            base_config, memory = base_settings(options)
            base = session.open_base(base_config, memory, session.pick_device(options.device))
            network = session.open_network(base, file)
            for finding in record.findings(base, network) if record else ():
                say_finding(finding)
            grid = session.preview(base, network, request, console, wanted.is_set)
            console.close()
            if not any(cell for part in grid.pages for line in part.cells for cell in line):
                return STOPPED
            session.write_grid(grid, output, console, overwrite=options.overwrite)
            if page is not None:
                session.write_grid_page(grid, page, console, overwrite=options.overwrite)
            return STOPPED if grid.stopped else 0
    finally:
        console.close()


def _network_file(options: argparse.Namespace, record: GridRecord | None) -> Path:
    if options.network is not None:
        return options.network
    if record is None:
        raise ConfigError("preview needs the LoRA's file: lora-loop preview LORA.safetensors")
    name = record.table.network_name
    path = options.repeat.with_name(f"{name}.safetensors")
    if not name or not path.is_file():
        raise FileError(
            f"the network of {options.repeat} ({name or 'without a name'}) is not beside it; name "
            "its file: lora-loop preview LORA.safetensors --repeat ..."
        )
    return path


def _again(table: Table, file: Path) -> Table:
    """The table of a grid's PNG, its other networks looked for beside this one's file."""
    return replace(
        table,
        cells=tuple(
            tuple(
                tuple(
                    replace(cell, network=str(file.with_name(cell.network)))
                    if cell.network
                    else cell
                    for cell in row
                )
                for row in page
            )
            for page in table.cells
        ),
    )


def _request(options: argparse.Namespace, file: Path) -> GridRequest | XYZRequest:
    x, y, z = axes = [_axis(name, getattr(options, name)) for name in "xyz"]
    over_axes = any(axis.kind != "none" for axis in axes)
    weights = tuple(options.weights or (("ALL",) if over_axes else PreviewConfig().presets))
    settings = drawing_settings(options, presets=weights)
    session.check_preview(file, settings)
    drawing = draw_settings(options, settings)
    prompts = tuple(Prompt(text, settings.negative_prompt) for text in settings.prompts)
    if not over_axes:
        if not prompts:
            raise ConfigError("preview needs --prompt, at least once")
        return GridRequest(
            prompts=prompts,
            presets=weights,
            settings=drawing,
            network_name=file.stem,
            language=options.language,
        )
    for name, given in (("--prompt", prompts), ("--weights", weights)):
        if len(given) > 1:
            raise ConfigError(
                f"{name} is given {len(given)} times beside axes; give it once, or make them an "
                f"axis: --y {name.strip('-')} ..."
            )
    return XYZRequest(
        x=x,
        y=y,
        z=z,
        prompt=prompts[0] if prompts else Prompt("", settings.negative_prompt),
        weights=weights[0],
        value=options.value,
        unet=options.unet,
        text_encoder=options.text_encoder,
        settings=drawing,
        network_name=file.stem,
        compare=not options.no_compare,
        language=options.language,
    )


def _axis(name: str, given: list[str] | None) -> Axis:
    if not given:
        return Axis()
    for kind in AXES:
        if kind == given[0] != "none":
            return Axis(kind, tuple(given[1:]))
    kinds = ", ".join(known for known in AXES if known != "none")
    raise ConfigError(f"--{name} {given[0]}: there is no such axis; there are {kinds}")
