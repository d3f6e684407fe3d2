"""Show what each block of a trained LoRA does, and find block weights that keep what you want."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .. import session, study
from ..adapters.live import LiveNetwork
from ..config.dataset import DatasetConfig
from ..config.preview import PreviewConfig
from ..errors import ConfigError, FileError
from ..events import StopFlag
from ..files.atomic import refuse_existing
from ..models.base_model import BaseModel
from ..preview.analysis import AnalysisRequest
from ..preview.grid import Grid
from ..preview.measure import MeasureRequest
from ..preview.part import Part
from ..preview.sampling import DrawSettings, Prompt
from ..preview.suggest import SuggestionRequest
from .console import STOPPED, Console, say, stop_on_signals
from .preview import (
    add_base_options,
    add_drawing_options,
    base_settings,
    draw_settings,
    drawing_settings,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop analyze`."""
    parser.add_argument("network", type=Path, help="the LoRA, a .safetensors file")
    add_base_options(parser)
    add_drawing_options(parser)
    parser.add_argument(
        "--samples", type=int, default=8, help="noisy latents that are measured on (8)"
    )
    parser.add_argument(
        "--dataset", help="a folder of pictures to measure on, instead of random latents"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=(), help="of the pictures (--seed alone)"
    )
    parser.add_argument(
        "--value", type=float, default=0.5, help="in pictures: of the block that is looked at (0.5)"
    )
    parser.add_argument("--others", type=float, default=1.0, help="of all other blocks (1)")
    parser.add_argument(
        "--mask", type=Path, help="a picture, white where the part is that matters (the face)"
    )
    parser.add_argument(
        "--suggest",
        type=float,
        nargs=2,
        metavar=("OUTSIDE", "INSIDE"),
        help="find weights that keep so much of the change outside of the mask, and no more than "
        "that inside: 0.95 0.4",
    )
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="of the charts")
    parser.add_argument("--output", type=Path, help="PNG to write (NETWORK-blocks.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(options: argparse.Namespace) -> int:
    """Measure without pictures; with prompts draw and compare; with --suggest search weights."""
    settings = drawing_settings(options)
    drawing = draw_settings(options, settings)
    prompts = tuple(Prompt(text, settings.negative_prompt) for text in settings.prompts)
    part = Part(mask=_read_mask(options.mask))
    analysis, suggestion = _requests(options, prompts, drawing, part)
    measure = MeasureRequest(
        samples=options.samples,
        prompts=tuple(settings.prompts) or ("",),
        seed=options.seed,
        text=drawing.text,
    )
    files = _Files(options, draws=analysis is not None, suggests=suggestion is not None)
    console = Console()
    try:
        with stop_on_signals() as wanted:
            files.refuse_existing()
            session.check_preview(options.network, PreviewConfig())
            base_config, memory = base_settings(options)
            base = session.open_base(base_config, memory, session.pick_device(options.device))
            network = session.open_network(base, options.network)
            work = _Work(base, network, files, console, wanted.is_set)
            done = work.measure(measure, options.dataset)
            if done and analysis is not None:
                done = work.analyze(analysis, part)
            if done and suggestion is not None:
                done = work.suggest(suggestion, part)
            return 0 if done else STOPPED
    finally:
        console.close()


class _Files:
    """Where everything goes: beside the chart, under its name."""

    def __init__(self, options: argparse.Namespace, *, draws: bool, suggests: bool) -> None:
        self.network_name, self.language = options.network.stem, options.language
        self.overwrite = options.overwrite
        self.chart = options.output or study.blocks_path(options.network)
        kinds = [*(["changed", "pictures"] if draws else []), *(["suggested"] if suggests else [])]
        self._kinds = kinds

    def of(self, kind: str, suffix: str = ".png") -> Path:
        """Give the path of one of them."""
        return self.chart.with_name(f"{self.chart.stem}-{kind}{suffix}")

    def refuse_existing(self) -> None:
        """Raise FileError where one of them is there and may not be replaced."""
        for path in (self.chart, *map(self.of, self._kinds)):
            if not self.overwrite:
                refuse_existing(path)


@dataclass(frozen=True, slots=True)
class _Work:
    """The three parts of the study; each tells whether it came to its end."""

    base: BaseModel
    network: LiveNetwork
    files: _Files
    console: Console
    stop: StopFlag

    def measure(self, request: MeasureRequest, folder: str | None) -> bool:
        """Without pictures."""
        dataset = None
        if folder is not None:
            config = DatasetConfig(folder=folder)
            dataset = session.workbench.read_dataset(config, self.console, self.stop)
            if dataset is None:
                return False
        measures = study.measure_blocks(
            self.base, self.network, request, dataset, self.console, self.stop
        )
        self.console.close()
        if measures is None:
            return False
        say(study.measures_text(measures, self.files.language))
        chart = study.measures_chart(measures, self.files.network_name, self.files.language)
        self._write(chart, self.files.chart)
        return True

    def analyze(self, request: AnalysisRequest, part: Part) -> bool:
        """With pictures, inside and outside of the part."""
        found = study.analyze_blocks(
            self.base, self.network, request, part, self.console, self.stop
        )
        self.console.close()
        say(study.analysis_text(found, self.files.language))
        self._write(study.analysis_chart(found, self.files.language), self.files.of("changed"))
        self._write_grid(found.grid, "pictures")
        return not found.stopped

    def suggest(self, request: SuggestionRequest, part: Part) -> bool:
        """Block weights that keep what is asked for."""
        found = study.suggest_weights(
            self.base, self.network, request, part, self.console, self.stop
        )
        self.console.close()
        if found is None:
            return False
        say(found.text(self.files.language))
        self._write_grid(found.grid, "suggested")
        return True

    def _write(self, chart: Image.Image, path: Path) -> None:
        study.write_chart(chart, path, self.console, overwrite=self.files.overwrite)

    def _write_grid(self, grid: Grid, kind: str) -> None:
        overwrite = self.files.overwrite
        session.write_grid(grid, self.files.of(kind), self.console, overwrite=overwrite)
        page = self.files.of(kind, ".html")
        session.write_grid_page(grid, page, self.console, overwrite=overwrite)


def _requests(
    options: argparse.Namespace, prompts: tuple[Prompt, ...], drawing: DrawSettings, part: Part
) -> tuple[AnalysisRequest | None, SuggestionRequest | None]:
    """What is drawn: nothing without prompts."""
    if options.suggest and not (prompts and part.is_given):
        raise ConfigError(
            "--suggest searches by drawing: give it --prompt, and with --mask the part that matters"
        )
    if not prompts:
        return None, None
    common = {
        "prompts": prompts,
        "settings": drawing,
        "network_name": options.network.stem,
        "language": options.language,
    }
    seeds = tuple(options.seeds or (options.seed,))
    analysis = AnalysisRequest(seeds=seeds, value=options.value, others=options.others, **common)
    if not options.suggest:
        return analysis, None
    outside, inside = options.suggest
    return analysis, SuggestionRequest(seeds=seeds, outside=outside, inside=inside, **common)


def _read_mask(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise FileError(f"{path} can't be read as a mask ({error}); give a PNG") from error
