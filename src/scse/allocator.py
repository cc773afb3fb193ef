"""Settings of glibc's allocator that keep the memory of feature maps instead of returning it after every step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from malloc.h

MALLOC_OPTIONS = {
    M_MMAP_MAX: 0,  # allocate large blocks on the heap: a mapping of its own is released with its block
    M_TRIM_THRESHOLD: -1,  # never shrink the heap
    M_ARENA_MAX: 1,  # share one heap between threads: a heap per thread cannot hold blocks over 64 MiB
}


def keep_large_blocks() -> bool:
    """Reuse the memory of feature maps from step to step, on Linux with glibc.

    By default, glibc maps new memory for every large block, and the kernel zeroes its pages at the first write. With
    this setting, the process stays at its peak memory until it exits. The command line calls this function when it
    starts; `import scse` never does. In your own program, call it before any thread starts, because a thread keeps
    the heap that it started with.

    Returns:
        Whether the allocator accepted the settings. On other systems nothing changes and the result is False.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return all(libc.mallopt(parameter, value) for parameter, value in MALLOC_OPTIONS.items())
