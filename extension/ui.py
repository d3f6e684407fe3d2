"""Open the loop as a page in the browser."""

import argparse
import sys
from pathlib import Path

from ..core.errors import ConfigError

_PORT = 7861  # the WebUI has 7860


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
    app = make_app(options)
    sys.stdout.write(f"LoRA Loop: http://{options.host}:{options.port}  (Ctrl+C ends it)\n")
    sys.stdout.flush()
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0
