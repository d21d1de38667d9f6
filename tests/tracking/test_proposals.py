"""Boxes for a click: inside the picture, all different, and right where a thing stands out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vil_tracker.boxes import iou
from vil_tracker.tracking.proposals import propose_boxes


@pytest.mark.parametrize("radius", [14, 40, 90])
def test_a_thing_that_stands_out_is_found(radius: int) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(40, 160, (300, 400, 3), np.uint8), (0, 0), 2)
    cv2.circle(image, (180, 140), radius, (230, 180, 40), -1, cv2.LINE_AA)
    truth = np.array([180.0 - radius, 140.0 - radius, 2.0 * radius, 2.0 * radius])
    boxes = propose_boxes(image, (180 + radius / 3, 140 - radius / 4))
    assert max(iou(box, truth) for box in boxes) > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 9), (1080, 1920)])
def test_any_picture_and_any_click(shape: tuple[int, int]) -> None:
    height, width = shape
    flat, noise = np.zeros((*shape, 3), np.uint8), np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    for image in (flat, noise):
        for point in ((0, 0), (width, height / 3)):
            boxes = propose_boxes(image, point)
            assert 1 <= len(boxes) <= 3 and all(box.shape == (4,) and np.isfinite(box).all() for box in boxes)
            assert all(box[2] > 0 and box[3] > 0 and (box[:2] >= 0).all() for box in boxes)
            assert all(box[0] + box[2] <= width + 1e-6 and box[1] + box[3] <= height + 1e-6 for box in boxes)
            assert all(iou(a, b) < 0.5 for a in boxes for b in boxes if a is not b)
            assert (boxes[0] == propose_boxes(image, point)[0]).all()  # the same every time


def test_the_page_states_what_was_measured() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = (docs / "howto/web_page.md").read_text()
    rows = json.loads((docs / "results/clicks.json").read_text())
    assert [row["clicks"] for row in rows][0] == 200
    for row in rows:
        assert "| {objects} | {clicks} | {first:.3f} | {best_of_three:.3f} |".format_map(row) in page
