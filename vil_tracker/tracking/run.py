"""Running trackers over a source: decoding, tracking and writing overlap, and the memory stays constant."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vil_tracker.boxes import check_box
from vil_tracker.errors import UserError
from vil_tracker.io.box_writers import BOX_FORMATS, CsvBoxes, Output
from vil_tracker.io.output_folder import OutputFolder, partial_name
from vil_tracker.io.pictures import AnnotatedVideo, KeyFrames, ScorePlot, TargetClips
from vil_tracker.io.source import Frame, Source
from vil_tracker.io.threads import BackgroundWriter, prefetch
from vil_tracker.io.video_writer import VideoSink
from vil_tracker.results import Result, TrackerLike
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking.select import Target
from vil_tracker.tracking.tracker import Tracker, update_together
from vil_tracker.tracking.window import Viewer

log = logging.getLogger(__name__)

MIN_SIDE = 4  # pixels of a box to start from


@dataclass(frozen=True)
class OutputSettings:
    """What a run leaves behind.

    Attributes:
        folder: where the files go.
        formats: names of :data:`vil_tracker.io.box_writers.BOX_FORMATS`.
        video: write the annotated video.
        codec: codec of the videos, one of :data:`vil_tracker.io.video_writer.CODECS`.
        sound: copy the source's sound into the annotated video.
        target_clip: write a clip of each target.
        strip: write eight key frames in a row, ``strip.png``.
        contact_sheet: write twelve key frames as a sheet, ``contact-sheet.png``.
        score_plot: draw the score over time, ``scores.png``.
        overwrite: replace another run's files in the folder, instead of taking the folder's name with ``-2``.
        reads: files that the run reads; see :class:`vil_tracker.io.output_folder.OutputFolder`.
    """

    folder: Path
    formats: tuple[str, ...] = ("csv",)
    video: bool = True
    codec: str = "auto"
    sound: bool = True
    target_clip: bool = False
    strip: bool = False
    contact_sheet: bool = False
    score_plot: bool = False
    overwrite: bool = False
    reads: tuple[Path, ...] = ()

    def open(self, folder: Path, source: Source, stride: int = 1) -> list[Output]:
        """Begin the outputs in a folder, of a source of which every stride-th frame is given.

        They have the names of :func:`vil_tracker.io.output_folder.partial_name`. A table of the boxes is among them in
        any case, for a run that is killed. UserError where one cannot be written here; none is left open.
        """
        outputs: list[Output] = []
        fps = source.fps / stride
        try:
            for name in self.formats:
                file, kind = BOX_FORMATS[name]
                outputs.append(kind(folder / partial_name(file)))
            if "csv" not in self.formats:
                outputs.append(CsvBoxes(folder / partial_name("boxes.csv"), keep=False))
            if self.video:
                stem, aspect, sound = "annotated.partial", source.pixel_aspect, source.sound if self.sound else None
                sink = VideoSink(folder, stem, fps, self.codec, pixel_aspect=aspect, sound=sound)
                outputs.append(AnnotatedVideo(sink))
            if self.target_clip:
                outputs.append(TargetClips(folder, fps, self.codec))
            if self.strip:
                outputs.append(KeyFrames(folder / partial_name("strip.png")))
            if self.contact_sheet:
                outputs.append(KeyFrames(folder / partial_name("contact-sheet.png"), count=12, columns=4))
            if self.score_plot:
                outputs.append(ScorePlot(folder / partial_name("scores.png")))
        except BaseException:
            for output in outputs:
                output.abandon()
            raise
        return outputs


@dataclass
class Summary:
    """How a run went.

    Attributes:
        frames: frames tracked.
        first, last: their first and last number in the source.
        seconds: wall time, from the first frame on (loading the model is not in it).
        files: what was written.
        slowest: the part that took most of the time.
        timing: where the time went, one line.
        states: by target id, how many frames were in which state.
        signal: the signal that ended the run, or None.
        fault: why the source could not be read to its end, or None.
        dropped: frames that a live source delivered and nobody had time for.
        reconnections: how often a live source had to be connected again.
    """

    first: int
    frames: int = 0
    last: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    slowest: str = ""
    timing: str = ""
    states: dict[int, Counter[str]] = field(default_factory=dict)
    signal: signal.Signals | None = None
    fault: UserError | None = None
    dropped: int = 0
    reconnections: int = 0

    def count(self, frame: Frame, results: Mapping[int, Result]) -> None:
        self.frames += 1
        self.last = frame.number
        for number, result in results.items():
            self.states.setdefault(number, Counter())[result.state] += 1


class TargetGroup:
    """One tracker per target, made by ``make_tracker``; a target may join at a later frame.

    Args:
        first: the first frame, on which targets without a frame of their own begin.
        corrections: boxes from which a target goes on, each on its frame (or the first one tracked after it).
        known: results of an earlier run by target id and frame, which are taken over; a target that is not known on a
            frame must have been tracked since its last box.

    Raises:
        UserError: a box does not fit its frame or comes too early, or a correction is for no target.
    """

    def __init__(
        self,
        make_tracker: Callable[[], TrackerLike],
        targets: Sequence[Target],
        first: Frame,
        timer: StageTimer,
        corrections: Sequence[Target] = (),
        known: Mapping[int, Mapping[int, Result]] | None = None,
    ) -> None:
        self._timer, self._known = timer, known or {}
        self._corrections = sorted(corrections, key=lambda item: item.frame or 0)
        self._trackers: dict[int, TrackerLike] = {}
        height, width = first.image.shape[:2]
        for target in targets:
            if target.frame is not None and target.frame < first.number:
                raise UserError(
                    f"the box of target {target.number} is for frame {target.frame}, but tracking begins at frame "
                    f"{first.number}: start there, or give a box for the first frame"
                )
            if target.frame is None or target.frame == first.number:
                x, y, w, h = check_box(target.box, width, height)
                if min(w, h) < MIN_SIDE:
                    raise UserError(
                        f"box {x:g},{y:g},{w:g},{h:g} has a side below {MIN_SIDE} pixels, too little to follow: give "
                        "x,y,w,h in pixels, draw it around more, or scale the video up first (ffmpeg -vf scale=4*iw:-2)"
                    )
        begins = {target.number: max(target.frame or 0, first.number) for target in targets}
        for item in self._corrections:
            if item.number not in begins:
                raise UserError(f"the correction on frame {item.frame} is for target {item.number}, which there is not")
            if (item.frame or 0) <= begins[item.number]:
                raise UserError(
                    f"the correction of target {item.number} is for frame {item.frame}, but it is tracked from frame "
                    f"{begins[item.number]} on: correct it on a later frame"
                )
        self._waiting = [(target, make_tracker()) for target in targets]
        for _, tracker in self._waiting:
            if isinstance(tracker, Tracker):
                tracker.timer = timer

    def step(self, frame: Frame) -> dict[int, Result]:
        """Results for one frame by target id, those of targets that have joined."""
        with self._timer.stage("track"):
            earlier = {number: self._known.get(number, {}).get(frame.number) for number in self._trackers}
            results = {number: result for number, result in earlier.items() if result is not None}
            moving = {number: tracker for number, tracker in self._trackers.items() if number not in results}
            results |= zip(moving, _update_all(list(moving.values()), frame.image), strict=True)
            due = [item for item in self._waiting if item[0].frame is None or item[0].frame <= frame.number]
            self._waiting = [item for item in self._waiting if item not in due]
            for target, tracker in due:
                results[target.number] = tracker.init(frame.image, target.box)
                self._trackers[target.number] = tracker
            while self._corrections and (self._corrections[0].frame or 0) <= frame.number:
                item = self._corrections.pop(0)
                results[item.number] = self.correct(item.number, frame, item.box)
            return dict(sorted(results.items()))

    def correct(self, number: int, frame: Frame, box: np.ndarray) -> Result:
        """Go on with a target from a box that the user drew on this frame; one that cannot correct begins again."""
        tracker = self._trackers[number]
        result: Result = getattr(tracker, "correct", tracker.init)(frame.image, box)
        return result

    def missing(self) -> list[str]:
        """What has not come up yet: targets that were to join, corrections."""
        joining = [f"target {target.number} was to begin" for target, _ in self._waiting]
        return joining + [
            f"target {item.number} was to be corrected (frame {item.frame})" for item in self._corrections
        ]


def _update_all(trackers: list[TrackerLike], image: np.ndarray) -> list[Result]:
    """Update each tracker; those of this package go through their network together."""
    own = [tracker for tracker in trackers if isinstance(tracker, Tracker)]
    if len(own) == len(trackers) > 1:
        return update_together(own, image)
    return [tracker.update(image) for tracker in trackers]


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP arrived."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


class Gate:
    """Decides what a signal does: end the loop while open, nothing once the files are being completed."""

    open = True

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.open:
            self.open = False
            raise Interrupted(signal.Signals(number))


@contextlib.contextmanager
def interruptible() -> Iterator[Gate]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise :class:`Interrupted` in the ``with`` block (main thread only).

    One that is ignored, as ``nohup`` wants it, stays ignored.
    """
    gate = Gate()
    if threading.current_thread() is not threading.main_thread():
        yield gate
        return
    numbers = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no SIGHUP
    heard = {number for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, gate) for number in heard}
    try:
        yield gate
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def track_source(
    source: Source,
    choose_targets: Callable[[Frame], Sequence[Target]],
    make_tracker: Callable[[], TrackerLike],
    settings: OutputSettings,
    *,
    stride: int = 1,
    limit: int | None = None,
    viewer: Viewer | None = None,
    progress: bool = True,
    on_frame: Callable[[Frame, Mapping[int, Result]], bool | None] | None = None,
    timer: StageTimer | None = None,
    corrections: Sequence[Target] = (),
    known: Mapping[int, Mapping[int, Result]] | None = None,
) -> Summary:
    """Follow targets through a source and write what ``settings`` asks for.

    An error leaves nothing behind; SIGINT, SIGTERM, SIGHUP and a source that cannot be read any further leave complete
    files up to that frame; a killed process leaves the boxes up to then, see :mod:`vil_tracker.io.output_folder`.

    Args:
        source: from :func:`vil_tracker.io.files.open_source`.
        choose_targets: given the first frame, says what to follow.
        make_tracker: gives a new tracker; called once per target.
        settings: the files to write.
        stride: the source's, by which the rate of the videos is divided.
        limit: stop after so many frames.
        viewer: shows every frame and takes corrections.
        progress: show a progress bar if standard error is a terminal.
        on_frame: called with every frame and its results; returning False ends the run.
        timer: adds up the time of the parts.
        corrections, known: see :class:`TargetGroup`.

    Raises:
        UserError: of the source, a box, or an output.
    """
    timer = timer or StageTimer()
    # A live source has a thread of its own; a queue behind it would only add delay.
    frames = iter(source) if source.live else prefetch(source, timer)
    with contextlib.ExitStack() as stack:
        stack.callback(source.close)
        if hasattr(frames, "close"):
            stack.callback(frames.close)
        first = next(frames, None)
        if first is None:
            raise UserError(f"{source.name} gave no frame: check the source")
        group = TargetGroup(make_tracker, choose_targets(first), first, timer, corrections, known)
        begin = time.perf_counter()
        results = group.step(first)
        summary = Summary(first=first.number)
        folder = OutputFolder(
            settings.folder, overwrite=settings.overwrite, reads=settings.reads, labels="yolo" in settings.formats
        )
        writer: BackgroundWriter | None = None
        try:
            outputs = settings.open(folder.path, source, stride)
            writer = BackgroundWriter(outputs, timer)
            total = source.total if limit is None else min(limit, source.total or limit)
            bar = tqdm(total=total, unit="frame", disable=None if progress else True, leave=False, dynamic_ncols=True)
            with interruptible() as gate:
                try:
                    with bar, logging_redirect_tqdm([logging.getLogger("vil_tracker")]):
                        frame: Frame | None = first
                        while frame is not None:
                            proceed = viewer is None or _look(viewer, group, frame, results)
                            writer.put(frame, results)
                            summary.count(frame, results)
                            bar.update()
                            proceed = (on_frame is None or on_frame(frame, results) is not False) and proceed
                            try:
                                frame = next(frames, None) if proceed and summary.frames != limit else None
                            except UserError as error:
                                summary.fault, frame = error, None
                            if frame is not None:
                                results = group.step(frame)
                    gate.open = False
                except Interrupted as interrupt:
                    summary.signal = interrupt.signal
                writer.finish()
                summary.files = folder.publish()
        except BaseException:
            if writer is not None:
                writer.abandon()
            folder.discard()
            raise
    summary.seconds = time.perf_counter() - begin
    summary.slowest = max(timer.seconds, key=timer.seconds.__getitem__, default="")
    summary.timing = timer.report(summary.frames)
    summary.dropped = getattr(source, "dropped", 0)
    summary.reconnections = getattr(source, "reconnections", 0)
    if group.missing() and summary.signal is None and summary.fault is None:
        log.warning("the source ended before %s", ", ".join(group.missing()))
    return summary


def _look(viewer: Viewer, group: TargetGroup, frame: Frame, results: dict[int, Result]) -> bool:
    """Show a frame, taking corrections into ``results``; False when the user quits."""
    while (action := viewer.show(frame.image, results)) == "select":
        box = viewer.select(frame.image) if viewer.chosen in results else None
        if box is not None:
            results[viewer.chosen] = group.correct(viewer.chosen, frame, box)
    return action == "next"
