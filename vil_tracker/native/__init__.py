"""C++ programs of this package, compiled on the machine they run on, once, when first asked for.

They need a C++ compiler (GCC, or Clang with OpenMP) and Linux, on x86-64 or ARM. Everything works without one, in more
time. The environment variable ``VIL_ISA`` limits them, and what PyTorch does beside them, to some of the processor's
instructions (:data:`vil_tracker.runtime.INSTRUCTION_SETS`), so that one machine can measure what another one reaches.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vil_tracker.errors import UserError
from vil_tracker.runtime import INSTRUCTION_SETS, cache_folder

_log = logging.getLogger(__name__)
PROGRAMS = ("sublayer", "passes", "linear", "mobile_stem")
_FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")


def load(name: str) -> ctypes.CDLL | None:
    """The shared library made of ``name``.cpp in this folder; None without one (:func:`unavailable_reason`)."""
    return attempt(name)[0]


def unavailable_reason(name: str) -> str | None:
    """Why :func:`load` gives None, in one line; None if it gives a library."""
    return attempt(name)[1]


@functools.cache
def attempt(name: str) -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none; made once per process."""
    try:
        return ctypes.CDLL(str(build(name, cache_folder() / "native"))), None
    except (OSError, subprocess.SubprocessError) as error:
        fault = _first_line(error)
        if isinstance(error, CacheFault):
            _warn_of_cache(fault)
        else:
            _log.info("%s.cpp is not used: %s", name, fault)
        return None, fault


class CacheFault(OSError):
    """Compiled programs cannot be kept."""


@functools.cache
def _warn_of_cache(fault: str) -> None:
    _log.warning("%s, so that tracking is slower: set VIL_CACHE to a folder that can be", fault)


def build(name: str, folder: Path) -> Path:
    """Compile ``name``.cpp into a folder, unless that was done before for this source, compiler and processor.

    Raises:
        OSError: no compiler, another system than Linux, or (:class:`CacheFault`) the folder cannot be written.
        subprocess.SubprocessError: the compiler failed.
        UserError: VIL_ISA names instructions that this processor has not.
    """
    if sys.platform != "linux":
        raise OSError(f"they are compiled on Linux only, this is {sys.platform}")
    architecture = _architecture()
    compiler = next((path for path in map(shutil.which, _compilers()) if path is not None), None)
    if compiler is None:
        raise OSError("no C++ compiler: install g++")
    source = Path(__file__).with_name(f"{name}.cpp")
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    version = _run([compiler, "--version"]).splitlines()[0]
    key = "\n".join([*texts, version, *_FLAGS, architecture, platform.machine(), processor()])
    target = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if target.is_file():
        return target
    _log.info("compiling %s with %s, once", source.name, version)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=folder)  # so that no other process sees half a file
    except OSError as error:
        raise CacheFault(f"the cache folder {folder} cannot be written ({error.strerror})") from error
    with place as own:
        made = Path(own) / target.name
        _run([compiler, *_FLAGS, architecture, "-o", str(made), str(source)])
        os.replace(made, target)
    return target


def _architecture() -> str:
    """The compiler's option for the instructions to use: all that this processor has, unless VIL_ISA says less."""
    name = os.environ.get("VIL_ISA")
    if not name:
        return "-march=native"
    known = INSTRUCTION_SETS.get(name)
    if known is None:
        raise UserError(f"VIL_ISA={name} is no instruction set: choose from {', '.join(INSTRUCTION_SETS)}, or unset it")
    march = known.march.get(platform.machine())
    missing = set(known.flags) - set(processor().split())
    if march is None or missing:
        what = f"lacks {', '.join(sorted(missing))}" if march else f"is {platform.machine()}"
        raise UserError(f"VIL_ISA={name}: this processor {what}; choose another one, or unset it")
    return f"-march={march}"


def _compilers() -> tuple[str, ...]:
    chosen = os.environ.get("CXX")
    return (chosen,) if chosen else ("g++", "clang++")


def _run(command: list[str]) -> str:
    """What a command prints; 120 s at most."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def processor() -> str:
    """What ``-march=native`` depends on, and where Linux does not say that, the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _first_line(error: Exception) -> str:
    text = (error.stderr if isinstance(error, subprocess.CalledProcessError) else "") or str(error)
    lines = text.splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)
