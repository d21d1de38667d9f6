"""Single frames of videos for visitors, by a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from starlette.concurrency import run_in_threadpool

from vil_tracker.errors import UserError
from vil_tracker.web.child import ChildFailure, WorkerProcess
from vil_tracker.web.limits import Limits
from vil_tracker.web.requests import RequestError
from vil_tracker.web.store import QuotaExceeded, Video

log = logging.getLogger(__name__)

_REQUESTS = 8  # of one visitor that wait or go on


class FrameService:
    """Visitors wait in turn, a few requests each; the process is one of :func:`vil_tracker.web.work.probe_setup`."""

    def __init__(self, process: WorkerProcess, limits: Limits) -> None:
        self._process, self._limits = process, limits
        self._visitors: list[str] = []  # once per request
        self._lock = asyncio.Lock()
        self._open = False

    async def ask(self, video: Video, frame: int, **wish: Any) -> Any:
        """A frame as ``{"jpeg": base64}``; with ``point=[x, y]`` the boxes of a click on it, ``{"boxes": [...]}``.

        UserError where the video has no such frame, RequestError where it cannot be decoded, QuotaExceeded where the
        visitor asked for too many at once.
        """
        if frame >= self._limits.frames:
            raise RequestError(400, "no video may have that many frames")
        if self._visitors.count(video.visitor) >= _REQUESTS:
            raise QuotaExceeded("many frames are asked for at once: try again in a moment")
        self._visitors.append(video.visitor)
        try:
            async with self._lock:
                self._open = True
                request = {"path": str(video.path), "frame": frame, **wish}
                return await run_in_threadpool(self._process.call, request, timeout=self._limits.probe_seconds)
        except ChildFailure as error:
            log.warning("a frame was not shown: %s", error)
            raise RequestError(415, "this frame of the video cannot be decoded: it may be damaged") from error
        finally:
            self._visitors.remove(video.visitor)

    async def rest(self) -> None:
        """Let go of the video that was asked for last, unless somebody waits: deleted, it would keep its room."""
        if self._open and not self._visitors:
            async with self._lock:
                self._open = False
                with contextlib.suppress(ChildFailure, UserError):
                    await run_in_threadpool(self._process.call, {"rest": True}, timeout=self._limits.probe_seconds)

    def close(self) -> None:
        self._process.close()
