"""Drawing results into frames."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vil_tracker.results import Result

Colour = tuple[int, int, int]

STATE_COLOURS: dict[str, Colour] = {  # RGB
    "tracking": (46, 204, 113),
    "uncertain": (255, 176, 32),
    "lost": (240, 72, 72),
    "recovered": (72, 149, 255),
}
_HALO: Colour = (16, 20, 24)
_SHIFT = 4  # OpenCV draws at 1/16 pixel: boxes glide instead of jumping from pixel to pixel


def draw_results(image: np.ndarray, results: Mapping[int, Result]) -> np.ndarray:
    """Draw each target's box with its id, score and, unless it is simply tracked, state, into a copy of the image.

    A lost target shows the corners only of the place where it is looked for. The image is (H, W, 3) uint8 RGB; results
    are by target id, their boxes in its pixels.
    """
    picture = np.ascontiguousarray(image).copy()
    unit = min(image.shape[:2])
    thickness = max(1, round(unit / 240))
    text_height = int(np.clip(round(unit * 0.036), 12, 96))
    for result in results.values():
        _draw_box(picture, result, thickness)
    for number, result in results.items():  # labels last, so that no box crosses one
        _draw_label(picture, result, label_text(number, result), thickness, text_height)
    return picture


def label_text(number: int, result: Result) -> str:
    """``"1  0.93"``, with the state where it is not plain tracking: ``"1  uncertain  0.41"``."""
    state = "" if result.state == "tracking" else f"{result.state}  "
    return f"{number}  {state}{result.score:.2f}"


def _draw_box(picture: np.ndarray, result: Result, thickness: int) -> None:
    x, y, w, h = result.box
    colour = STATE_COLOURS[result.state]
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]) - 0.5  # OpenCV: pixel i has its centre at i
    if result.state == "lost":
        lines = []
        for i, corner in enumerate(corners):
            before, after = corners[i - 1], corners[(i + 1) % 4]
            lines.append(np.array([corner + 0.22 * (before - corner), corner, corner + 0.22 * (after - corner)]))
        closed = False
    else:
        lines, closed = [corners], True
    points = [np.round(np.clip(line, -1e5, 1e5) * (1 << _SHIFT)).astype(np.int32) for line in lines]
    cv2.polylines(picture, points, closed, _HALO, thickness + 2, cv2.LINE_AA, _SHIFT)
    cv2.polylines(picture, points, closed, colour, thickness, cv2.LINE_AA, _SHIFT)


def _draw_label(picture: np.ndarray, result: Result, text: str, thickness: int, text_height: int) -> None:
    height, width = picture.shape[:2]
    mask, plate = _label_masks(text, text_height)
    h, w = mask.shape[:2]
    x, y = round(float(result.box[0]) - thickness), round(float(result.box[1]) - thickness - h)
    if y < 0:  # no room above: below the box, or inside it where it fills the frame
        below = round(float(result.box[1] + result.box[3]) + thickness)
        y = below if below + h <= height else max(0, round(float(result.box[1])) + thickness)
    x, y = max(0, min(x, width - w)), max(0, min(y, height - h))
    region = picture[y : y + h, x : x + w]
    mask, plate = mask[: region.shape[0], : region.shape[1]], plate[: region.shape[0], : region.shape[1]]
    colour = np.array(STATE_COLOURS[result.state], np.float32)
    ink = np.array(_HALO, np.float32)  # dark on the state's colour: all four are light enough for it
    blended = region + plate * (colour - region)
    region[:] = np.round(blended + mask * (ink - blended)).astype(np.uint8)


@functools.lru_cache(maxsize=512)
def _label_masks(text: str, text_height: int) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (h, w, 1) in [0, 1] of the letters and of the rounded plate behind them."""
    font = ImageFont.load_default(text_height)
    left, _, right, _ = font.getbbox(text)
    top, bottom = font.getbbox("0lg")[1], font.getbbox("0l")[3]
    pad = max(3, text_height // 3)
    size = (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad)
    letters, plate = Image.new("L", size), Image.new("L", (4 * size[0], 4 * size[1]))
    ImageDraw.Draw(letters).text((pad - left, pad - top), text, fill=255, font=font)
    ImageDraw.Draw(plate).rounded_rectangle(
        (0, 0, 4 * size[0] - 1, 4 * size[1] - 1), radius=4 * max(2, pad // 2), fill=242
    )
    smooth = plate.resize(size, Image.Resampling.BOX)
    return np.asarray(letters, np.float32)[..., None] / 255, np.asarray(smooth, np.float32)[..., None] / 255


def text_image(text: str, text_height: int, colour: Colour, background: Colour) -> np.ndarray:
    """One line of text as a (h, w, 3) uint8 RGB image."""
    mask, _ = _label_masks(text, text_height)
    ink, paper = np.array(colour, np.float32), np.array(background, np.float32)
    return np.round(paper + mask * (ink - paper)).astype(np.uint8)
