"""Keep the memory that a step frees for the next one, on large pages; measure the peak."""

import ctypes
import sys
from functools import cache

import torch

# <malloc.h> of glibc, <sys/mman.h> of Linux
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MADV_HUGEPAGE = 14
LARGEST = 2**25  # glibc's own bound on what is not mapped anew each time; tables of large catalogues still are
RESERVED = 2**30  # addresses, not memory: those that are never written to take none
PAGE = 2**21  # a large one


@cache
def keep_freed_memory() -> None:
    """Ask the C library not to hand freed memory back to the system, and the system for large pages under it.

    Memory that is handed back is cleared anew for every step: on a CPU a twentieth of a step went into that. A tenth
    and more went into finding small pages, of which a step touches tens of thousands. Nothing happens where the library
    is not glibc, and the pages stay small where the system grants no large ones.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(MMAP_THRESHOLD, LARGEST)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.mallopt(TOP_PAD, RESERVED)
    first = -(-libc.sbrk(0) // PAGE) * PAGE
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(LARGEST - PAGE))))  # moves the end of the heap
    libc.mallopt(TOP_PAD, 2**17)  # glibc's own
    if (end := libc.sbrk(0)) > first:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_HUGEPAGE)


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has had, in GB: a GPU's, else the machine's; NaN where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return float("nan")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
