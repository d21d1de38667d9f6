"""How sure the tracker is of a box: evidence read off the score map and the picture, and a calibrated probability.

The peak of a score map stays high on the wrong object, so that it says little alone. A few dozen parameters weigh it
with the rest of the map, the motion forecast and the likeness to the first frame's target, and give the probability
that the box overlaps the target by more than half. They are fitted on generated clips for given weights (see
:mod:`vil_tracker.tracking.fitting`) and stored beside them, together with the network that judges the likeness.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from vil_tracker.errors import UserError
from vil_tracker.models.likeness import FastLikeness, LikenessNet, cut_look
from vil_tracker.tracking.looking import View

EVIDENCE = (
    "peak",  # logit of the chosen cell
    "peak_change",  # the same, relative to the first frame's
    "margin",  # logit of the chosen cell minus that of the best one apart from it
    "entropy",  # of the score map as a distribution, in [0, 1]
    "mass",  # log of the sum of all scores
    "spread",  # root mean square distance of the scores from the box's centre, in crops
    "shift",  # distance of the box's centre from the crop's, in crops
    "jump",  # log(1 + Mahalanobis distance from the motion forecast)
    "resize",  # |log| of the change of size since the last frame
    "growth",  # log of the change of size since the first frame
    "aspect",  # |log| of the change of aspect since the first frame
    "cut",  # share of the box outside the frame
    "tokens",  # cosine between the search tokens on the box and those in the first frame
    "colours",  # Bhattacharyya coefficient of the colours, likewise
    "pattern",  # correlation of the picture shrunk to 8 x 8, likewise
    "same",  # logit of the likeness network that this is the first frame's thing; 0 without such a network
    "fit",  # logit of the overlap that it expects; likewise
    "same_change",  # "same", relative to what it was lately while the target was surely followed
)
_APART = 0.12  # distance in crops beyond which another peak is another object; the target spans a quarter
_MAX_LOGIT = 9.0
_PATTERN = 8


@dataclass(frozen=True)
class Appearance:
    """How something looks: what is compared with the first frame.

    Attributes:
        peak: logit of the score map's chosen cell.
        box: (4,) xywh in pixels.
        tokens: (D,) pooled search tokens, of length 1.
        colours: (512,) square roots of a colour histogram that sums to 1.
        pattern: (192,) shrunk picture, mean 0 and length 1 (or all 0).
        embedding: (EMBEDDING,) of the likeness network; None without one.
    """

    peak: float
    box: np.ndarray
    tokens: np.ndarray
    colours: np.ndarray
    pattern: np.ndarray
    embedding: np.ndarray | None = None


def appearance(view: View, likeness: FastLikeness | None, box: np.ndarray | None = None) -> Appearance:
    """Describe what stands in the box of a view, or in another box (4,) xywh in image pixels."""
    in_crop = view.box_in_crop if box is None else view.geometry.to_crop(box)
    size = view.pixels.shape[0]
    x1, y1, x2, y2 = (int(round(float(v) * size)) for v in np.clip(in_crop, 0.0, 1.0))
    x1, y1 = min(x1, size - 2), min(y1, size - 2)
    part = np.ascontiguousarray(view.pixels[y1 : max(y2, y1 + 2), x1 : max(x2, x1 + 2)])
    histogram = cv2.calcHist([part], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    small = cv2.resize(part, (_PATTERN, _PATTERN), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    return Appearance(
        peak=_logit(view.peak),
        box=view.box if box is None else box,
        tokens=pool_tokens(view.features, in_crop, (view.logits.shape[0], view.logits.shape[1])),
        colours=np.sqrt(histogram / max(float(histogram.sum()), 1.0)),
        pattern=_unit(small - small.mean()),
        embedding=None if likeness is None else likeness.embed(cut_look(view.pixels, in_crop * size)),
    )


def pool_tokens(features: Tensor, box_in_crop: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean of the tokens (S, D) that a box (4,) in crop units covers, weighted by coverage, of length 1 (or all 0)."""
    # In NumPy: as tensors, numbers as few as these take ten times as long.
    shares = []
    for axis, cells in ((1, grid[0]), (0, grid[1])):
        edges, (low, high) = np.arange(cells), box_in_crop[[axis, axis + 2]] * cells
        shares.append(np.clip(np.minimum(high, edges + 1) - np.maximum(low, edges), 0.0, None))
    share_S = torch.from_numpy(np.outer(*shares).ravel().astype(np.float32)).to(features.device)
    pooled_D = share_S @ features.float()
    return _unit(pooled_D.cpu().numpy().astype(np.float64))


def gather_evidence(
    view: View,
    seen: Appearance,
    first: Appearance,
    likeness: FastLikeness | None,
    usual: float | None,
    *,
    squared_distance: float,
    last_size: float,
    frame_size: tuple[int, int],
) -> np.ndarray:
    """The numbers of :data:`EVIDENCE` for one box, all finite.

    Args:
        view: what the network saw.
        seen: of the view's box.
        first: of the first frame's.
        likeness: compares the two, where they were described with it.
        usual: what "same" was lately while the target was surely followed; None if it never was.
        squared_distance: squared Mahalanobis distance of the box from the motion forecast.
        last_size: √(w·h) of the box before, in pixels.
        frame_size: (width, height) in pixels.
    """
    rows, columns = view.logits.shape
    scores = 1.0 / (1.0 + np.exp(-np.clip(view.logits.astype(np.float64), -30, 30)))
    total = max(float(scores.sum()), 1e-12)
    share = scores / total
    x, y = (view.box_in_crop[:2] + view.box_in_crop[2:]) / 2
    away = ((np.arange(columns) + 0.5) / columns - x)[None] ** 2 + ((np.arange(rows) + 0.5) / rows - y)[:, None] ** 2
    width, height = (max(float(v), 1e-3) for v in seen.box[2:])
    first_width, first_height = (max(float(v), 1e-3) for v in first.box[2:])
    half_apart = np.maximum((view.box_in_crop[2:] - view.box_in_crop[:2]) / 2, _APART)
    apart = away > float(half_apart @ half_apart) / 2
    rival = _logit(float(scores[apart].max())) if apart.any() else -_MAX_LOGIT
    inside = math.prod(
        max(min(float(low + side), length) - max(float(low), 0.0), 0.0)
        for low, side, length in zip(view.box[:2], view.box[2:], frame_size, strict=True)
    )
    size = math.sqrt(width * height)
    values = (
        seen.peak,
        seen.peak - first.peak,
        seen.peak - rival,
        float(-(share * np.log(share + 1e-12)).sum()) / math.log(share.size),
        math.log(total),
        math.sqrt(float((share * away).sum())),
        math.hypot(x - 0.5, y - 0.5),
        math.log1p(math.sqrt(squared_distance)),
        abs(math.log(size / max(last_size, 1e-3))),
        math.log(size / math.sqrt(first_width * first_height)),
        abs(math.log(width / height) - math.log(first_width / first_height)),
        1.0 - inside / (width * height),
        float(seen.tokens @ first.tokens),
        float(seen.colours @ first.colours),
        float(seen.pattern @ first.pattern),
        *likeness_evidence(likeness, first, seen, usual),
    )
    return np.nan_to_num(np.array(values), nan=0.0, posinf=20.0, neginf=-20.0)


def likeness_evidence(
    likeness: FastLikeness | None, first: Appearance, seen: Appearance, usual: float | None
) -> tuple[float, float, float]:
    """The last numbers of :data:`EVIDENCE`, from "same" on; 0 without a network.

    How alike two looks of one thing are depends on the thing, its size and the video: what is alike on an impostor may
    be as much as on another target, but it is less than it was a moment ago. So the change is told as well.
    """
    if likeness is None or first.embedding is None or seen.embedding is None:
        return 0.0, 0.0, 0.0
    same, fit = (float(value) for value in likeness.compare(first.embedding, seen.embedding))
    return same, fit, 0.0 if usual is None else same - usual


@dataclass(frozen=True)
class Calibration:
    """A perceptron of one hidden layer over standardised evidence, and a temperature.

    Attributes:
        mean, scale: (F,) of the evidence, in the order of :data:`EVIDENCE`.
        hidden: (K, F + 1) weights of the hidden units, the last column is the bias; tanh.
        output: (F + K + 1,) weights of the standardised evidence itself, the hidden units and the bias.
        temperature: divides the logit (Guo et al., "On Calibration of Modern Neural Networks", 2017).
        likeness: the network that gave the last numbers of the evidence; None if they were 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    hidden: np.ndarray
    output: np.ndarray
    temperature: float = 1.0
    likeness: LikenessNet | None = None

    def logit(self, evidence: np.ndarray) -> np.ndarray:
        """(..., F) -> (...) log odds before the temperature."""
        z = np.clip((evidence - self.mean) / self.scale, -5.0, 5.0)
        units = np.tanh(z @ self.hidden[:, :-1].T + self.hidden[:, -1])
        features, count = z.shape[-1], units.shape[-1]
        return z @ self.output[:features] + units @ self.output[features : features + count] + self.output[-1]

    def probability(self, evidence: np.ndarray) -> np.ndarray:
        """(..., F) -> (...) probability that the box overlaps the target by more than half."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.logit(evidence) / self.temperature, -30, 30)))

    def to_json(self) -> str:
        """As stored with the weights."""
        numbers = {name: getattr(self, name).tolist() for name in ("mean", "scale", "hidden", "output")}
        likeness = None if self.likeness is None else self.likeness.to_text()
        content = {"evidence": list(EVIDENCE), **numbers, "temperature": self.temperature, "likeness": likeness}
        return json.dumps(content)

    @staticmethod
    def from_json(text: str) -> Calibration:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: it is damaged, or made for other evidence than this version gathers.
        """
        cure = "write it again with scripts/calibrate.py"
        try:
            content = json.loads(text)
            if content["evidence"] != list(EVIDENCE):
                raise UserError(f"the calibration stored with the weights is of another version: {cure}")
            arrays = {name: np.array(content[name], np.float64) for name in ("mean", "scale", "hidden", "output")}
            temperature = float(content["temperature"])
            likeness = None if content["likeness"] is None else LikenessNet.from_text(content["likeness"])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"the calibration stored with the weights is damaged ({error}): {cure}") from error
        count, units = len(EVIDENCE), len(arrays["hidden"])
        shapes = {"mean": (count,), "scale": (count,), "hidden": (units, count + 1), "output": (count + units + 1,)}
        sound = all(arrays[name].shape == shape and np.isfinite(arrays[name]).all() for name, shape in shapes.items())
        if not sound or not (arrays["scale"] > 0).all() or not 0 < temperature < math.inf:
            raise UserError(f"the calibration stored with the weights is damaged (wrong shapes or values): {cure}")
        return Calibration(**arrays, temperature=temperature, likeness=likeness)


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return min(max(math.log(inside / (1 - inside)), -_MAX_LOGIT), _MAX_LOGIT)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if 1e-12 < length < math.inf else np.zeros_like(vector)
