"""The tab and the API as one application, for `lora-loop ui`."""

import argparse
import locale
from pathlib import Path

from fastapi import FastAPI

from ..core.errors import ConfigError
from .api import add_routes, guard
from .desk import Desk
from .gradio_versions import mount, open_blocks
from .hosts.protocol import Folders, Language
from .hosts.standalone import Choices, StandaloneHost
from .tab import Tab

ROOT = Path(__file__).parents[1]
HERE = ("127.0.0.1", "localhost", "::1")


def make_app(options: argparse.Namespace) -> FastAPI:
    """The page and the API as one application. Raises ConfigError."""
    here = options.host in HERE
    if not (here or options.auth or options.open_to_all):
        raise ConfigError(
            f"--host {options.host} lets other machines in: set --auth USER:PASSWORD, or "
            "--open-to-all if everyone there may train and write files"
        )
    login = _login(options.auth)
    networks = options.output.expanduser().resolve()
    allowed = None
    if not here:
        allowed = (networks, *(folder.expanduser().resolve() for folder in options.allow))
    folders = Folders(networks=networks, data=networks / ".lora-loop", allowed=allowed)
    language = _language() if options.language == "auto" else options.language
    choices = Choices(
        folders=folders, language=language, models=options.models, device=options.device
    )
    guards = guard(login, names=HERE if here else None)
    desk = Desk(StandaloneHost(choices, guards))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, desk)
    css = (ROOT / "style.css").read_text(encoding="utf-8")
    script = (ROOT / "javascript" / "lora_loop.js").read_text(encoding="utf-8")
    head = f"<script>{script}</script>"
    with open_blocks("LoRA Loop", css, head) as page:
        Tab(desk)
    return mount(app, page, css, head, login)


def _login(text: str | None) -> tuple[str, str] | None:
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (colon and user and password):
        raise ConfigError("--auth is not of the form USER:PASSWORD; give both, with a colon")
    return user, password


def _language() -> Language:
    return "zh" if (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese")) else "en"
