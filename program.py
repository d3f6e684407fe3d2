"""The `lora-loop` command: the core's commands, and the page."""

from .core.cli import main as core_commands
from .extension import ui


def main(argv: list[str] | None = None) -> int:
    """Run one command; the answer is the process's exit status."""
    return core_commands.main(argv, {"ui": ui})


if __name__ == "__main__":
    raise SystemExit(main())
