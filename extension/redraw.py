"""Pictures of the network at hand, block by block: one at a time, or as a grid."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..core import session
from ..core.config import PreviewConfig
from ..core.errors import ConfigError, FileError
from ..core.session import Axis, Grid, GridRequest, XYZRequest, workbench
from .desk import Desk, Live
from .jobs import Controls, Job
from .places import network_file

_MOST_KEPT = 60  # pictures

Pictures = tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One redraw: a picture for each prompt of the base model alone, the whole LoRA, the chosen.

    changed: how many percent of the pixels the chosen weights change of the whole LoRA's picture.
    warning: what the chosen weights do that nobody may have meant.
    """

    alone: Pictures
    whole: Pictures
    chosen: Pictures
    changed: tuple[float, ...]
    label: str
    warning: str


class Easel:
    """Draws with the desk's live network and keeps what it has drawn; nothing is drawn twice.

    Pictures are of one network on one base model: the host may have loaded another one meanwhile.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._kept: OrderedDict[Hashable, Pictures] = OrderedDict()

    def live(self) -> Live:
        """The network at hand. Raises ConfigError where there is none."""
        if self.desk.live is None:
            raise ConfigError(
                "there is no network in memory: train one, or open a file on the Files page"
            )
        return self.desk.live

    def weights(self, text: str, seed: int = 1) -> workbench.BlockWeights:
        """Block weights as users write them, for the network at hand. Raises ConfigError."""
        family, own = self.live().family, self.own_presets()
        return workbench.BlockWeights.parse(text, family, seed=seed, presets=own)

    def own_presets(self) -> dict[str, str]:
        """The user's own presets; none where their file can't be read, which their panel tells."""
        try:
            return self.desk.presets.presets()
        except FileError:
            return {}

    def parsed(self, text: str, seed: int = 1) -> workbench.BlockWeights:
        """The same, also where there is no network yet: for Stable Diffusion 1.x then."""
        if self.desk.live is not None:
            return self.weights(text, seed)
        return workbench.BlockWeights.parse(text, seed=seed, presets=self.own_presets())

    def moved(self, text: str, seed: int, block: str, value: float) -> str:
        """The weights with another value for one block, as a vector; all else is as it was."""
        weights = self.parsed(text, seed)
        order = self.order() if self.desk.live else dict(weights.ratios)
        ratios = dict(weights.along(order).ratios) | {block: value}
        return replace(weights, ratios=tuple(ratios.items())).text()

    def preset_names(self) -> list[str]:
        """The presets that fit the network at hand, the user's own first."""
        live = self.desk.live
        own = self.own_presets()
        built_in = workbench.preset_names(live.family if live else "sd1")
        return [*own, *(name for name in built_in if name not in own)]

    def order(self) -> tuple[str, ...]:
        """The blocks that the network at hand has sliders for."""
        live = self.live()
        return workbench.block_order(live.family, live.network.blocks())

    def redraw(self, weights: workbench.BlockWeights, preview: PreviewConfig) -> Job:
        """Put one redraw into the queue. Raises ConfigError for what can be seen beforehand."""
        live = self.live()
        request = request_of(live, preview)
        return self.submit(
            "redraw", live, lambda controls: self._drawn(live, weights, request, controls)
        )

    def warning_of(self, grid: Grid) -> str:
        """What a grid's weights do to the network at hand that nobody may have meant."""
        shown = (cell.weights for _, cell in grid.table.places() if not cell.network)
        return _warning(shown, self.live())

    def grid(self, preview: PreviewConfig) -> Job:
        """Put a grid of the preview's presets and prompts into the queue, and into a file."""
        live = self.live()
        presets = tuple(self.weights(preset, preview.seed) for preset in preview.presets)
        language = self.desk.host.language()
        request = replace(request_of(live, preview), presets=presets, language=language)
        return self.submit("grid", live, lambda controls: self._grid(live, request, controls))

    def axes(self, preview: PreviewConfig, text: str, x: Axis, y: Axis) -> Job:
        """Put a grid over any two axes into the queue; `text` are the weights it starts from.

        Several prompts are on an axis that is left.
        """
        live = self.live()
        plain = request_of(live, preview)
        request = XYZRequest(
            x=self._with_files(x),
            y=self._with_files(y),
            weights=text,
            presets=self.own_presets(),
            settings=plain.settings,
            network_name=live.name,
            language=self.desk.host.language(),
        ).with_prompts(plain.prompts)
        request.table(live.family)  # every entry is read before anything waits
        return self.submit("grid", live, lambda controls: self._grid(live, request, controls))

    def _with_files(self, axis: Axis) -> Axis:
        """The axis with files for the names that lists show."""
        if axis.kind != "network":
            return axis
        folders = self.desk.host.folders()
        return replace(axis, entries=tuple(str(network_file(folders, e)) for e in axis.entries))

    def submit(self, kind: str, live: Live, work) -> Job:
        """Put work with the network at hand into the queue. Raises ConfigError in a training."""
        busy = self.desk.board.current()
        if busy is not None and busy.kind == "train":
            raise ConfigError(
                f"{busy.title} is being trained: wait for its end, or stop it, then draw"
            )
        return self.desk.board.submit(kind, live.name, work)

    def _drawn(
        self, live: Live, weights: workbench.BlockWeights, request: GridRequest, controls: Controls
    ) -> Drawn | None:
        blocks = live.network.blocks()
        wanted = {
            "alone": None,
            "whole": workbench.BlockWeights.parse("ALL", live.family),
            "own": weights,
        }
        pictures: dict[str, Pictures] = {}
        with self.desk.host.borrow(live.recipe.base, live.recipe.memory) as base:
            model = (base.identity, base.prediction, base.zero_terminal_snr, base.seeding)
            for name, one in wanted.items():
                acting = None if one is None else one.effective(blocks)
                key = (live.number, model, request, acting)
                if key not in self._kept:
                    network = None if one is None else live.network
                    drawn = workbench.draw_with(
                        base, network, one, request, controls.on_event, controls.stop
                    )
                    if len(drawn) < len(request.prompts):
                        return None
                    self._keep(key, tuple(drawn))
                pictures[name] = self._kept[key]
        return Drawn(
            alone=pictures["alone"],
            whole=pictures["whole"],
            chosen=pictures["own"],
            changed=tuple(
                workbench.difference(one, other).percent
                for one, other in zip(pictures["whole"], pictures["own"], strict=True)
            ),
            label=weights.label,
            warning=_warning([weights], live),
        )

    def _keep(self, key: Hashable, pictures: Pictures) -> None:
        self._kept[key] = pictures
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    def _grid(
        self, live: Live, request: GridRequest | XYZRequest, controls: Controls
    ) -> tuple[Grid, Path]:
        with self.desk.host.borrow(live.recipe.base, live.recipe.memory) as base:
            grid = session.preview(base, live.network, request, controls.on_event, controls.stop)
        folder = (live.path or Path(live.recipe.output.folder) / live.name).parent
        path = workbench.free_path(folder / f"{live.name}-grid.png", ".html")
        if not grid.stopped:
            page = path.with_suffix(".html")
            session.write_grid(grid, path, controls.on_event, overwrite=False)
            session.write_grid_page(grid, page, controls.on_event, overwrite=False)
        return grid, path


def _warning(given: Iterable[workbench.BlockWeights], live: Live) -> str:
    """What these weights do to a network that nobody may have meant, in a line."""
    blocks = live.network.blocks()
    found = [weights.finding(blocks) for weights in given]
    return " ".join(dict.fromkeys(finding.text for finding in found if finding))


def request_of(live: Live, preview: PreviewConfig) -> GridRequest:
    """What is drawn with a network, and how; of the preview's presets only a grid makes use."""
    return session.grid_request(replace(live.recipe, preview=preview), live.name)
