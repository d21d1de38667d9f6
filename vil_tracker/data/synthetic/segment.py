"""Object masks from boxes by GrabCut (Rother, Kolmogorov and Blake, 2004), kept only where they look trustworthy."""

from __future__ import annotations

import cv2
import numpy as np

_WORK_SIZE = 112  # pixels on the long side; GrabCut's time grows with the area and the edge is softened anyway
_MARGIN = 0.25  # of the box's sides: what surrounds it teaches GrabCut the background's colours


def mask_from_box(photo: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """Guess the mask of a boxed object.

    Args:
        photo: (H, W, 3) uint8 RGB.
        box: xywh in pixels.

    Returns:
        (H, W) bool, or None where the result is not to be trusted: hardly any background beside the box, less than 30 %
        of the box covered, or an extent that does not reach the box's sides. About half of the boxes pass.
    """
    height, width = photo.shape[:2]
    x, y, w, h = (float(v) for v in box)
    mx, my = _MARGIN * w + 4, _MARGIN * h + 4
    left, top = max(0, int(x - mx)), max(0, int(y - my))
    part = photo[top : min(height, int(y + h + my)), left : min(width, int(x + w + mx))]
    scale = min(1.0, _WORK_SIZE / max(part.shape[:2]))
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = (int(round(v * scale)) for v in (x - left, y - top, x + w - left, y + h - top))
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y1:y2, x1:x2] = cv2.GC_PR_FGD
    if min(x2 - x1, y2 - y1) < 10 or (labels == cv2.GC_BGD).mean() < 0.05:
        return None
    cv2.setRNGSeed(1)  # its colour clusters start from OpenCV's own generator; equal input must give equal masks
    cv2.grabCut(small, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    left_, top_, w_, h_ = cv2.boundingRect(found)
    if w_ * h_ < 0.8 * (x2 - x1) * (y2 - y1) or found.sum() < 0.3 * (x2 - x1) * (y2 - y1):
        return None
    mask = np.zeros((height, width), bool)
    full = cv2.resize(found * 255, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = full > 127
    return mask
