"""Where the time of a run goes, part by part."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

STAGES = ("decode", "crop", "network", "track", "write")


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
        """Add the time spent in the ``with`` block to part ``name``."""
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
