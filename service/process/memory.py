"""Keeping freed memory at hand: what a request frees the next one needs again, of nearly the same size."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""Variables by which an operator decides for himself; glibc reads them at start."""

LARGEST_KEPT = 4 * 2**20
"""Bytes of a block from which it is the kernel's: pixels of a photograph of 1.4 megapixels, the sizes that most
requests bring. Larger ones go back to the system when they are freed, so that memory does not grow with them."""

KEPT = 32 * 2**20
"""Free bytes at the end of a heap above which they go back. There is a heap for each thread that allocates."""


def return_freed_memory() -> None:
    """Hands all memory that is free now back to the kernel: once a large thing is over, such as loading models, whose
    files are read into blocks that the threads' heaps would keep. Takes milliseconds; does nothing where the C library
    is not glibc.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed rather than hand it back to the kernel at once.

    By default a block of a few hundred kilobytes is handed back, or the end of the heap cut off, with nearly every
    request, and the next one's pages are faulted in and zeroed again: a good part of the time of decoding a small
    photograph.

    Returns:
        Whether it has been done: not where the C library is another one or the environment says what to do.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
