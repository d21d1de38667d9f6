"""OpenCV's trackers behind the same two calls as ours, to stand beside it in one evaluation.

OpenCV wants BGR frames and, in its main module, whole-pixel boxes; both conversions happen here. Which trackers exist
depends on the build: MIL, Nano, Vit and DaSiamRPN are in the main module, CSRT, KCF and the older ones need the contrib
package and live in `cv2` or `cv2.legacy` depending on the version.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.results import Result

KNOWN = ("MIL", "KCF", "CSRT", "MOSSE", "MedianFlow", "TLD", "Boosting", "GOTURN", "Nano", "Vit", "DaSiamRPN")

# Parameter of the tracker -> file patterns of the network below the folder of peer weights.
_NETWORKS: dict[str, dict[str, tuple[str, ...]]] = {
    # NanoTrack V2's names first: OpenCV cannot run V3, whose files are nanotrack_backbone.onnx and nanotrack_head.onnx.
    "Nano": {
        "backbone": ("*nano*backbone_sim*.onnx", "*nano*backbone*.onnx"),
        "neckhead": ("*nano*head_sim*.onnx", "*nano*head*.onnx"),
    },
    "Vit": {"net": ("*vit*track*.onnx", "*vittrack*.onnx")},
    "DaSiamRPN": {
        "model": ("dasiamrpn_model*.onnx",),
        "kernel_r1": ("dasiamrpn_kernel_r1*.onnx",),
        "kernel_cls1": ("dasiamrpn_kernel_cls1*.onnx",),
    },
    "GOTURN": {"modelTxt": ("goturn*.prototxt",), "modelBin": ("goturn*.caffemodel",)},
}
# Their feature selection or sampling is seeded with the clock.
RANDOM = frozenset({"MIL", "TLD", "Boosting"})
# The others inherit `getTrackingScore` in some versions, but always answer 0.
_SCORED = frozenset({"Nano", "Vit", "DaSiamRPN"})


def canonical_name(name: str) -> str:
    """The tracker's name in OpenCV's spelling.

    Raises:
        UserError: not a tracker of OpenCV.
    """
    for known in KNOWN:
        if known.lower() == name.lower():
            return known
    raise UserError(f"OpenCV has no tracker '{name}'; choose from {', '.join(KNOWN)}")


def unavailable_reason(name: str, weights_dir: Path | None) -> str | None:
    """Why the installed OpenCV cannot run a tracker, or None if it can."""
    try:
        _factory(canonical_name(name), weights_dir)
    except UserError as error:
        return str(error)
    return None


def _factory(name: str, weights_dir: Path | None) -> Callable[[], Any]:
    """A function that makes a fresh tracker of OpenCV, which cannot be initialised twice."""
    for module in (cv2, getattr(cv2, "legacy", None)):
        create = getattr(module, f"Tracker{name}_create", None) or getattr(
            getattr(module, f"Tracker{name}", None), "create", None
        )
        if create is not None:
            break
    else:
        raise UserError(
            f"OpenCV {cv2.__version__} as installed has no tracker {name}; "
            "opencv-contrib-python has more, if its version offers it"
        )
    if name not in _NETWORKS:
        return create
    parameters = (getattr(cv2, f"Tracker{name}_Params", None) or getattr(cv2, f"Tracker{name}").Params)()
    for field, patterns in _NETWORKS[name].items():
        setattr(parameters, field, str(find_network(f"opencv:{name}", patterns, weights_dir)))
    return lambda: create(parameters)


def find_network(tracker: str, patterns: tuple[str, ...], weights_dir: Path | None) -> Path:
    """The file of a network below a folder, by patterns of its name, the first that fits.

    Raises:
        UserError: no folder is given, or there is no such file.
    """
    if weights_dir is None:
        raise UserError(f"{tracker} needs its network files; give their folder with --peers-dir")
    for pattern in patterns:
        found = sorted(weights_dir.rglob(pattern))
        if found:
            return found[0]
    raise UserError(f"{weights_dir}: no file {' or '.join(patterns)} for {tracker}; put its authors' model there")


class OpenCvTracker:
    """One of OpenCV's trackers with the calls of `vil_tracker.Tracker`.

    The score is the tracker's own where it has one, and NaN where it has none. A frame on which it reports failure
    keeps the last box, with score 0 and state "lost".

    Raises:
        UserError: the installed OpenCV does not have the tracker, or its network files are missing.
    """

    def __init__(self, name: str, weights_dir: Path | None = None) -> None:
        self.name = canonical_name(name)
        self._create = _factory(self.name, weights_dir)
        self._tracker: Any = None
        self._box = np.zeros(4)

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        """Start on an H×W×3 uint8 RGB frame with the target's x, y, w, h."""
        cv2.setRNGSeed(0)
        self._box = np.asarray(box, dtype=np.float64)
        self._tracker = self._create()
        x, y, w, h = (round(float(value)) for value in self._box)
        self._tracker.init(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), (x, y, max(w, 1), max(h, 1)))

    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame."""
        found, box = self._tracker.update(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        box = np.asarray(box, dtype=np.float64)
        if not found or not np.isfinite(box).all() or (box[2:] <= 0).any():
            return Result(box=self._box.copy(), score=0.0 if self._has_score else float("nan"), state="lost")
        self._box = box
        score = float(np.clip(self._tracker.getTrackingScore(), 0.0, 1.0)) if self._has_score else float("nan")
        return Result(box=box.copy(), score=score, state="tracking")

    @property
    def _has_score(self) -> bool:
        return self.name in _SCORED and hasattr(self._tracker, "getTrackingScore")
