"""glibc's allocator, told to keep the memory of feature maps instead of returning it to the system after every step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from malloc.h

KEEP = {
    M_MMAP_MAX: 0,  # no block gets a mapping of its own, which ends with the block
    M_TRIM_THRESHOLD: -1,  # the heap never shrinks
    M_ARENA_MAX: 1,  # threads share the heap: those of their own hold no block over 64 MiB
}


def keep_large_blocks() -> bool:
    """Reuse the memory of feature maps from step to step, on Linux with glibc.

    By default every large block is mapped anew, and the kernel zeroes its pages when they are first written. Kept, the
    process holds its greatest memory until it ends. The command line calls this at its start; `import scse` never does.
    In a program of your own, call it first, before any thread starts: threads keep the heap that they began with.

    Returns:
        Whether the allocator took it; False on other systems, which are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return all(libc.mallopt(parameter, value) for parameter, value in KEEP.items())
