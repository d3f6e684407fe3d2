"""What the WebUI and Forge have in common: their settings, queue, progress bar and LoRA cards.

Only the modules of these two hosts import this one, since it imports theirs.
"""

# pyright: reportMissingImports=false

import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBasic
from modules import call_queue, paths_internal, sd_models, shared
from PIL import Image

from ...core.config import BaseConfig, MemoryConfig
from ...core.errors import CheckpointError, HostChangedError
from ...core.events import Event, PhaseProgress, PhaseStarted, PreviewReady, StepDone
from ...core.session import BaseModel, LiveModel, adopt
from .loan import Loan
from .protocol import Folders, Language, Written
from .sidecar import write_sidecars
from .webui_drawing import HostArtist, sampler_names, scheduler_names, seeding

JOB = "LoRA Loop"
_EXPOSED = ("listen", "share", "ngrok", "server_name")  # flags that let others in
_LORA_MODULE = "networks"  # of the built-in extension, imported by its bare name


class AutomaticHost(ABC):
    """The host protocol but for the model, which the WebUI and Forge hold differently."""

    title: str

    def __init__(self) -> None:
        self._loan: Loan | None = None
        self._base: BaseModel | None = None
        self._model_changed = False

    @abstractmethod
    def loan(self) -> Loan:
        """The model, loaded where it was not yet. Raises CheckpointError where there is none."""

    @abstractmethod
    def device(self) -> torch.device:
        """Where the host computes."""

    @abstractmethod
    def loaded_checkpoint(self) -> str | None:
        """The file of the model that is loaded or, before its first use, selected."""

    def language(self) -> Language:
        """The language that the user has set."""
        return "zh" if str(shared.opts.localization).lower().startswith("zh") else "en"

    def folders(self) -> Folders:
        """LoRAs go where the host looks for them; others' browsers see only what was opened."""
        networks = Path(shared.cmd_opts.lora_dir).resolve()
        data = Path(paths_internal.data_path).resolve() / "lora-loop"
        exposed = any(getattr(shared.cmd_opts, flag, None) for flag in _EXPOSED)
        if not exposed or shared.cmd_opts.enable_insecure_extension_access:
            return Folders(networks=networks, data=data)
        opened = (Path(place.strip()) for place in opened_folders().splitlines() if place.strip())
        return Folders(networks=networks, data=data, allowed=(networks, data, *opened))

    def checkpoints(self) -> Sequence[str]:
        """Empty: what is loaded is trained on."""
        return ()

    def samplers(self) -> Sequence[str]:
        """Those of txt2img."""
        return sampler_names()

    def schedulers(self) -> Sequence[str]:
        """Those of txt2img."""
        return scheduler_names()

    @contextmanager
    def borrow(self, base: BaseConfig, memory: MemoryConfig) -> Iterator[BaseModel]:
        """The loaded model for the length of a with block, the host's queue held meanwhile."""
        with call_queue.queue_lock:
            shared.state.begin(job=JOB)
            self._model_changed = False
            try:
                self._loan = loan = self.loan()
                live = loan.live()
                with self._changes_told(live), adopt(live, base, memory, self.device()) as model:
                    self._base = model
                    model.artist = HostArtist(model, loan, self.title)
                    model.seeding = seeding()
                    yield model
            finally:
                self._loan = self._base = None
                shared.state.end()

    @contextmanager
    def _changes_told(self, live: LiveModel) -> Iterator[None]:
        """Say what the user did; the core can only tell which weights are others now, if any."""
        cause: HostChangedError | None = None
        try:
            yield
        except HostChangedError as error:
            cause = error
            if not self._model_changed:
                raise
        if self._model_changed:
            raise HostChangedError(
                f"another checkpoint was chosen in {self.title} while the training paused: it was "
                "stopped, and its network and a state to resume from are saved; choose "
                f"{live.facts.name} again, then go on with the stopped training"
            ) from cause

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Let the host draw; a model that was changed meanwhile ends the training, saved."""
        loan = self._loan
        if loan is None:
            yield
            return
        loan.put_back()
        shared.state.end()
        call_queue.queue_lock.release()
        try:
            yield
        finally:
            call_queue.queue_lock.acquire()
            shared.state.begin(job=JOB)
            if loan.is_current():
                loan.take_out()
                self._accept_moves()
            else:
                self._model_changed = True

    def _accept_moves(self) -> None:
        """Weights that the host has put elsewhere are no change; others end the training."""
        lent = None if self._base is None else self._base.loan
        if lent is not None:
            lent.rested()

    def wants_stop(self) -> bool:
        """Whether Interrupt, Skip or Stop was pressed, or the model lent is no longer there."""
        if self._loan is None:
            return False
        state = shared.state
        pressed = state.interrupted or state.skipped or state.stopping_generation
        return bool(pressed or self._model_changed)

    def show(self, event: Event) -> None:
        """Move the host's progress bar, while the host's queue is held."""
        if self._loan is None:
            return
        state = shared.state
        state.job_count, state.job_no = 1, 0  # `begin` leaves none, also after a rest
        if isinstance(event, PhaseStarted):
            state.sampling_steps, state.sampling_step = event.total, 0
            state.textinfo = f"{JOB}: {event.name}"
        elif isinstance(event, PhaseProgress):
            state.sampling_steps, state.sampling_step = event.total, event.done
        elif isinstance(event, StepDone):
            state.sampling_steps, state.sampling_step = event.steps, event.step
            state.textinfo = f"{JOB}: {event.step}/{event.steps}, loss {event.loss:.4f}"
        elif isinstance(event, PreviewReady):
            with Image.open(event.path) as picture:
                state.assign_current_image(picture.convert("RGB"))

    def written(self, file: Written) -> None:
        """Write the card's files and have the host read its list of LoRAs anew."""
        write_sidecars(file)
        networks = lora_extension()
        if networks is None:
            return
        if self._loan is not None:  # the queue is ours already
            networks.list_available_networks()
            return
        with call_queue.queue_lock:
            networks.list_available_networks()

    def api_dependencies(self) -> Sequence[Any]:
        """The host's --api-auth, where it is set."""
        accounts = shared.cmd_opts.api_auth
        return [Depends(_account_check(accounts))] if accounts else []


def lora_extension() -> Any | None:
    """The module of the built-in Lora extension; None where the user has turned that off."""
    module = sys.modules.get(_LORA_MODULE)
    return module if hasattr(module, "loaded_networks") else None


def opened_folders() -> str:
    """Folders, one a line, that the owner opens to other people's browsers, by the settings."""
    return str(shared.opts.data.get("lora_loop_folders", ""))


def selected_checkpoint() -> Any | None:
    """What the host would load; None where it has no checkpoint at all."""
    try:
        return sd_models.select_checkpoint()
    except FileNotFoundError:
        return None


def no_checkpoint(title: str) -> CheckpointError:
    """The error for a host without a model."""
    return CheckpointError(
        f"{title} has no checkpoint loaded: choose one at the top of the page, and wait until it "
        "is there; the terminal says why one can't be loaded"
    )


def text_metadata(metadata: object) -> dict[str, str]:
    """Of a checkpoint's metadata as the host keeps it, what is text; it reads some as JSON."""
    if not isinstance(metadata, dict):
        return {}
    return {str(key): value for key, value in metadata.items() if isinstance(value, str)}


def _account_check(accounts: str) -> Any:
    """A FastAPI dependency for "user:password,user:password", as --api-auth gives them."""
    known = dict(account.split(":", 1) for account in accounts.split(","))
    basic = HTTPBasic()

    async def check(request: Request) -> None:
        given = await basic(request)
        password = known.get(given.username) if given is not None else None
        if given is None or password is None or not _equal(given.password, password):
            raise HTTPException(
                status_code=401,
                detail="wrong user name or password",
                headers={"WWW-Authenticate": "Basic"},
            )

    return check


def _equal(one: str, other: str) -> bool:
    """Whether two secrets are equal, in the time that tells nothing about them."""
    return secrets.compare_digest(one.encode(), other.encode())
