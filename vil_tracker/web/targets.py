"""What a visitor wants followed, and what of an earlier run still holds for it.

A target is ``{"name": str, "boxes": [[frame, x, y, w, h], ...]}``, its boxes by frame: on the first it begins, on the
later ones a person has corrected it. A tracker goes on from a correction with nothing but its templates, so every
stretch between two boxes depends on the boxes up to its beginning alone, and is taken over as long as those stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vil_tracker.boxes import check_box
from vil_tracker.errors import UserError
from vil_tracker.io.source import Frame
from vil_tracker.results import Result
from vil_tracker.web.limits import Limits

_FILE = "results.json"
_NAME_LENGTH = 40


def check_targets(targets: Any, info: Mapping[str, Any], limits: Limits, *, least: int = 1) -> list[dict[str, Any]]:
    """At least so many targets of a request, checked against a video's ``info`` (width, height) and the limits.

    UserError where none can be followed. How many frames the video has is not known before all are read.
    """
    if not isinstance(targets, list) or len(targets) < least:
        raise UserError("no box was drawn: draw one around the target")
    if len(targets) > limits.targets:
        raise UserError(f"{len(targets)} boxes are too many, the limit is {limits.targets} targets: remove some")
    return [_check_target(target, info, limits) for target in targets]


def _check_target(target: Any, info: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    boxes = target.get("boxes") if isinstance(target, dict) else None
    if not isinstance(boxes, list) or not boxes:
        raise UserError("a target has no box: draw one around it")
    if len(boxes) > limits.boxes:
        raise UserError(f"a target has {len(boxes)} boxes, the limit is {limits.boxes}: remove some")
    checked: dict[int, list[float]] = {}
    for row in boxes:
        numbers = isinstance(row, list) and all(type(value) in (int, float) for value in row)
        if not numbers or len(row) != 5:
            raise UserError("a box must be five numbers: frame, and x, y, w, h in pixels")
        frame, *box = row
        if not isinstance(frame, int) or not 0 <= frame < limits.frames or frame in checked:
            raise UserError("a box is for a frame that the video does not have, or that has another box already")
        try:
            checked[frame] = [float(v) for v in check_box(box, info["width"], info["height"])]
        except OverflowError as error:
            raise UserError("a box has a number that is too large: give x, y, w, h in pixels") from error
    name = target.get("name", "")
    shown = "".join(c for c in name if c.isprintable()).strip()[:_NAME_LENGTH] if isinstance(name, str) else ""
    return {"name": shown, "boxes": [[frame, *checked[frame]] for frame in sorted(checked)]}


def save_results(
    folder: Path, targets: Sequence[Any], kept: Sequence[tuple[Frame, Mapping[int, Result]]], complete: bool
) -> None:
    """Write down every frame of a run with its results by target number, for :func:`known_results`."""
    rows = [
        [frame.number, number, r.box.tolist(), float(r.score), r.state]
        for frame, results in kept
        for number, r in results.items()
    ]
    content = {"targets": targets, "complete": complete, "rows": rows}
    (folder / _FILE).write_text(json.dumps(content), encoding="utf-8")


def known_results(folder: Path, targets: Sequence[Any]) -> dict[int, dict[int, Result]]:
    """The results by target number and frame that a run with ``targets`` would give again, from the folder of an
    earlier run on the same video, which may be gone.
    """
    try:
        earlier = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except OSError:
        return {}
    found: dict[int, dict[int, Result]] = {}
    for frame, number, box, score, state in earlier["rows"]:
        found.setdefault(number, {})[frame] = Result(np.array(box), score, state)
    known: dict[int, dict[int, Result]] = {}
    for number, target in enumerate(targets, start=1):
        for other, before in enumerate(earlier["targets"], start=1):
            if before["boxes"][0] == target["boxes"][0]:
                results = found.get(other, {})
                for begin, end in _same_stretches(before["boxes"], target["boxes"]):
                    end = end if end < math.inf or not earlier["complete"] else max(results, default=-1) + 1
                    if end < math.inf and all(frame in results for frame in range(begin, int(end))):
                        known.setdefault(number, {}).update({k: results[k] for k in range(begin, int(end))})
    return known


def _same_stretches(before: list[list[float]], now: list[list[float]]) -> list[tuple[int, float]]:
    """Stretches ``[begin, end)`` between the boxes of ``now`` that ``before`` does not interrupt."""
    count = next((k for k, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    changed = before[count][0] if count < len(before) else math.inf
    ends = [row[0] for row in now[1:]] + [math.inf]
    return [(int(now[k][0]), ends[k]) for k in range(count) if ends[k] <= changed]
