"""Draw a grid of block-weight presets x prompts with a trained LoRA."""

import argparse
from pathlib import Path

from .. import session
from ..config.recipe import BaseConfig, MemoryConfig, PreviewConfig
from ..files.atomic import refuse_existing
from ..models.text import TextOptions
from ..models.tokenizer import ROOM
from ..preview.grid import GridRequest
from ..preview.sampling import DrawSettings, Prompt
from .console import STOPPED, Console, stop_on_signals


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop preview`."""
    add_base_options(parser)
    defaults = PreviewConfig()
    parser.add_argument("network", type=Path, help="the LoRA, a .safetensors file")
    parser.add_argument("--prompt", action="append", required=True, help="may be given repeatedly")
    parser.add_argument("--negative-prompt", default=defaults.negative_prompt)
    parser.add_argument(
        "--weights",
        action="append",
        default=None,
        metavar="PRESET|VECTOR|RANGES",
        help="a column: NOFACE, 1,0,...,1 or 'IN04-IN08=0.5'; may be given repeatedly "
        f"(default: {', '.join(defaults.presets)})",
    )
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
    parser.add_argument("--output", type=Path, help="PNG to write (NETWORK-grid.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which base model a network is used on."""
    parser.add_argument(
        "--checkpoint", default="embedded", help="the base model's file (the embedded one)"
    )
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
            clip_skip=options.clip_skip,
            prediction=options.prediction,
            zero_terminal_snr=options.zero_terminal_snr,
        ),
        MemoryConfig(precision=options.precision),
    )


def run(options: argparse.Namespace) -> int:
    """Load the base model and the network, draw, write the grid."""
    settings = PreviewConfig(
        prompts=tuple(options.prompt),
        negative_prompt=options.negative_prompt,
        presets=tuple(options.weights or PreviewConfig().presets),
        sampler=options.sampler,
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        width=options.width,
        height=options.height,
    )
    base_config, memory = base_settings(options)
    chunks = options.prompt_tokens // ROOM
    text = TextOptions(clip_skip=options.clip_skip, chunks=chunks, weighted=options.weighted)
    output = options.output or session.grid_path(options.network)
    console = Console()
    try:
        with stop_on_signals() as wanted:
            if not options.overwrite:
                refuse_existing(output)
            session.check_preview(options.network, settings)
            base = session.open_base(base_config, memory, session.pick_device(options.device))
            request = GridRequest(
                prompts=tuple(Prompt(text, settings.negative_prompt) for text in settings.prompts),
                presets=settings.presets,
                settings=DrawSettings.of(settings, text),
                network_name=options.network.stem,
            )
            network = session.open_network(base, options.network)
            grid = session.preview(base, network, request, console, wanted.is_set)
            if grid.stopped:
                return STOPPED
            session.write_grid(grid, output, console, overwrite=options.overwrite)
    finally:
        console.close()
    return 0
