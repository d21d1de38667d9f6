"""The scoring conventions of the toolkits in use, as data.

The same boxes give different numbers in different toolkits. What differs is written down here as a `Convention`, and
`frame_errors` is the only code that acts on it. Sources: the toolkits of OTB (calcSeqErrRobust.m, configSeqs.m), UAV123
(derived from OTB's), LaSOT (calc_seq_err_robust.m, eval_tracker.m), TrackingNet (metrics.py of its devkit), GOT-10k
(the `got10k` package, version 0.1.3), pytracking (analysis/extract_results.py) and OSTrack (lib/test/analysis).

OTB's toolkit exists in two releases. The later one, from which UAV123's is derived, fails frames whose true x or y is
not above 0 (10 frames in OTB-100, none in OTB-2013; 0.0003 of AUC). The published scores of OTB that we could check
come out of the earlier rule, which is used here: every frame counts as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.evaluation import metrics

CONVENTION_NAMES = ("official", "pytracking", "ostrack")


@dataclass(frozen=True)
class Convention:
    """How one toolkit turns boxes into curves.

    A frame is valid when its true box is annotated and passes the tests below. What happens to the other frames, and
    how a curve becomes a number, is the rest.

    Attributes:
        name: "official", "pytracking" or "ostrack".
        toolkit: whose code it reproduces; shown in the report.
        rule: one sentence about which frames count; shown in the report.
        positive_origin: a valid box has x, y > 0 besides w, h > 0.
        exclude_absent: frames flagged absent are not valid.
        use_cover_label: a frame is valid when its cover label is above 0, whatever its box (GOT-10k).
        all_valid: every frame is valid (TrackingNet).
        drop_invalid: invalid frames leave numerator and denominator; otherwise they stay in the denominator and never
            count as a success.
        invalid_center_hit: an invalid frame counts as a hit in the precision curve: some toolkits mark its error with
            -1, which is below every threshold.
        invalid_normalized_hit: the same in the normalised-precision curve.
        absent_hit: the two flags above apply to absent frames as well.
        skip_first: the first frame is not scored; otherwise it is scored as the ground truth.
        bounded: both boxes are first clipped to the image.
        rounded: both boxes are first rounded to whole pixels.
        success_thresholds: number of thresholds from 0 to 1.
        precision_thresholds: number of thresholds from 0 to 50 pixels, and from 0 to 0.5.
        areas: every curve becomes its area by the trapezoidal rule; otherwise success becomes the mean over the
            thresholds, precision the curve's value at 20 pixels, and normalised precision that at 0.2.
        pooled: the overall score pools the frames of all sequences, otherwise it averages over sequences.
        cut_results: result files may be longer than the sequence; boxes beyond its end are left out.
    """

    name: str
    toolkit: str
    rule: str
    positive_origin: bool = False
    exclude_absent: bool = False
    use_cover_label: bool = False
    all_valid: bool = False
    drop_invalid: bool = False
    invalid_center_hit: bool = False
    invalid_normalized_hit: bool = False
    absent_hit: bool = False
    skip_first: bool = False
    bounded: bool = False
    rounded: bool = False
    success_thresholds: int = 21
    precision_thresholds: int = 51
    areas: bool = False
    pooled: bool = False
    cut_results: bool = False

    @property
    def success_axis(self) -> np.ndarray:
        return np.linspace(0.0, 1.0, self.success_thresholds)

    @property
    def precision_axis(self) -> np.ndarray:
        return np.linspace(0.0, 50.0, self.precision_thresholds)

    @property
    def normalized_precision_axis(self) -> np.ndarray:
        return self.precision_axis / 100.0

    def area(self, curve: np.ndarray) -> float:
        """Area under a curve over its whole axis, scaled to [0, 1]."""
        if self.areas:
            return float((curve[1:] + curve[:-1]).mean() / 2)
        return float(curve.mean())


PLAIN = Convention(
    name="official",
    toolkit="ViL-Tracker",
    rule="frames without an annotated target are left out; every other frame counts, the first as the ground truth",
    exclude_absent=True,
    drop_invalid=True,
)
OTB = Convention(
    name="official",
    toolkit="OTB toolkit",
    rule="every frame counts, the first as the ground truth",
    invalid_center_hit=True,
    invalid_normalized_hit=True,
    absent_hit=True,
)
UAV = replace(
    OTB,
    toolkit="UAV123 toolkit",
    rule="every frame counts, the first as the ground truth; a frame whose true x, y, w, h are not all above 0 fails "
    "in success and passes in precision",
    positive_origin=True,
)
LASOT = Convention(
    name="official",
    toolkit="LaSOT toolkit",
    rule="absent frames count as failures, since they stay in the denominator; a frame whose true x, y, w, h are not "
    "all above 0 fails in success and passes in precision; the first frame counts as the ground truth",
    positive_origin=True,
    exclude_absent=True,
    invalid_center_hit=True,
    invalid_normalized_hit=True,
    cut_results=True,
)
GOT10K = Convention(
    name="official",
    toolkit="GOT-10k toolkit",
    rule="the first frame and frames with cover label 0 are left out, boxes are clipped to the image, the "
    "overall score pools the frames of all sequences",
    use_cover_label=True,
    drop_invalid=True,
    skip_first=True,
    bounded=True,
    success_thresholds=101,
    pooled=True,
)
TRACKINGNET = Convention(
    name="official",
    toolkit="TrackingNet devkit",
    rule="every frame counts, the first as the ground truth; boxes are rounded to whole pixels; precision and "
    "normalised precision are areas under 21-point curves by the trapezoidal rule",
    all_valid=True,
    rounded=True,
    precision_thresholds=21,
    areas=True,
)


def pytracking(family: str) -> Convention:
    """The convention of pytracking for a data set family: "uav", "lasot", "lasot_ext" or any other."""
    return Convention(
        name="pytracking",
        toolkit="pytracking",
        rule="every frame stays in the denominator; a frame counts as a possible success when the true x, y, w, h are "
        "above 0" + (" and the target is visible" if family in ("lasot", "lasot_ext") else ""),
        positive_origin=True,
        exclude_absent=family in ("lasot", "lasot_ext"),
        invalid_center_hit=family == "uav",
        invalid_normalized_hit=True,
        absent_hit=family != "lasot",
    )


def ostrack(family: str) -> Convention:
    """The convention of OSTrack and its descendants: pytracking's, except that only w, h > 0 is asked of a frame."""
    base = pytracking(family)
    return replace(
        base, name="ostrack", toolkit="OSTrack", rule=base.rule.replace("x, y, w, h", "w, h"), positive_origin=False
    )


@dataclass(frozen=True)
class FrameErrors:
    """Errors of the frames in the denominator; -1 and infinity stand for certain hits and misses, as in the toolkits.

    Attributes:
        iou: (F,) overlap, -1 in invalid frames.
        center: (F,) centre error in pixels.
        normalized: (F,) centre error in units of the true size.
        valid: (F,) bool.
    """

    iou: np.ndarray
    center: np.ndarray
    normalized: np.ndarray
    valid: np.ndarray


def frame_errors(
    convention: Convention,
    predicted: np.ndarray,
    truth: np.ndarray,
    absent: np.ndarray,
    cover: np.ndarray,
    size: tuple[int, int] | None,
) -> FrameErrors:
    """Errors of one sequence under a convention.

    Args:
        predicted, truth: (N, 4) x, y, w, h in pixels; NaN rows of the truth have no annotation.
        absent: (N,) bool, frames whose target is out of sight.
        cover: (N,) visible share of the target in [0, 1].
        size: width and height of the images, to which some conventions clip; None where they are not known.

    Raises:
        UserError: no frame is left to score.
    """
    predicted, truth = predicted.copy(), truth.copy()
    if convention.skip_first:
        predicted, truth, absent, cover = predicted[1:], truth[1:], absent[1:], cover[1:]
    else:
        predicted[0] = truth[0]
    if convention.rounded:
        predicted, truth = np.round(predicted), np.round(truth)
    if convention.bounded and size is not None:
        predicted, truth = _bounded(predicted, size), _bounded(truth, size)

    valid = _valid_frames(convention, truth, absent, cover)
    iou = metrics.overlaps(predicted, truth)
    center = metrics.center_errors(predicted, truth)
    normalized = metrics.normalized_center_errors(predicted, truth)
    if convention.drop_invalid:
        iou, center, normalized, valid = iou[valid], center[valid], normalized[valid], valid[valid]
    else:
        counts_as_hit = ~valid & (convention.absent_hit | ~absent)
        iou[~valid] = -1.0
        center[~valid] = np.inf
        normalized[~valid] = np.inf
        center[counts_as_hit & convention.invalid_center_hit] = -1.0
        normalized[counts_as_hit & convention.invalid_normalized_hit] = -1.0
    if not valid.any():
        raise UserError("no frame to score: no true box is usable under this convention")
    return FrameErrors(iou=iou, center=center, normalized=normalized, valid=valid)


def _valid_frames(convention: Convention, truth: np.ndarray, absent: np.ndarray, cover: np.ndarray) -> np.ndarray:
    annotated = np.isfinite(truth).all(axis=1)
    if convention.all_valid:
        return annotated
    if convention.use_cover_label:
        return annotated & (cover > 0)
    with np.errstate(invalid="ignore"):
        positive = truth > 0
    valid = annotated & (positive if convention.positive_origin else positive[:, 2:]).all(axis=1)
    return valid & ~absent if convention.exclude_absent else valid


def _bounded(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip as the GOT-10k toolkit does: the corner first, then the size, which it does not shorten by the shift."""
    limits = np.asarray(size, dtype=np.float64)
    corner = np.clip(boxes[:, :2], 0.0, limits)
    return np.concatenate([corner, np.clip(boxes[:, 2:], 0.0, limits - corner)], axis=1)
