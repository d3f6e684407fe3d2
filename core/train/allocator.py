"""Keeping freed memory in the process for the length of a run."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_TOP_PAD_BYTES = 256 << 20
# glibc's own defaults (mallopt(3)), to which a finished run returns.
_DEFAULTS = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 128 << 10}


@contextmanager
def kept_memory(enabled: bool) -> Iterator[bool]:
    """Have glibc keep freed blocks instead of giving them back to the kernel at every step.

    A training step frees and takes gigabytes of activations; each block given back is page-faulted
    in again, which costs up to a third of a CPU step. Yields whether it took effect: only with
    glibc; elsewhere (musl, Windows, macOS) nothing is done. On leaving, the defaults are put back
    and what is free is returned to the system; what glibc does not let back on is adapting its
    threshold for large blocks by itself.
    """
    if not enabled or platform.libc_ver()[0] != "glibc":
        yield False
        return
    libc = ctypes.CDLL(None)
    for option, value in {
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: -1,
        _M_TOP_PAD: _TOP_PAD_BYTES,
    }.items():
        libc.mallopt(option, value)
    try:
        yield True
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
