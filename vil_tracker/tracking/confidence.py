"""How sure the tracker is of a box: evidence read off the score map and the picture, and a calibrated probability.

The peak of a score map stays high on the wrong object, so that it says little alone. A few dozen parameters weigh it
with the rest of the map, the motion forecast and the likeness to the first frame's target, and give the probability
that the box overlaps the target by more than half. They are fitted on generated clips for given weights (see
:mod:`vil_tracker.tracking.fitting`) and stored beside them, together with the network that judges the likeness.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from vil_tracker.boxes import convert, iou
from vil_tracker.errors import UserError
from vil_tracker.models.likeness import FastLikeness, LikenessNet, cut_look
from vil_tracker.tracking.looking import View
from vil_tracker.tracking.odds import log_odds

EVIDENCE = (
    "peak",  # logit of the chosen cell
    "peak_change",  # the same, relative to the first frame's
    "margin",  # logit of the chosen cell minus that of the best one apart from it
    "entropy",  # of the score map as a distribution, in [0, 1]
    "mass",  # log of the sum of all scores
    "spread",  # root mean square distance of the scores from the box's centre, in crops
    "agreement",  # mean overlap of the box with the boxes that all cells propose, weighted by the squares of the scores
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
    "other",  # the likeliest logit of the likeness network that this is something that was seen beside the target
)
_APART = 0.12  # distance in crops beyond which another peak is another object; the target spans a quarter
_MAX_LOGIT = 9.0
_PATTERN = 8
_OTHER_SCORE = 0.05  # of a place beside the target that shows something
_OTHERS = 6  # things beside the target that are remembered
_RESEMBLANCE = 0.8  # cosine of embeddings from which on two of them are taken for one
_NO_OTHER = -6.0  # logit of "the same" for things that have nothing in common


Others = tuple[np.ndarray, ...]  # embeddings (EMBEDDING,) of things seen beside the target, the latest last


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
        alike: its two answers, logits, on this against the first frame; 0 without one and for the first frame.
        other: its greatest logit of "the same" on this against things seen beside the target.
    """

    peak: float
    box: np.ndarray
    tokens: np.ndarray
    colours: np.ndarray
    pattern: np.ndarray
    embedding: np.ndarray | None = None
    alike: tuple[float, float] = (0.0, 0.0)
    other: float = _NO_OTHER


def appearance(
    view: View,
    likeness: FastLikeness | None,
    first: Appearance | None = None,
    others: Others = (),
    box: np.ndarray | None = None,
) -> Appearance:
    """Describe what stands in the box of a view, or in another box (4,) xywh in image pixels, and compare it by the
    likeness network with the first frame's and with what was seen beside the target."""
    in_crop = view.box_in_crop if box is None else view.geometry.to_crop(box)
    size = view.pixels.shape[0]
    x1, y1, x2, y2 = (int(round(float(v) * size)) for v in np.clip(in_crop, 0.0, 1.0))
    x1, y1 = min(x1, size - 2), min(y1, size - 2)
    part = np.ascontiguousarray(view.pixels[y1 : max(y2, y1 + 2), x1 : max(x2, x1 + 2)])
    histogram = cv2.calcHist([part], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    embedding = None if likeness is None else likeness.embed(cut_look(view.pixels, in_crop * size))
    same, fit, other = 0.0, 0.0, _NO_OTHER
    if likeness is not None and embedding is not None and first is not None and first.embedding is not None:
        same, fit = (float(value) for value in likeness.compare(first.embedding, embedding))
        if others:
            other = max(_NO_OTHER, float(likeness.compare(np.stack(others), embedding)[:, 0].max()))
    small = cv2.resize(part, (_PATTERN, _PATTERN), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    return Appearance(
        peak=log_odds(view.peak, _MAX_LOGIT),
        box=view.box if box is None else box,
        tokens=pool_tokens(view.features, in_crop, (view.logits.shape[0], view.logits.shape[1])),
        colours=np.sqrt(histogram / max(float(histogram.sum()), 1.0)),
        pattern=_unit(small - small.mean()),
        embedding=embedding,
        alike=(same, fit),
        other=other,
    )


def renewed(last: Appearance, view: View) -> Appearance:
    """The last appearance with the peak and box of another view, for one that is taken to look as it did."""
    return replace(last, peak=log_odds(view.peak, _MAX_LOGIT), box=view.box)


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
        usual: what "same" was lately while the target was surely followed; None if it never was. How alike two looks of
            one thing are depends on the thing, its size and the video: what is alike on an impostor may be as much as
            on another target, but it is less than it was a moment ago.
        squared_distance: squared Mahalanobis distance of the box from the motion forecast.
        last_size: √(w·h) of the box before, in pixels.
        frame_size: (width, height) in pixels.
    """
    # NumPy by its plainest functions: on so few numbers each call costs more than its work.
    scores = 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(view.logits, -30.0), 30.0).astype(np.float64)))
    total = max(float(scores.sum()), 1e-12)
    share = scores / total
    x, y = _centre(view)
    away, apart = _away(view)
    width, height = (max(float(v), 1e-3) for v in seen.box[2:])
    first_width, first_height = (max(float(v), 1e-3) for v in first.box[2:])
    rival_score = float(np.where(apart, scores, -1.0).max())
    rival = log_odds(rival_score, _MAX_LOGIT) if rival_score >= 0 else -_MAX_LOGIT
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
        _agreement(view, share),
        math.log1p(math.sqrt(squared_distance)),
        abs(math.log(size / max(last_size, 1e-3))),
        math.log(size / math.sqrt(first_width * first_height)),
        abs(math.log(width / height) - math.log(first_width / first_height)),
        1.0 - inside / (width * height),
        float(seen.tokens @ first.tokens),
        float(seen.colours @ first.colours),
        float(seen.pattern @ first.pattern),
        *seen.alike,
        0.0 if usual is None else seen.alike[0] - usual,
        seen.other,
    )
    return np.array([min(max(value, -20.0), 20.0) if value == value else 0.0 for value in values])


def with_other(others: Others, likeness: FastLikeness, view: View) -> Others:
    """Take in what stands at the best place apart from a view's box, instead of what it resembles or of the oldest.

    What was seen beside the target is not the target, however much it may look like it later on.
    """
    _, apart = _away(view)
    elsewhere = np.where(apart, view.logits, -np.inf)
    row, column = np.unravel_index(int(elsewhere.argmax()), elsewhere.shape)
    if not log_odds(_OTHER_SCORE, _MAX_LOGIT) <= elsewhere[row, column] < np.inf:
        return others
    box = convert(_proposals(view)[row, column], "xywh", "xyxy")
    if not np.isfinite(box).all():
        return others
    embedding = likeness.embed(cut_look(view.pixels, box * view.pixels.shape[0]))
    kept = [known for known in others if _unit(known) @ _unit(embedding) < _RESEMBLANCE]
    return (*kept, embedding)[-_OTHERS:]


@lru_cache(maxsize=8)
def _cells(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of a score map's cells in crop units: x (columns,) and y (rows, 1)."""
    return (np.arange(columns) + 0.5) / columns, ((np.arange(rows) + 0.5) / rows)[:, None]


def _centre(view: View) -> tuple[float, float]:
    """Middle of a view's box, in crops."""
    x1, y1, x2, y2 = (float(v) for v in view.box_in_crop)
    return (x1 + x2) / 2, (y1 + y2) / 2


def _away(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Squares of the distances of all cells (h, w) from the middle of a view's box, in crops; and whether what they
    show is something else."""
    column_w, row_h1 = _cells(*view.logits.shape)
    (x, y), (x1, y1, x2, y2) = _centre(view), (float(v) for v in view.box_in_crop)
    away = (column_w - x) ** 2 + (row_h1 - y) ** 2
    return away, away > (max((x2 - x1) / 2, _APART) ** 2 + max((y2 - y1) / 2, _APART) ** 2) / 2


def _proposals(view: View) -> np.ndarray:
    """Boxes (h, w, 4) xywh that the cells propose, in crops."""
    rows, columns = view.logits.shape
    column_w, row_h1 = _cells(rows, columns)
    boxes = np.empty((rows, columns, 4))
    boxes[..., 2], boxes[..., 3] = view.sizes
    boxes[..., 0] = column_w + (view.offsets[0] - 0.5) / columns - boxes[..., 2] / 2
    boxes[..., 1] = row_h1 + (view.offsets[1] - 0.5) / rows - boxes[..., 3] / 2
    return boxes


def _agreement(view: View, share: np.ndarray) -> float:
    """Mean overlap of the view's box with what the cells propose, weighted by the squares of their shares (h, w).

    Where the target's outline is in doubt, neighbouring cells propose different boxes.
    """
    x1, y1, x2, y2 = view.box_in_crop  # of one box, by hand: boxes.convert takes as long as all the rest
    overlap = iou(_proposals(view), np.array([x1, y1, x2 - x1, y2 - y1]))
    weight = share * share
    return float((overlap * weight).sum() / max(float(weight.sum()), 1e-30))


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


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if 1e-12 < length < math.inf else np.zeros_like(vector)
