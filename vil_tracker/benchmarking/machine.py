"""What the measurements ran on, and how fast that machine multiplies matrices and copies memory."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

MIB = 1 << 20


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Processor, cores, threads and versions."""
    described: dict[str, str | int] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(errors="replace"))):
        return found[1].strip()
    return platform.processor() or platform.machine()


def synchronise(device: torch.device) -> None:
    """Wait for what was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function, in wall time unless there is another ``clock``.

    In every repeat all of them run, one after the other: whatever else the machine does meanwhile falls on all of them
    alike, so that their ratios can be trusted. Two rounds before the first repeat warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 2):
        for name, function in functions.items():
            begin = clock()
            function()
            if device is not None:
                synchronise(device)
            if repeat >= 2:
                seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matmul_rate(dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Floating-point operations per second of a product of matrices of 1024 × 1024, the best of fifteen."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    return 2 * 1024**3 / _best(lambda: a @ b, 15, device, clock)


def copy_rate(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes read and written per second when copying 64 MiB, beyond the caches, the best of eight."""
    source = torch.zeros(64 * MIB, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / _best(lambda: target.copy_(source), 8, device, clock)


def _best(function: Callable[[], object], repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    best = float("inf")
    for _ in range(repeats + 2):
        begin = clock()
        function()
        synchronise(device)
        best = min(best, clock() - begin)
    return best


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def resident_memory() -> float:
    """Resident memory of this process now, in MiB (its peak where the system does not tell)."""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmRSS:\s*(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    return peak_memory()
