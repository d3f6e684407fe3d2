"""The tab on its own: checkpoints from the disk, our own sampler, nobody else on the GPU."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core import session
from ...core.config import EMBEDDED, BaseConfig, MemoryConfig
from ...core.events import Event
from ...core.session import BaseModel
from .protocol import Folders, Language, Written

_SUFFIXES = (".safetensors", ".ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How `lora-loop ui` was started. models: a folder of checkpoints, if one was given."""

    folders: Folders
    language: Language = "en"
    models: Path | None = None
    device: str = "auto"


class StandaloneHost:
    """Keeps the base model that was used last, so that a redraw does not read it again."""

    title = "LoRA Loop"

    def __init__(self, choices: Choices, guards: Sequence[Any] = ()) -> None:
        self._choices, self._guards = choices, tuple(guards)
        self._held: tuple[object, BaseModel] | None = None

    def language(self) -> Language:
        """As it was started with."""
        return self._choices.language

    def folders(self) -> Folders:
        """As it was started with."""
        return self._choices.folders

    def checkpoints(self) -> Sequence[str]:
        """The embedded model, then every checkpoint in the models' folder."""
        models = self._choices.models
        found = [] if models is None else sorted(models.rglob("*"))
        return [EMBEDDED, *(str(path) for path in found if path.suffix in _SUFFIXES)]

    def loaded_checkpoint(self) -> str | None:
        """Nothing is loaded but what a recipe names."""
        return None

    def samplers(self) -> Sequence[str]:
        """Our own draw all."""
        return ()

    def schedulers(self) -> Sequence[str]:
        """Our samplers have their own."""
        return ()

    @contextmanager
    def borrow(self, base: BaseConfig, memory: MemoryConfig) -> Iterator[BaseModel]:
        """Read the checkpoint, unless it is the one of last time and still the same file."""
        key = (base, memory.precision, _stamp(base.checkpoint))
        if self._held is None or self._held[0] != key:
            self._held = None
            gc.collect()  # the old model goes before the new one comes
            device = session.pick_device(self._choices.device)
            self._held = (key, session.open_base(base, memory, device))
        yield self._held[1]

    def rest(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else waits for the GPU."""
        return contextlib.nullcontext()

    def wants_stop(self) -> bool:
        """There is no stop button but the tab's."""
        return False

    def show(self, event: Event) -> None:
        """There is no progress bar but the tab's."""

    def written(self, file: Written) -> None:
        """There is no list but the tab's, which looks at the folder."""

    def api_dependencies(self) -> Sequence[Any]:
        """Those that the server was started with."""
        return self._guards


def _stamp(checkpoint: str) -> tuple[int, int] | None:
    if checkpoint == EMBEDDED:
        return None
    with contextlib.suppress(OSError):
        status = Path(checkpoint).stat()
        return status.st_size, status.st_mtime_ns
    return None
