"""Video files of many kinds, written with PyAV, whose frames tell their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tracking_fakes import numbered_frame


@dataclass(frozen=True)
class Recipe:
    """How a video file is made.

    Attributes:
        suffix: of the container.
        encoder: FFmpeg's name.
        options: the encoder's.
        interlaced: two fields per frame.
        clock: units of a second in which the container stores times; 0 where it stores none.
    """

    suffix: str
    encoder: str
    clock: int
    options: dict[str, str] = field(default_factory=dict)
    interlaced: bool = False
    pix_fmt: str = "yuv420p"


RECIPES = {
    "h264 mp4": Recipe(".mp4", "libx264", 12800, {"bf": "0", "crf": "12"}),
    "h264 mp4, B-frames": Recipe(".mp4", "libx264", 12800, {"bf": "3", "b-adapt": "0", "crf": "12"}),
    "h264 mkv, 10 bits": Recipe(".mkv", "libx264", 1000, {"bf": "2", "crf": "12"}, pix_fmt="yuv420p10le"),
    "h264 avchd": Recipe(".mts", "libx264", 90000, {"x264-params": "tff=1:bframes=2", "crf": "12"}, interlaced=True),
    "mpeg2 dvd": Recipe(".mpg", "mpeg2video", 90000, {"flags": "+ilme+ildct", "b": "4M", "g": "6"}, interlaced=True),
    "mpeg2 ts": Recipe(".ts", "mpeg2video", 90000, {"bf": "2", "b": "4M"}),
    "vp9 webm": Recipe(".webm", "libvpx-vp9", 1000, {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}),
    "av1 mp4": Recipe(".mp4", "libsvtav1", 12800, {"preset": "12", "crf": "20"}),
    "mjpeg mov": Recipe(".mov", "mjpeg", 12800, pix_fmt="yuvj422p"),
    "prores mov": Recipe(".mov", "prores_ks", 12800, pix_fmt="yuv422p10le"),
    "mpeg4 avi": Recipe(".avi", "mpeg4", 0, {"b": "4M"}),
    "h264 avi, B-frames": Recipe(".avi", "libx264", 0, {"bf": "2", "crf": "12"}),
}


def write_file(
    folder: Path,
    recipe: Recipe,
    times: Sequence[float],
    *,
    rate: Fraction = Fraction(25),
    size: tuple[int, int] = (96, 64),
    aspect: Fraction = Fraction(1),
    matrix: tuple[int, int, int, int] | None = None,
) -> Path:
    """Write frames 0, 1, … at their times in seconds.

    Args:
        folder: where the file is made.
        recipe: one of :data:`RECIPES`.
        times: presentation time of each frame, rising.
        rate: what the header states.
        size: width, height of the stored frames.
        aspect: width of a pixel over its height.
        matrix: a, b, c, d of the display matrix: a stored point (x, y) is shown at (a·x + c·y, b·x + d·y).
    """
    path = folder / f"video{recipe.suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(recipe.encoder, rate=rate, options=dict(recipe.options))
        stream.width, stream.height, stream.pix_fmt = *size, recipe.pix_fmt
        context = stream.codec_context
        free = recipe.clock and recipe.encoder != "mpeg2video"  # which knows only the rates of television
        context.time_base = Fraction(1, recipe.clock) if free else 1 / rate
        if aspect != 1:
            context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (65536 * value for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            frame.time_base = context.time_base
            frame.pts = round(Fraction(time) / context.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown(image: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """A stored picture as the display matrix shows it, point by point."""
    a, b, c, d = matrix
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    p, q = a * x + c * y, b * x + d * y
    p, q = p - p.min(), q - q.min()
    out = np.empty((q.max() + 1, p.max() + 1, 3), np.uint8)
    out[q, p] = image[y, x]
    return out
