"""New files made of others: merged, resized, extracted, folded into a checkpoint."""

from collections.abc import Callable
from pathlib import Path

from ..core import session
from ..core.config.output import check_name
from ..core.errors import ConfigError
from ..core.session import Baked, Merge, RankRule, Tag
from .desk import Desk
from .hosts.protocol import Written
from .jobs import Controls, Job
from .places import network_file, require_allowed


class Workshop:
    """Puts the making of files into the desk's queue; a job's result says what was made.

    Networks go to the networks' folder; a name that is taken is refused before anything waits.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def merge(self, prompt: str, rank: int, name: str) -> Job:
        """Merge the networks that tags name, as <lora:one:0.8:lbw=NOFACE> <lora:other:0.5>.

        rank: 0 puts the factors side by side, which is exact.
        """
        merges, path = self._merges(prompt), self._new(name)
        return self._make(path, lambda: session.merge_files(merges, path, rank=rank))

    def fold(self, prompt: str, checkpoint: str, name: str) -> Job:
        """Write a checkpoint with networks in it, beside the one that it is made of."""
        merges = self._merges(prompt)
        folders = self._desk.host.folders()
        source = require_allowed(folders, "the checkpoint", checkpoint)
        check_name("the new file's name", name.strip())
        path = source.with_name(f"{name.strip()}.safetensors")

        def work(controls: Controls) -> str:
            controls.note(str(path))
            made = session.fold_files(str(source), merges, path)
            return f"{made.path} (sha256 {made.sha256})"

        return self._desk.board.submit("make", path.name, work)

    def resize(self, file: str, rank: int, percent: float, name: str) -> Job:
        """Lower a network's rank: to `rank` at most, keeping `percent` of each layer's norm."""
        source, path = network_file(self._desk.host.folders(), file), self._new(name)
        kept = percent / 100
        rule = (
            RankRule(limit=rank)
            if kept == 1
            else RankRule(kind="frobenius", value=kept, limit=rank)
        )
        return self._make(path, lambda: session.resize_file(source, rule, path))

    def extract(self, tuned: str, base: str, rank: int, name: str) -> Job:
        """Write the LoRA that turns one checkpoint into another."""
        folders, path = self._desk.host.folders(), self._new(name)
        places = [
            str(require_allowed(folders, what, place))
            for what, place in (("the tuned checkpoint", tuned), ("the base checkpoint", base))
        ]
        rule = RankRule(limit=rank)
        return self._make(path, lambda: session.extract_file(places[0], places[1], path, rule))

    def _make(self, path: Path, made: Callable[[], Baked]) -> Job:
        def work(controls: Controls) -> str:
            controls.note(str(path))
            baked = made()
            self._desk.host.written(Written(path=baked.file.path))
            notes = [finding.text for finding in baked.findings]
            return "; ".join((str(baked.file.path), *notes))

        return self._desk.board.submit("make", path.name, work)

    def _new(self, name: str) -> Path:
        name = (name or "").strip()
        check_name("the new file's name", name)
        path = self._desk.host.folders().networks / f"{name}.safetensors"
        if path.exists():
            raise ConfigError(f"{path.name} exists already; choose another name")
        return path

    def _merges(self, prompt: str) -> list[Merge]:
        rest, tags = session.read_tags(prompt)
        if not tags or rest:
            raise ConfigError(
                "name the networks as a prompt does, and nothing else: "
                "<lora:NAME:0.8:lbw=NOFACE> <lora:OTHER:0.5>"
            )
        return [self._merge(tag) for tag in tags]

    def _merge(self, tag: Tag) -> Merge:
        if tag.window or tag.elements:
            raise ConfigError(f"{tag.name}: a file can't hold steps; leave out start, stop, lbwe")
        folders = self._desk.host.folders()
        found = [p for p in folders.networks.rglob("*.safetensors") if p.stem == tag.name]
        if not found:
            raise ConfigError(f"there is no network {tag.name!r} in {folders.networks}")
        bake = session.Bake(
            weights=tag.weights or "ALL",
            unet=tag.unet,
            text_encoder=tag.text_encoder,
            dylora_rank=tag.rank,
            presets=self._desk.presets.presets(),
        )
        return Merge(path=found[0], bake=bake)
