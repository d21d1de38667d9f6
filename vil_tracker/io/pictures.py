"""Outputs to look at: the annotated video, clips of the targets, a sheet of key frames, the score over time."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vil_tracker.data.crops import crop, geometry_for_box
from vil_tracker.errors import atomic_write, require_extra
from vil_tracker.images import write_image
from vil_tracker.io.box_writers import Output
from vil_tracker.io.draw import STATE_COLOURS, Colour, draw_results, text_image
from vil_tracker.io.source import Frame
from vil_tracker.io.video_writer import VideoSink, choose_codec
from vil_tracker.results import STATES, Result

PAPER: Colour = (248, 249, 250)
INK: Colour = (52, 58, 64)


class AnnotatedVideo(Output):
    """The source with the results drawn in, as a video file."""

    def __init__(self, sink: VideoSink) -> None:
        self._sink = sink

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        self._sink.write(draw_results(frame.image, results), frame.time)

    def finish(self) -> None:
        self._sink.finish()

    def abandon(self) -> None:
        self._sink.abandon()


class TargetClips(Output):
    """One square video per target, ``target-1.webm`` and so on, that stays on the target.

    The clip shows twice the target's size in 256 pixels; its zoom follows the target's size smoothly.
    """

    def __init__(self, folder: Path, fps: float, codec: str = "auto") -> None:
        self._folder, self._fps, self._codec = folder, fps, choose_codec(codec)
        self._sinks: dict[int, VideoSink] = {}
        self._sides: dict[int, float] = {}

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        for number, result in results.items():
            if number not in self._sinks:
                self._sinks[number] = VideoSink(self._folder, f"target-{number}.partial", self._fps, self._codec)
            geometry = geometry_for_box(result.box, 2.0, 256)
            side = 0.9 * self._sides.get(number, geometry.side) + 0.1 * geometry.side
            self._sides[number] = side
            self._sinks[number].write(crop(frame.image, replace(geometry, side=side)), frame.time)

    def finish(self) -> None:
        for sink in self._sinks.values():
            sink.finish()

    def abandon(self) -> None:
        for sink in self._sinks.values():
            sink.abandon()


@dataclass(frozen=True)
class Thumbnail:
    """A small annotated picture with its caption."""

    image: np.ndarray
    caption: str


def thumbnail(frame: Frame, results: Mapping[int, Result], width: int) -> Thumbnail:
    """Shrink a frame to ``width`` pixels and draw the results at that size, so that labels stay legible.

    A box is drawn around its target, with some room around a small one, so that its line hides nothing of it.
    """
    h, w = frame.image.shape[:2]
    scale = width / w
    size = (width, max(1, min(round(h * scale), 4 * width)))
    image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    factors = np.array([size[0] / w, size[1] / h] * 2)
    scaled = {number: replace(result, box=_with_room(result.box * factors)) for number, result in results.items()}
    return Thumbnail(draw_results(image, scaled), f"frame {frame.number}   {frame.time:.2f} s")


def _with_room(box: np.ndarray) -> np.ndarray:
    """An xywh box whose line, three pixels wide with its halo, lies outside; the inside is at least 16 pixels wide."""
    room = 2.0 + np.maximum(0.0, 16.0 - box[2:]) / 2
    return np.concatenate((box[:2] - room, box[2:] + 2 * room))


def contact_sheet(thumbnails: Sequence[Thumbnail], columns: int, gap: int = 12) -> np.ndarray:
    """Lay out thumbnails with their captions in rows; returns (H, W, 3) uint8 RGB."""
    captions = [text_image(t.caption, 13, INK, PAPER) for t in thumbnails]
    cell_w = max(t.image.shape[1] for t in thumbnails)
    cell_h = max(t.image.shape[0] for t in thumbnails)
    caption_h = max(c.shape[0] for c in captions)
    columns = min(columns, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    sheet = np.empty((gap + rows * (cell_h + caption_h + gap), gap + columns * (cell_w + gap), 3), np.uint8)
    sheet[:] = PAPER
    for i, (thumb, caption) in enumerate(zip(thumbnails, captions, strict=True)):
        y, x = gap + (i // columns) * (cell_h + caption_h + gap), gap + (i % columns) * (cell_w + gap)
        h, w = thumb.image.shape[:2]
        sheet[y : y + h, x : x + w] = thumb.image
        w = min(caption.shape[1], cell_w)
        sheet[y + cell_h : y + cell_h + caption.shape[0], x : x + w] = caption[:, :w]
    return sheet


class KeyFrames(Output):
    """One picture with up to ``count`` evenly spaced frames of the run, ``columns`` in a row, each of so many pixels.

    The length of a run is not known beforehand, so up to four times as many frames as needed are kept, at growing
    distances; the memory stays constant.
    """

    def __init__(self, path: Path, count: int = 8, columns: int = 8, width: int = 320) -> None:
        self._path = path
        self._count, self._columns, self._width = count, columns, width
        self._kept: list[tuple[int, Thumbnail]] = []
        self._every, self._seen = 1, 0
        self._last: tuple[Frame, Mapping[int, Result]] | None = None

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        if self._seen % self._every == 0 and len(self._kept) >= 4 * self._count:
            self._kept = self._kept[::2]
            self._every *= 2
        keep = self._seen % self._every == 0
        if keep:
            self._kept.append((self._seen, thumbnail(frame, results, self._width)))
        self._last = None if keep else (frame, results)
        self._seen += 1

    def finish(self) -> None:
        if self._last is not None:
            self._kept.append((self._seen - 1, thumbnail(*self._last, self._width)))
        if self._kept:
            positions = np.array([position for position, _ in self._kept])
            wanted = np.linspace(0, positions[-1], min(self._count, len(positions)))
            shown = np.unique(np.abs(positions[:, None] - wanted).argmin(0))
            write_image(self._path, contact_sheet([self._kept[i][1] for i in shown], self._columns))


class ScorePlot(Output):
    """The score of each target over time as a picture, with the states as a coloured band (extra ``plots``)."""

    def __init__(self, path: Path) -> None:
        require_extra("matplotlib", "plots", "draw the score plot")
        self._path = path
        self._seen: dict[int, tuple[array[float], array[float], array[int]]] = {}  # times, scores, states by target

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        for number, result in results.items():  # nine bytes per frame: an hour of video takes one megabyte
            times, scores, states = self._seen.setdefault(number, (array("f"), array("f"), array("b")))
            times.append(frame.time)
            scores.append(result.score)
            states.append(STATES.index(result.state))

    def finish(self) -> None:
        if not self._seen:
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 0.6 + 1.9 * len(self._seen)), layout="constrained", dpi=110)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(len(self._seen), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (number, seen) in zip(axes, self._seen.items(), strict=True):
            times, scores, states = map(np.array, seen)
            edges = np.append(times, times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1))
            for index, state in enumerate(STATES):
                colour = np.array(STATE_COLOURS[state]) / 255
                inside = np.append(states == index, False)
                inside[1:] |= inside[:-1]  # a band reaches to the next frame
                axis.fill_between(edges, -0.08, -0.02, where=inside, color=colour, label=state, linewidth=0)
            axis.plot(times, scores, color=np.array(INK) / 255, linewidth=1.2)
            axis.set(ylim=(-0.1, 1.05), ylabel=f"score of target {number}")
            axis.margins(x=0)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="y", alpha=0.25)
        axes[-1].set_xlabel("time in seconds")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(STATES), frameon=False)
        with atomic_write(self._path) as stream:
            canvas.print_png(stream)
