"""What the tab needs of the program that it lives in."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ...core.config import BaseConfig, MemoryConfig
from ...core.events import Event
from ...core.session import BaseModel

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where the tab reads and writes.

    networks: LoRA files, written and listed. data: the tab's own small files. allowed: the only
    places that users may name, with all that lies below; None where the program serves its owner
    alone and every folder will do.
    """

    networks: Path
    data: Path
    allowed: tuple[Path, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A network file that was just written.

    trigger: the words that call what it learnt. picture: one drawn with it, as a PNG file.
    """

    path: Path
    trigger: str = ""
    picture: Path | None = None


class Host(Protocol):
    """One program. Methods may be called from any thread but `borrow`'s, which has one thread."""

    title: str

    def language(self) -> Language:
        """The language that the user has set."""
        ...

    def folders(self) -> Folders:
        """Where files lie."""
        ...

    def checkpoints(self) -> Sequence[str]:
        """What `base.checkpoint` may be chosen from; empty where the loaded model is trained on."""
        ...

    def loaded_checkpoint(self) -> str | None:
        """The file of the model that the host has loaded; None where it has none, or never does."""
        ...

    def samplers(self) -> Sequence[str]:
        """What `preview.host_sampler` may be chosen from; empty where our own sampler draws all."""
        ...

    def schedulers(self) -> Sequence[str]:
        """What `preview.host_scheduler` may be chosen from."""
        ...

    def borrow(self, base: BaseConfig, memory: MemoryConfig) -> AbstractContextManager[BaseModel]:
        """The base model for the length of a with block, the host's queue held meanwhile.

        Afterwards, also after an error, the host is as it was. Raises TrainerError, also where the
        host turns out not to be as it was.
        """
        ...

    def rest(self) -> AbstractContextManager[None]:
        """Let the host work for the length of a with block, inside of `borrow`'s.

        Where the host has another model at its end, `wants_stop` says so from then on, so that what
        was trained is saved, and `borrow` raises HostChangedError at its own end.
        """
        ...

    def wants_stop(self) -> bool:
        """Whether the host wants an end: its stop button was pressed, or its model changed."""
        ...

    def show(self, event: Event) -> None:
        """Show a job's event in the host's own progress bar, where it has one."""
        ...

    def written(self, file: Written) -> None:
        """Make the host list a new network file, with what it shows beside one."""
        ...

    def api_dependencies(self) -> Sequence[Any]:
        """FastAPI dependencies that let through only who may use the host's own API."""
        ...
