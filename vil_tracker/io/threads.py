"""Decoding before and writing behind the tracker, each in a thread of its own, with bounded queues between them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vil_tracker.io.box_writers import Output
from vil_tracker.io.source import Frame
from vil_tracker.results import Result
from vil_tracker.runtime import StageTimer

_DEPTH = 4  # frames waiting between two threads


def prefetch(frames: Iterable[Frame], timer: StageTimer) -> Iterator[Frame]:
    """Decode in another thread, a few frames ahead; its exceptions are raised here."""
    handed: queue.Queue[Frame | BaseException | None] = queue.Queue(_DEPTH)
    stop = threading.Event()

    def hand_over(item: Frame | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                handed.put(item, timeout=0.1)
                return

    def decode() -> None:
        iterator = iter(frames)
        try:
            while not stop.is_set():
                with timer.stage("decode"):
                    frame = next(iterator, None)
                hand_over(frame)
                if frame is None:
                    return
        except BaseException as error:  # handed to the consumer, who raises it
            hand_over(error)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        while (item := handed.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=2.0)  # one that waits for a silent pipe is left behind


class BackgroundWriter:
    """Feeds the outputs in another thread, through a bounded queue."""

    def __init__(self, outputs: Sequence[Output], timer: StageTimer) -> None:
        self._outputs, self._timer = outputs, timer
        self._queue: queue.Queue[tuple[Frame, Mapping[int, Result]] | None] = queue.Queue(_DEPTH)
        self._failure: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None or self._abandoned:
                continue  # keep the queue moving until put() raises it
            try:
                with self._timer.stage("write"):
                    for output in self._outputs:
                        output.write(*item)
            except BaseException as error:  # raised by the next put() or finish()
                self._failure = error

    def put(self, frame: Frame, results: Mapping[int, Result]) -> None:
        """Pass on one frame; waits while the writer is behind. Raises what writing an earlier frame raised."""
        if self._failure is not None:
            raise self._failure
        self._queue.put((frame, results))

    def finish(self) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        with self._timer.stage("write"):
            for output in self._outputs:
                output.finish()

    def abandon(self) -> None:
        self._abandoned = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        for output in self._outputs:
            output.abandon()
