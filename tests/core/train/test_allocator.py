import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lora_loop.core.train.allocator import kept_memory

# Faults of taking and freeing 64 MiB ten times, in a process of its own.
_FAULTS = """
import ctypes, resource, sys
sys.path.insert(0, sys.argv[1])
from {module} import kept_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = libc.malloc(64 << 20)
        ctypes.memset(ctypes.c_void_p(block), 1, 64 << 20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
stock = faults()
with kept_memory(True):
    faults()
    kept = faults()
after = faults()
print(stock, kept, after)
"""


def test_off_does_nothing():
    with kept_memory(False) as took_effect:
        assert took_effect is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_freed_memory_stays_for_the_run_and_goes_back_afterwards(tmp_path):
    source = sys.modules[kept_memory.__module__].__file__
    (tmp_path / "allocator_copy.py").write_text(Path(source).read_text())
    code = _FAULTS.format(module="allocator_copy")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    stock, kept, after = map(int, done.stdout.split())
    assert stock > 100_000  # 10 x 16384 pages, given back and faulted in again
    assert kept < stock / 20
    assert after > stock / 2  # the defaults are back
