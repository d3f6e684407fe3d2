"""Runs the cases of `fuzz_worker.py` in a process of their own and says what went wrong in which.

To see one case again: `python tests/core/fuzz_worker.py TARGET FOLDER NUMBER 1`.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

WORKER = Path(__file__).resolve().parent / "fuzz_worker.py"
SECONDS = 900  # for all cases of a run; they take about 3, and more on a busy machine
SECONDS_OF_ONE = 20  # of the processor, not of the clock
BYTES = 100 << 20  # by which the peak of memory may grow over a run


def run_cases(target: str, folder: Path, count: int) -> Counter[tuple[str, str]]:
    """Read `count` mutated files; how often each (kind of mutation, outcome) came about.

    Raises AssertionError that names the case for a crash, a hang, an error that is not ours, a file
    that is accepted and can't be right, and for much memory.
    """
    command = [sys.executable, str(WORKER), target, str(folder), "0", str(count)]
    with (folder / "lines").open("w+", encoding="utf-8") as lines:
        try:
            done = subprocess.run(
                command, stdout=lines, stderr=subprocess.PIPE, timeout=SECONDS, check=False
            )
            end, errors = f"ended with {done.returncode}", done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired:
            end, errors = f"did not end within {SECONDS} s", ""
        lines.seek(0)
        found = [json.loads(line) for line in lines.read().splitlines()]
    assert len(found) == 2 * count, f"{target}: {unfinished(found)} {end}\n{errors[-2000:]}"
    cases = [*zip(found[::2], found[1::2], strict=True)]
    wrong = [f"{target} {case}: {result}" for case, result in cases if is_wrong(result)]
    assert not wrong, "\n".join(wrong[:10])
    grown = sum(result["bytes"] for _, result in cases)
    assert grown <= BYTES, f"{target}: {grown >> 20} MiB more memory"
    return Counter((kind, result["found"]) for (_, kind), result in cases)


def unfinished(found: list) -> str:
    """The case that was begun and has no result."""
    return f"case {found[-1]}" if len(found) % 2 else "between two cases, the process"


def is_wrong(result: dict) -> bool:
    return result["found"] not in {"read", "refused"} or result["seconds"] > SECONDS_OF_ONE
