"""What concerns the process rather than any task: memory, threads, the time that parts take, the cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_HALF_GIB = 1 << 29


class InstructionSet(NamedTuple):
    """What ``VIL_ISA`` may name."""

    march: Mapping[str, str]  # by machine, the compiler's name of it
    flags: tuple[str, ...]  # of /proc/cpuinfo that it needs
    limits: tuple[str, str, str]  # values of LIMITED_BY, which limit PyTorch, oneDNN and MKL to it


LIMITED_BY = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
INSTRUCTION_SETS = {
    "generic": InstructionSet({"x86_64": "x86-64", "aarch64": "armv8-a"}, (), ("default", "SSE41", "SSE4_2")),
    "avx2": InstructionSet({"x86_64": "x86-64-v3"}, ("avx2", "fma", "bmi2", "f16c", "movbe"), ("avx2", "AVX2", "AVX2")),
    "avx512": InstructionSet(
        {"x86_64": "x86-64-v4"},
        ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        ("avx512", "AVX512_CORE", "AVX512"),
    ),
}
STAGES = ("decode", "crop", "network", "track", "write")


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor instead of returning it to the system.

    glibc gives every block above 32 MiB, and the top of the heap, back to the kernel when it is freed, and the next
    tensor of that size is cleared and mapped in again page by page: a third of a training step on a CPU. Other C
    libraries are left as they are. Returns whether the setting was made.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    settings = ((_M_TRIM_THRESHOLD, 2 * _HALF_GIB), (_M_TOP_PAD, _HALF_GIB // 8), (_M_MMAP_THRESHOLD, _HALF_GIB))
    return all([libc.mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in settings])


def prepare_environment() -> None:
    """Set what libraries read from the environment when torch is imported; what the user has set stays.

    ``VIL_ISA`` limits the processor's instructions. And OpenMP's threads wait for one another for some 1,000 turns of a
    loop before they sleep, not GNU's 300,000: one that waits keeps its core from the very thread that it waits for once
    another process wants the cores, too. On idle cores two threads pay a sixth of their speed for it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if chosen := INSTRUCTION_SETS.get(os.environ.get("VIL_ISA", "")):
        for name, value in zip(LIMITED_BY, chosen.limits, strict=True):
            os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; alone without torchrun."""

    rank: int = 0  # 0 … world - 1; rank 0 logs, averages weights and writes
    world: int = 1  # number of processes
    local: int = 0  # rank among the processes of this machine

    @staticmethod
    def from_environment() -> Ranks:
        names = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        return Ranks(*(int(os.environ.get(*name)) for name in names))

    @property
    def main(self) -> bool:
        return self.rank == 0


def set_threads(pytorch: int, opencv: int | None = None) -> tuple[int, int]:
    """Let PyTorch and OpenCV (on as many where left out) compute on so many CPU threads; returns those before."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(pytorch)
    cv2.setNumThreads(pytorch if opencv is None else opencv)
    return before


def device_of_process(device: str, place: int) -> str:
    """The GPU of process ``place`` of this machine, where ``device`` leaves it open and there are several."""
    import torch

    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{place % count}" if count > 1 else device


def leave_process_group() -> None:
    """Leave torch.distributed's process group, if this process joined one.

    A process that ends while it is still in one may be ended by SIGABRT: the group's threads are running when their
    objects are destroyed.
    """
    import torch.distributed as dist  # not every command needs torch

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def cache_folder(choice: str | os.PathLike[str] | None = None) -> Path:
    """Where indices and compiled kernels are kept: ``choice``, else VIL_CACHE, else the user's cache folder.

    A user without a home folder has none: then it is a path that nothing can be written to.
    """
    if choice or os.environ.get("VIL_CACHE"):
        return Path(choice or os.environ["VIL_CACHE"])
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "vil-tracker"
    except RuntimeError:
        return Path(os.devnull, "no-home-folder", "vil-tracker")


class StageTimer:
    """Adds up the wall time of the parts of a run. Parts may run in different threads, and so may overlap.

    The parts of a tracked frame are :data:`STAGES`: ``decode`` (source), ``crop`` and ``network`` (tracker) and
    ``write`` (drawing and encoding). ``track`` is all that the tracker does, for trackers that do not report its parts.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begin)

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Total seconds by part, in the order of :data:`STAGES`, other parts after them."""
        with self._lock:
            whole = {"track"} if "network" in self._seconds else set()
            names = [name for name in STAGES if name in self._seconds and name not in whole]
            names += [name for name in self._seconds if name not in STAGES]
            return {name: self._seconds[name] for name in names}

    def report(self, frames: int) -> str:
        """One line such as ``"per frame: decode 2.1 ms, crop 0.6 ms, network 24.9 ms, write 6.0 ms"``."""
        parts = ", ".join(f"{name} {1e3 * value / max(frames, 1):.1f} ms" for name, value in self.seconds.items())
        return f"per frame: {parts}" if parts else "no part was timed"
