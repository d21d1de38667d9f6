"""The queue of runs and the worker processes that take them, one run at a time each."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from vil_tracker.errors import UserError
from vil_tracker.web.child import ChildFailure, Handler, WorkerProcess
from vil_tracker.web.limits import Limits
from vil_tracker.web.store import QuotaExceeded, Store, Video

log = logging.getLogger(__name__)


class Jobs:
    """Runs wait in one queue, first come first served; the store learns how much each left on the disk."""

    def __init__(self, setup: Callable[[], Handler], limits: Limits, store: Store) -> None:
        self._limits, self._store = limits, store
        self._queue: deque[Video] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._running: dict[Video, WorkerProcess] = {}
        self._children = [WorkerProcess(setup, f"tracking process {number}") for number in range(1, limits.workers + 1)]
        self._threads = [threading.Thread(target=self._work, args=(child,), daemon=True) for child in self._children]

    def start(self) -> None:
        """Start the processes, and wait for the first of them; raises as :meth:`WorkerProcess.call`, of its setup."""
        self._children[0].start()
        for thread in self._threads:
            thread.start()

    def submit(self, video: Video, targets: list[dict[str, Any]]) -> None:
        """Put a run into the queue; UserError where the video has one, QuotaExceeded where there is no place."""
        with self._changed:
            if video.busy:
                raise UserError("this video is being tracked already: wait, or stop it first")
            most = self._limits.runs_per_visitor
            if sum(other.visitor == video.visitor for other in (*self._queue, *self._running)) >= most:
                raise QuotaExceeded(f"you have {most} runs under way already: wait for one to end")
            if len(self._queue) >= self._limits.waiting:
                raise QuotaExceeded("the queue is full: try again in a minute")
            with video.lock:
                video.run += 1
                video.status, video.targets, video.rows, video.tracked = "waiting", targets, [], 0
                video.draft, video.edits = targets, video.edits + 1
                video.result, video.error = None, ""
            self._queue.append(video)
            self._changed.notify()

    def position(self, video: Video) -> int:
        """Runs ahead of a waiting one, those under way included; 0 otherwise."""
        with self._changed:
            return len(self._running) + self._queue.index(video) if video in self._queue else 0

    def stop(self, video: Video) -> None:
        """Take a run out of the queue, or end it after its current frame (its files are completed)."""
        with self._changed:
            if video in self._queue:
                self._queue.remove(video)
                self._end(video, "stopped")
            elif video in self._running:
                self._running[video].stop()

    def close(self) -> None:
        """End the processes; runs under way are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for child in self._children:
            child.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=10)

    def _work(self, child: WorkerProcess) -> None:
        try:
            child.start()
        except (ChildFailure, UserError) as error:
            log.error("%s; it is tried again at the next run", error)
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                video = self._queue.popleft()
                self._running[video] = child
                with video.lock:
                    video.status, video.started = "running", time.monotonic()
            status, result, message = self._run(child, video)
            for folder in video.earlier_runs() if result is not None else ():
                shutil.rmtree(folder, ignore_errors=True)
            with self._changed:
                del self._running[video]
                self._end(video, status, result, message)
            if video.removed:
                self._store.remove_folder(video.folder)
            else:
                self._store.recount(video)

    def _run(self, child: WorkerProcess, video: Video) -> tuple[str, dict[str, Any] | None, str]:
        """Let the process go through the video; returns the status, the result and the error of the run."""

        def on_event(rows: list[list[Any]]) -> None:
            with video.lock:
                video.rows.extend(rows)
                video.tracked += len({row[0] for row in rows})

        request = {
            "path": str(video.path),
            "folder": str(video.run_folder),
            "targets": video.targets,
            "earlier": str(next(iter(video.earlier_runs()), video.run_folder)),
        }
        try:
            result = child.call(request, timeout=self._limits.run_seconds, on_event=on_event)
        except UserError as fault:
            return "failed", None, str(fault)
        except ChildFailure as failure:
            if not self._closing:
                log.error("%s", failure)
            return "failed", None, "the tracker could not go through this video: it may be damaged"
        result["limited"] = result["limited"] and video.info["frames"] != self._limits.frames
        return ("stopped" if result["stopped"] else "done"), result, ""

    @staticmethod
    def _end(video: Video, status: str, result: dict[str, Any] | None = None, error: str = "") -> None:
        with video.lock:
            video.status, video.result, video.error, video.touched = status, result, error, time.time()
            if result is not None:
                video.tracked = result["frames"]
