"""What a training on a CPU does with memory that it will need again in the next step."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = -1
_GROWS_BY_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for its next allocation; whether it does.

    glibc gives every large tensor back to the system at once, and asks for it again, page by page and filled with
    zeros, a moment later; of a step of the chest-CT network that is a tenth (``benchmarks/steps.py``). Nothing is told
    to other allocators than glibc's, or on other systems than Linux, and no value changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWS_BY_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
