"""What concerns the process rather than any task: how it keeps memory, and where it keeps files between runs."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_HALF_GIB = 1 << 29


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor instead of returning it to the system.

    glibc gives every block above 32 MiB, and the top of the heap, back to the kernel when it is freed; the next tensor
    of that size is then cleared and mapped in again page by page. Networks free and allocate the same sizes at every
    step, so that this took a third of a training step on a CPU. Other C libraries are left as they are.

    Returns:
        Whether the setting was made.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    settings = ((_M_TRIM_THRESHOLD, 2 * _HALF_GIB), (_M_TOP_PAD, _HALF_GIB // 8), (_M_MMAP_THRESHOLD, _HALF_GIB))
    return all([libc.mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in settings])


def wait_briefly() -> None:
    """Let OpenMP's threads wait for one another for some 10,000 turns of a loop before they sleep, not 300,000.

    A thread that waits keeps its core from the very thread that it waits for once another process wants the cores, too:
    beside one busy process a frame then took seconds on two cores instead of a tenth of one. On an idle machine a frame
    takes the same. GNU OpenMP reads the setting when torch is imported, so this is for the beginning of a program; what
    the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def leave_process_group() -> None:
    """Leave torch.distributed's process group, if this process joined one.

    A process that ends while it is still in one may be ended by SIGABRT: the group's threads are running when their
    objects are destroyed.
    """
    import torch.distributed as dist  # not every command needs torch

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def cache_folder(choice: str | os.PathLike[str] | None = None) -> Path:
    """Where indices and compiled kernels are kept: ``choice``, else VIL_CACHE, else the user's cache folder."""
    if choice or os.environ.get("VIL_CACHE"):
        return Path(choice or os.environ["VIL_CACHE"])
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vil-tracker"
