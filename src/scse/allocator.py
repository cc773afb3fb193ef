"""glibc's allocator, told to keep large blocks instead of returning them to the system after every step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
KEEP = 1 << 30  # bytes


def keep_large_blocks() -> bool:
    """Reuse the memory of feature maps from step to step, on Linux with glibc.

    By default every feature map is mapped anew and its pages are zeroed by the kernel each time it is written.
    The command line calls this at its start; `import scse` never does.

    Returns:
        Whether the allocator took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, KEEP) and libc.mallopt(M_TRIM_THRESHOLD, 2 * KEEP - 1))
