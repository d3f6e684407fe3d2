"""What the blocks of the network at hand do: measured, drawn, and weights that follow from it."""

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..core import session
from ..core.config import PreviewConfig
from ..core.errors import ConfigError
from ..core.session import Grid, study, workbench
from .desk import Live
from .fields import NO_FOLDER
from .hosts.protocol import Language
from .jobs import Controls, Job
from .places import require_allowed
from .redraw import Easel, request_of

_MOST_SEEDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a study found. picture: a chart or a sheet. files: what was written of it."""

    picture: Image.Image
    text: str
    files: tuple[Path, ...] = ()
    weights: workbench.BlockWeights | None = None


class Study:
    """Puts questions about the blocks into the desk's queue; a job's result is an Answer.

    None where it was stopped. language: of the charts and texts.
    """

    def __init__(self, easel: Easel, language: Language) -> None:
        self._easel, self._desk = easel, easel.desk
        self._language: Language = language

    def measure(self, samples: int, *, on_pictures: bool) -> Job:
        """Ask without drawing: on the training's pictures, or on noise and its prompts."""
        live = self._easel.live()
        prompts = tuple(live.recipe.preview.prompts) or (live.recipe.output.trigger,)
        request = study.MeasureRequest(samples=samples, prompts=prompts)
        folder = self._folder(live) if on_pictures else None

        def work(controls: Controls) -> Answer | None:
            dataset = None
            if folder is not None:
                config = replace(live.recipe.dataset, folder=folder)
                dataset = self._desk.dataset(config, controls)
            with self._desk.host.borrow(live.recipe.base, live.recipe.memory) as base:
                found = study.measure_blocks(
                    base, live.network, request, dataset, controls.on_event, controls.stop
                )
            if found is None:
                return None
            chart = study.measures_chart(found, live.name, self._language)
            files = (self._write_chart(live, chart, controls),)
            return Answer(
                picture=chart, text=study.measures_text(found, self._language), files=files
            )

        return self._easel.submit("analyze", live, work)

    def analyze(self, preview: PreviewConfig, value: float, mask: Image.Image | None) -> Job:
        """Draw each block at `value` beside all at 1; inside and outside of a mask, if given."""
        live = self._easel.live()
        grid = request_of(live, preview)
        request = study.AnalysisRequest(
            prompts=grid.prompts,
            value=value,
            settings=grid.settings,
            network_name=live.name,
            language=self._language,
        )

        def work(controls: Controls) -> Answer | None:
            with self._desk.host.borrow(live.recipe.base, live.recipe.memory) as base:
                found = study.analyze_blocks(
                    base, live.network, request, _part(mask), controls.on_event, controls.stop
                )
            if found.stopped:
                return None
            chart = study.analysis_chart(found, self._language)
            files = (
                self._write_chart(live, chart, controls),
                *self._write_grid(live, found.grid, "pictures", controls),
            )
            return Answer(
                picture=chart, text=study.analysis_text(found, self._language), files=files
            )

        return self._easel.submit("analyze", live, work)

    def suggest(
        self, preview: PreviewConfig, mask: Image.Image | None, kept: study.Kept, seeds: int
    ) -> Job:
        """Search weights that keep `kept.outside` of the change at least, `kept.inside` at most.

        seeds: how many are searched on; as many others prove it.
        """
        if mask is None:
            raise ConfigError(
                "nothing is painted: draw the picture above, and paint over the part that is to "
                "change less, such as the face"
            )
        if not 1 <= seeds <= _MOST_SEEDS:
            raise ConfigError(f"seeds is {seeds}; it must be 1 to {_MOST_SEEDS}")
        live = self._easel.live()
        grid = request_of(live, preview)
        first = grid.settings.seed
        request = study.SuggestionRequest(
            prompts=grid.prompts,
            inside=kept.inside,
            outside=kept.outside,
            seeds=tuple(range(first, first + seeds)),
            settings=grid.settings,
            network_name=live.name,
            language=self._language,
        )

        def work(controls: Controls) -> Answer | None:
            with self._desk.host.borrow(live.recipe.base, live.recipe.memory) as base:
                found = study.suggest_weights(
                    base, live.network, request, _part(mask), controls.on_event, controls.stop
                )
            if found is None:
                return None
            return Answer(
                picture=found.grid.image,
                text=found.text(self._language),
                files=self._write_grid(live, found.grid, "suggested", controls),
                weights=found.weights,
            )

        return self._easel.submit("analyze", live, work)

    def _folder(self, live: Live) -> str:
        """The pictures that the network was trained on, as far as the page knows them."""
        folder = live.recipe.dataset.folder
        if folder == NO_FOLDER:
            raise ConfigError(
                "no folder of pictures is known for this network: choose one on the Dataset page "
                "and open the file again, or measure without pictures"
            )
        return str(require_allowed(self._desk.host.folders(), "dataset.folder", folder))

    def _write_chart(self, live: Live, chart: Image.Image, controls: Controls) -> Path:
        path = workbench.free_path(_beside(live, "blocks.png"))
        study.write_chart(chart, path, controls.on_event, overwrite=False)
        return path

    def _write_grid(
        self, live: Live, grid: Grid, kind: str, controls: Controls
    ) -> tuple[Path, Path]:
        sheet = workbench.free_path(_beside(live, f"{kind}.png"), ".html")
        page = sheet.with_suffix(".html")
        session.write_grid(grid, sheet, controls.on_event, overwrite=False)
        session.write_grid_page(grid, page, controls.on_event, overwrite=False)
        return sheet, page


def _part(mask: Image.Image | None) -> study.Part:
    return study.Part(mask=mask)


def _beside(live: Live, end: str) -> Path:
    folder = (live.path or Path(live.recipe.output.folder) / live.name).parent
    return folder / f"{live.name}-{end}"
