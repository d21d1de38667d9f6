"""NanoTrack V3 (H. Chu, SiamTrackers, 2023; Apache-2.0) through onnxruntime, as a peer of the evaluator and benchmark.

Backbone and head are the ONNX files of its authors. The session follows SiamBAN (Chen et al., CVPR 2020): crops of
127 and 255 pixels, a cosine window, a penalty for changes of scale and aspect ratio, and a smoothed size. OpenCV's
TrackerNano cannot run V3: it expects score maps of 16 × 16 cells, V3 has 15 × 15.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vil_tracker.errors import UserError, require_extra
from vil_tracker.evaluation.baselines import find_network
from vil_tracker.results import Result

TEMPLATE_SIZE, SEARCH_SIZE = 127, 255  # pixels
STRIDE, CELLS = 16, 15  # pixels between cells of the score map, cells along each side
CONTEXT = 0.5
WINDOW, PENALTY, RATE = 0.455, 0.138, 0.348
MIN_SIDE = 10  # pixels, of a reported box
FILES = ("nanotrack_backbone.onnx", "nanotrack_head.onnx")


def open_session(path: Path, *, free_size: bool = False) -> Any:
    """An onnxruntime session on one CPU thread, with ``free_size`` for inputs of any height and width.

    Raises:
        UserError: a package is missing, or the file is no network.
    """
    onnx = require_extra("onnx", "export", "read NanoTrack's networks")
    onnxruntime = require_extra("onnxruntime", "export", "run NanoTrack's networks")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    try:
        model = onnx.load(path)
        for value in [*model.graph.input, *model.graph.output]:
            dims = value.type.tensor_type.shape.dim
            for axis in (2, 3) if free_size else ():
                dims[axis].dim_param = f"{value.name}_{axis}"
        if free_size:
            del model.graph.value_info[:]
        return onnxruntime.InferenceSession(model.SerializeToString(), options)
    except Exception as error:  # each library has errors of its own
        raise UserError(f"{path} is no network that onnxruntime can run ({str(error)[:120]}): get it again") from error


class NanoTrackNetworks:
    """NanoTrack V3's two networks, whose ONNX files lie below ``folder`` at any depth, on one CPU thread.

    Raises:
        UserError: no folder is given, or a file or a package is missing.
    """

    def __init__(self, folder: Path | None) -> None:
        backbone, head = [find_network("nanotrack:v3", (name,), folder) for name in FILES]
        self._backbone, self._head = open_session(backbone, free_size=True), open_session(head)
        steps = (np.arange(CELLS) - CELLS // 2) * STRIDE
        self._x, self._y = (axis.ravel() for axis in np.meshgrid(steps, steps))

    def features(self, picture: np.ndarray) -> np.ndarray:
        """Features (1, 96, h, w) of a BGR picture (H, W, 3)."""
        return self._backbone.run(None, {"input": picture.transpose(2, 0, 1)[None].astype(np.float32)})[0]

    def locate(self, template: np.ndarray, search: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability (225,) that a cell lies on the target, and each cell's box (4, 225): x1, y1, x2, y2 in pixels of
        the search crop from its centre.
        """
        logits, reach = self._head.run(None, {"input1": template, "input2": search})
        background, target = logits[0].reshape(2, -1)
        left, top, right, bottom = reach[0].reshape(4, -1)
        boxes = np.stack([self._x - left, self._y - top, self._x + right, self._y + bottom])
        return 1 / (1 + np.exp(background - target)), boxes


class NanoTrackV3:
    """NanoTrack V3 with the calls of :class:`vil_tracker.Tracker`; the score is its classification's. Its two ONNX
    files lie below ``folder``, at any depth; UserError if one or a package is missing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._networks = NanoTrackNetworks(folder)
        hann = np.hanning(CELLS)
        self._window = np.outer(hann, hann).ravel()
        self._centre, self._size, self._mean = np.zeros(2), np.ones(2), np.zeros(3)
        self._template = np.zeros(0)

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        """Start on an H×W×3 uint8 RGB frame with the target's x, y, w, h."""
        image = frame[..., ::-1]
        x, y, w, h = (float(value) for value in box)
        self._centre, self._size = np.array([x + (w - 1) / 2, y + (h - 1) / 2]), np.array([w, h])
        self._mean = image.mean((0, 1))
        self._template = self._features(image, self._context_side(), TEMPLATE_SIZE)

    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame."""
        image = frame[..., ::-1]
        side = self._context_side()
        scale = TEMPLATE_SIZE / side
        search = self._features(image, side * SEARCH_SIZE / TEMPLATE_SIZE, SEARCH_SIZE)
        score, (x1, y1, x2, y2) = self._networks.locate(self._template, search)
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        penalty = self._change_penalty(w, h, scale)
        best = int(np.argmax(penalty * score * (1 - WINDOW) + self._window * WINDOW))
        rate = penalty[best] * score[best] * RATE
        limit = [image.shape[1], image.shape[0]]
        self._centre = np.clip(self._centre + np.array([cx[best], cy[best]]) / scale, 0, limit)
        self._size = np.clip(self._size * (1 - rate) + np.array([w[best], h[best]]) / scale * rate, MIN_SIDE, limit)
        found = np.concatenate([self._centre - self._size / 2, self._size])
        return Result(box=found, score=float(score[best]), state="tracking")

    def _change_penalty(self, w: np.ndarray, h: np.ndarray, scale: float) -> np.ndarray:
        """Factor in (0, 1] per cell that falls with the change of scale and aspect ratio against the last box."""

        def padded(w: Any, h: Any) -> Any:
            return np.sqrt((w + (w + h) / 2) * (h + (w + h) / 2))

        def ratio(r: np.ndarray) -> np.ndarray:
            return np.maximum(r, 1 / r)

        with np.errstate(all="ignore"):
            size = ratio(padded(w, h) / padded(*(self._size * scale)))
            aspect = ratio((self._size[0] / self._size[1]) / (w / h))
            return np.nan_to_num(np.exp(-(size * aspect - 1) * PENALTY))

    def _context_side(self) -> float:
        """Side of the template's region in pixels of the frame."""
        margin = self._size.sum() * CONTEXT
        return float(np.sqrt((self._size[0] + margin) * (self._size[1] + margin)))

    def _features(self, image: np.ndarray, side: float, size: int) -> np.ndarray:
        """Features (1, 96, h, w) of a square region around the last centre, filled with the first frame's mean."""
        pixels = max(round(side), 1)
        half = (pixels + 1) / 2
        x0, y0 = (int(np.floor(c - half + 0.5)) for c in self._centre)
        x1, y1 = x0 + pixels, y0 + pixels
        height, width = image.shape[:2]
        top_row, first_column = max(y0, 0), max(x0, 0)
        part = image[top_row : max(min(y1, height), top_row + 1), first_column : max(min(x1, width), first_column + 1)]
        top, bottom, left, right = max(0, -y0), max(0, y1 - height), max(0, -x0), max(0, x1 - width)
        part = cv2.copyMakeBorder(
            np.ascontiguousarray(part), top, bottom, left, right, cv2.BORDER_CONSTANT, value=self._mean.tolist()
        )
        return self._networks.features(cv2.resize(part, (size, size)))
