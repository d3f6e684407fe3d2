"""Open the loop as a page in the browser."""

import argparse
import contextlib
import os
import socket
import sys
from pathlib import Path

from ..core.errors import ConfigError

_PORT = 7861  # the WebUI has 7860
_LAST_PORT = 65535


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop ui`."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("lora-loop-networks"),
        help="folder of the LoRA files (lora-loop-networks)",
    )
    parser.add_argument("--models", type=Path, help="folder of checkpoints to choose from")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--language", choices=("auto", "en", "zh"), default="auto")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=_PORT, help=f"({_PORT})")
    parser.add_argument(
        "--allow",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="let users of other machines read and write here too; may be given repeatedly",
    )
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help="ask for these, on the page and of the API; needed with --host for other machines",
    )
    parser.add_argument(
        "--open-to-all", action="store_true", help="listen for other machines without --auth"
    )


def run(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl+C. Its packages are an extra that not everyone has installed."""
    try:
        import uvicorn

        from .server import make_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs the package {error.name}, which is not installed: run "
            "python install.py ui, or pip install 'lora-loop[ui]'"
        ) from error
    with _bound(options.host, options.port) as place:
        server = uvicorn.Server(uvicorn.Config(make_app(options), log_level="warning"))
        port = place.getsockname()[1]
        sys.stdout.write(f"LoRA Loop: http://{options.host}:{port}  (Ctrl+C ends it)\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            server.run(sockets=[place])
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """Take the address, before anything slow is done. ConfigError where that can't be."""
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"--port {port}: it must be 0 (any free one) to {_LAST_PORT}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind)
        if os.name == "posix":  # elsewhere it would share an address that is in use
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(address)
        except OSError:
            place.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port} can't be listened on ({error}); where another program, "
            "or another LoRA Loop, has that port, close it or choose another --port"
        ) from error
    return place
