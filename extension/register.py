"""The WebUI's door: called by the script that the host runs, again at each "Reload UI"."""

import importlib.util
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .desk import Desk
    from .hosts.protocol import Host


def register() -> bool:
    """Bind the tab, its settings and its routes to the host that is running.

    False where a package is missing: then there is only a tab that says so.
    """
    from .hosts.door import open_door, show_missing

    try:
        host = running_host()
    except ModuleNotFoundError as error:
        show_missing(error.name or str(error))
        return False
    open_door(host, the_desk)
    return True


@cache
def running_host() -> "Host":
    """The host's object, made once: a job that is running holds on to it."""
    if importlib.util.find_spec("modules_forge") is not None:
        from .hosts.forge import Forge

        return Forge()
    from .hosts.webui import WebUI

    return WebUI()


@cache
def the_desk() -> "Desk":
    """The desk, made once: its jobs go on while the user interface is loaded again."""
    from .desk import Desk

    return Desk(running_host())
