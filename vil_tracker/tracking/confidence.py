"""How sure the tracker is of a box: features read off the score map and the picture, and a calibrated probability.

The peak of a score map stays high on the wrong object. A small model weighs it with the rest of the map, the motion
forecast and the similarity to the first frame's target, and gives the probability that the box overlaps the target by
more than half (:mod:`vil_tracker.tracking.confidence_model`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from vil_tracker.boxes import convert, iou
from vil_tracker.models.verifier import FastVerifier, crop_patch, scan_grid
from vil_tracker.tracking.confidence_model import ConfidenceModel, log_odds
from vil_tracker.tracking.search import SearchOutput

_APART = 0.12  # distance in crops beyond which another peak is another object; the target spans a quarter
_MAX_LOGIT = 9.0
_PATTERN = 8
_OTHER_SCORE = 0.05  # of a place beside the target that shows something
_OTHERS = 6  # things beside the target that are remembered
_RESEMBLANCE = 0.8  # cosine of embeddings from which on two of them are taken for one
_NO_OTHER = -6.0  # logit of "the same" for things that have nothing in common
_SIMILARITY_GAIN = 0.1  # share of a new similarity in its exponential mean
_DISTRACTOR_INTERVAL = 8  # frames between two updates of the distractors
TYPICAL_DISTANCE = 1.386  # median of the chi-square distribution, 2 dof: for boxes that no forecast applies to

Distractors = tuple[np.ndarray, ...]  # embeddings (EMBEDDING,) of things seen beside the target, the latest last


@dataclass(frozen=True)
class Appearance:
    """Descriptors of what a box holds, to be compared with the first frame's."""

    peak: float  # logit of the score map's chosen cell
    box: np.ndarray  # (4,) xywh in pixels
    tokens: np.ndarray  # (D,) pooled search tokens, of length 1
    colours: np.ndarray  # (512,) square roots of a colour histogram that sums to 1
    pattern: np.ndarray  # (192,) shrunk picture, mean 0 and length 1 (or all 0)
    embedding: np.ndarray | None = None  # (EMBEDDING,) of the verifier; None without one
    #: The verifier's two answers, logits, on this against the first frame; 0 without one and for the first frame.
    alike: tuple[float, float] = (0.0, 0.0)
    other: float = _NO_OTHER  # the verifier's greatest logit of "the same" on this against things beside the target


def appearance(
    view: SearchOutput,
    verifier: FastVerifier | None,
    first: Appearance | None = None,
    distractors: Distractors = (),
    box: np.ndarray | None = None,
) -> Appearance:
    """Describe what is in the box of a search output, or in another box (4,) xywh in image pixels, and compare it by
    the verifier with the first frame's and with the distractors.
    """
    in_crop = view.box_in_crop if box is None else view.geometry.to_crop(box)
    size = view.pixels.shape[0]
    x1, y1, x2, y2 = (int(round(float(v) * size)) for v in np.clip(in_crop, 0.0, 1.0))
    x1, y1 = min(x1, size - 2), min(y1, size - 2)
    part = np.ascontiguousarray(view.pixels[y1 : max(y2, y1 + 2), x1 : max(x2, x1 + 2)])
    histogram = cv2.calcHist([part], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    embedding = None if verifier is None else verifier.embed(crop_patch(view.pixels, in_crop * size))
    same, fit, other = 0.0, 0.0, _NO_OTHER
    if verifier is not None and embedding is not None and first is not None and first.embedding is not None:
        same, fit = (float(value) for value in verifier.compare(first.embedding, embedding))
        if distractors:
            other = max(_NO_OTHER, float(verifier.compare(np.stack(distractors), embedding)[:, 0].max()))
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


def extract_confidence_features(
    view: SearchOutput,
    seen: Appearance,
    first: Appearance,
    similarity_ema: float | None,
    *,
    squared_distance: float,
    last_size: float,
    frame_size: tuple[int, int],
) -> np.ndarray:
    """The numbers of :data:`CONFIDENCE_FEATURES` for one box, all finite.

    Args:
        view, seen: what the network saw, and the appearance of its box.
        first: that of the first frame's.
        similarity_ema: exponential mean of "same" over sure frames; None before any. The level of "same" depends on the
            object, its size and the video; a fall below its own mean is comparable between videos.
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
        0.0 if similarity_ema is None else seen.alike[0] - similarity_ema,
        seen.other,
    )
    return np.array([min(max(value, -20.0), 20.0) if value == value else 0.0 for value in values])


def add_distractor(distractors: Distractors, verifier: FastVerifier, view: SearchOutput) -> Distractors:
    """Take in what stands at the best place apart from an output's box, in place of what it resembles or of the oldest.

    A distractor seen beside the target cannot be the target later on, however similar it is.
    """
    _, apart = _away(view)
    elsewhere = np.where(apart, view.logits, -np.inf)
    row, column = np.unravel_index(int(elsewhere.argmax()), elsewhere.shape)
    if not log_odds(_OTHER_SCORE, _MAX_LOGIT) <= elsewhere[row, column] < np.inf:
        return distractors
    box = convert(cell_boxes(view)[row, column], "xywh", "xyxy")
    if not np.isfinite(box).all():
        return distractors
    embedding = verifier.embed(crop_patch(view.pixels, box * view.pixels.shape[0]))
    kept = [known for known in distractors if _unit(known) @ _unit(embedding) < _RESEMBLANCE]
    return (*kept, embedding)[-_OTHERS:]


@dataclass
class ConfidenceState:
    """What the confidence of one video knows."""

    first: Appearance  # of the target in the first frame, or in the last one corrected by hand
    sought: np.ndarray | None = None  # (E,) the verifier's embedding of it in its surroundings, to find it by
    compared: Appearance | None = None  # of the box's content at the last comparison; None if out of date
    last_compared: int = 0  # frame in which that was
    distractors: Distractors = ()  # what stood beside the target in sure frames
    last_distractors: int = 0  # frame of their last update
    similarity_ema: float | None = None  # exponential mean of the logit "same" over sure frames; None before any
    #: Boxes (4,) that the last frame gave a score to, in turn, each with its features (F,), CONFIDENCE_FEATURES.
    judged: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


class ConfidenceEstimator:
    """Estimates the probability that a box is right, by the model and the verifier stored with the weights."""

    def __init__(self, model: ConfidenceModel) -> None:
        self.model = model
        self.verifier = None if model.verifier is None else FastVerifier(model.verifier)

    def begin(self, view: SearchOutput, box: np.ndarray) -> ConfidenceState:
        """Of a video whose target is in ``box`` (4,), xywh in image pixels."""
        sought = None
        if self.verifier is not None:
            sought = self.verifier.embed_in_place(view.pixels, view.geometry.to_crop(box) * view.pixels.shape[0])
        return ConfidenceState(appearance(view, self.verifier, box=box), sought)

    def similarity_map(
        self, known: ConfidenceState, picture: np.ndarray, box_size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How like the first frame's target boxes of a size are, all over a picture.

        For a picture (H, W, 3) uint8 RGB and boxes of width and height (2,) in its pixels, their centres (N, 2) and the
        verifier's logits (N,) that they are on the target; equal ones without a verifier.
        """
        if self.verifier is None or known.sought is None:
            _, centres = scan_grid(picture.shape[1], picture.shape[0], box_size)
            return centres, np.zeros(len(centres))
        centres, embeddings = self.verifier.scan(picture, box_size)
        return centres, self.verifier.compare(known.sought, embeddings)[:, 0]

    def appearance(self, known: ConfidenceState, view: SearchOutput) -> Appearance:
        """What an output's box holds, compared with the first frame's and with the distractors."""
        return appearance(view, self.verifier, known.first, known.distractors)

    def compare(self, known: ConfidenceState, view: SearchOutput, frame: int, interval: int) -> tuple[Appearance, bool]:
        """What an output's box holds, and whether it was compared in this frame, number ``frame``, or taken from the
        last comparison, less than ``interval`` frames ago: comparing costs more than the rest of a score.
        """
        if known.compared is not None and frame - known.last_compared < interval:
            return replace(known.compared, peak=log_odds(view.peak, _MAX_LOGIT), box=view.box), False
        known.compared, known.last_compared = self.appearance(known, view), frame
        return known.compared, True

    def score(
        self,
        known: ConfidenceState,
        frame: np.ndarray,
        view: SearchOutput,
        seen: Appearance,
        squared_distance: float,
        last_size: float,
    ) -> float:
        """Probability that an output's box is on the target; the features are noted in ``known.judged``.

        ``frame`` is (H, W, 3), ``seen`` :meth:`appearance`; the rest is as of :func:`extract_confidence_features`.
        """
        features = extract_confidence_features(
            view,
            seen,
            known.first,
            known.similarity_ema,
            squared_distance=squared_distance,
            last_size=last_size,
            frame_size=(frame.shape[1], frame.shape[0]),
        )
        known.judged.append((view.box, features))
        return float(self.model.probability(features))

    def update(self, known: ConfidenceState, view: SearchOutput, seen: Appearance, frame: int) -> None:
        """Update the similarity's mean and the distractors from a sure frame, number ``frame``."""
        same, _ = seen.alike
        if known.similarity_ema is None:
            known.similarity_ema = same
        else:
            known.similarity_ema += _SIMILARITY_GAIN * (same - known.similarity_ema)
        if self.verifier is not None and frame - known.last_distractors >= _DISTRACTOR_INTERVAL:
            known.distractors = add_distractor(known.distractors, self.verifier, view)
            known.last_distractors = frame


@lru_cache(maxsize=8)
def _cells(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of a score map's cells in crop units: x (columns,) and y (rows, 1)."""
    return (np.arange(columns) + 0.5) / columns, ((np.arange(rows) + 0.5) / rows)[:, None]


def _centre(view: SearchOutput) -> tuple[float, float]:
    x1, y1, x2, y2 = (float(v) for v in view.box_in_crop)
    return (x1 + x2) / 2, (y1 + y2) / 2


def _away(view: SearchOutput) -> tuple[np.ndarray, np.ndarray]:
    """Squares of the distances of all cells (h, w) from the centre of an output's box, in crops; and whether what they
    show is something else.
    """
    column_w, row_h1 = _cells(*view.logits.shape)
    (x, y), (x1, y1, x2, y2) = _centre(view), (float(v) for v in view.box_in_crop)
    away = (column_w - x) ** 2 + (row_h1 - y) ** 2
    return away, away > (max((x2 - x1) / 2, _APART) ** 2 + max((y2 - y1) / 2, _APART) ** 2) / 2


def cell_boxes(view: SearchOutput) -> np.ndarray:
    """Boxes (h, w, 4) xywh that the cells propose, in crops."""
    rows, columns = view.logits.shape
    column_w, row_h1 = _cells(rows, columns)
    boxes = np.empty((rows, columns, 4))
    boxes[..., 2], boxes[..., 3] = view.sizes
    boxes[..., 0] = column_w + (view.offsets[0] - 0.5) / columns - boxes[..., 2] / 2
    boxes[..., 1] = row_h1 + (view.offsets[1] - 0.5) / rows - boxes[..., 3] / 2
    return boxes


def _agreement(view: SearchOutput, share: np.ndarray) -> float:
    """Mean overlap of the output's box with what the cells propose, weighted by the squares of their shares (h, w).

    Where the target's outline is unclear, neighbouring cells propose different boxes.
    """
    x1, y1, x2, y2 = view.box_in_crop  # of one box, by hand: boxes.convert takes as long as all the rest
    overlap = iou(cell_boxes(view), np.array([x1, y1, x2 - x1, y2 - y1]))
    weight = share * share
    return float((overlap * weight).sum() / max(float(weight.sum()), 1e-30))


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if 1e-12 < length < math.inf else np.zeros_like(vector)
