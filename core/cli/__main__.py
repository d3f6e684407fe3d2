"""`python -m lora_loop.core.cli`, where the command itself is not installed."""

from .main import main

if __name__ == "__main__":
    raise SystemExit(main())
