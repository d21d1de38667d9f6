"""Which targets to follow: boxes typed, or read from a file."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vil_tracker.boxes import parse_box
from vil_tracker.data.sequence import parse_boxes
from vil_tracker.errors import UserError, read_text

log = logging.getLogger(__name__)

_COLUMNS = ("frame", "id", "x", "y", "w", "h")
MAX_TARGETS = 64  # more than that is a ground-truth file given by mistake


@dataclass(frozen=True)
class Target:
    """One target to follow."""

    number: int  # its id in the outputs, from 1
    box: np.ndarray  # (4,) float64 xywh in pixels
    frame: int | None = None  # on which the box was drawn; None for the first frame that is tracked


def targets_from_boxes(boxes: Sequence[np.ndarray]) -> list[Target]:
    """Number boxes from 1; all begin at the first frame."""
    return [Target(number, box) for number, box in enumerate(boxes, start=1)]


def parse_correction(text: str) -> Target:
    """Read ``"FRAME:x,y,w,h"`` or ``"ID@FRAME:x,y,w,h"`` (without an id, target 1); UserError where it is neither."""
    match = re.fullmatch(r"\s*(?:(\d{1,9})@)?(\d{1,9}):(.+)", text)
    if match is None:
        raise UserError(f"--correct {text!r} is no frame and box: write FRAME:x,y,w,h or ID@FRAME:x,y,w,h")
    number, frame, box = match.groups()
    return Target(int(number or 1), parse_box(box), int(frame))


def read_targets(path: str | os.PathLike[str], start: int = 0, text: str | None = None) -> list[Target]:
    """Read targets from a file, whose ``text`` may be known already, as :func:`vil_tracker.errors.read_text` gives it.

    Either one ``x,y,w,h`` per line, all on the first frame; or a table with a header that names ``frame,id,x,y,w,h``
    (more columns are ignored), such as a ``boxes.csv`` written before, of which each id's first row from frame
    ``start`` on counts on which the target is not lost. Semicolons and tabs separate as well, with decimal commas.
    UserError where it cannot be read, or holds no box, too many, or for a target none from ``start`` on.
    """
    path = Path(path)
    text = read_text(path, "box file") if text is None else text
    if "frame" in text[:200].lower():
        targets = _read_table(path, text, start)
    else:
        targets = targets_from_boxes(list(parse_boxes(text, path)))
    if not targets:
        raise UserError(f"box file {path} holds no box: write one x,y,w,h per line")
    if len(targets) > MAX_TARGETS:
        raise UserError(
            f"box file {path} holds {len(targets)} targets, over the limit of {MAX_TARGETS}: one line is one target "
            "(of a ground-truth file, give the first line as --box)"
        )
    return targets


def _read_table(path: Path, text: str, start: int) -> list[Target]:
    lines = io.StringIO(text, newline="")
    if re.match(r"sep=.\r?\n", text):  # a line for Excel
        lines.readline()
    place = lines.tell()
    header = lines.readline()
    lines.seek(place)
    delimiter = max(",;\t", key=header.count)
    targets: dict[int, Target] = {}

    def rank(frame: int) -> tuple[bool, int]:
        return (False, frame) if frame >= start else (True, -frame)

    table = csv.DictReader(lines, strict=True, skipinitialspace=True, delimiter=delimiter)
    try:
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        missing = set(_COLUMNS) - set(table.fieldnames)
        if missing:
            raise UserError(f"box file {path}: column {sorted(missing)[0]} is missing; needed are frame,id,x,y,w,h")
        for row in table:
            values = [float(row[key] if delimiter == "," else row[key].replace(",", ".")) for key in _COLUMNS]
            frame, number = (_whole(value) for value in values[:2])
            if frame < 0 or number < 1:
                raise ValueError(f"frame {frame}, id {number}: frames start at 0, ids at 1")
            if row.get("state") != "lost" and (number not in targets or rank(frame) < rank(targets[number].frame or 0)):
                targets[number] = Target(number, np.array(values[2:]), frame)
            if len(targets) > MAX_TARGETS:
                break
    except (ValueError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise UserError(
            f"box file {path}, line {table.line_num} is no row of numbers ({error}): write frame,id,x,y,w,h"
        ) from error
    early = [target for _, target in sorted(targets.items()) if (target.frame or 0) < start]
    for target in early:
        fault = f"the last box of target {target.number} is for frame {target.frame}, but tracking begins at {start}"
        if len(early) == len(targets):
            raise UserError(f"box file {path}: {fault}: start there, or give a box for frame {start}")
        log.warning("%s: it is left out", fault)
    return [target for _, target in sorted(targets.items()) if target not in early]


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"{value} is no whole number")
    return int(value)
