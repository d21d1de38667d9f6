"""Challenge attributes that do not come with a data set's own files: one text file per sequence in a folder.

A file holds either the names of the attributes that the sequence has, separated by commas or lines, or 0/1 flags in the
benchmark's own order, as the toolkits of LaSOT (`annos/att/`) and UAV123 ship them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from vil_tracker.data.sequence import Sequence
from vil_tracker.errors import UserError, read_text
from vil_tracker.evaluation.results import name_key

LASOT_ATTRIBUTES = (
    "Illumination Variation",
    "Partial Occlusion",
    "Deformation",
    "Motion Blur",
    "Camera Motion",
    "Rotation",
    "Background Clutter",
    "Viewpoint Change",
    "Scale Variation",
    "Full Occlusion",
    "Fast Motion",
    "Out-of-View",
    "Low Resolution",
    "Aspect Ratio Change",
)


def with_attributes(sequences: list[Sequence], folder: Path, order: tuple[str, ...]) -> list[Sequence]:
    """Give sequences the attributes written in a folder; those without a file keep their own.

    Args:
        sequences: any.
        folder: one `NAME.txt` per sequence.
        order: attribute names in the order of flags; empty if the benchmark has no such order.

    Raises:
        UserError: no file matches, or a file has the wrong number of flags.
    """
    files = {name_key(path.stem): path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}
    result = [
        replace(s, attributes=_read(files[name_key(s.name)], order)) if name_key(s.name) in files else s
        for s in sequences
    ]
    if not any(name_key(s.name) in files for s in sequences):
        raise UserError(f"--attributes {folder}: no NAME.txt of any sequence there")
    return result


def _read(path: Path, order: tuple[str, ...]) -> tuple[str, ...]:
    words = [word.strip() for word in re.split(r"[,\n\t]+", read_text(path, "attributes")) if word.strip()]
    if not words or not all(word in ("0", "1") for word in words):
        return tuple(words)
    if len(words) != len(order):
        raise UserError(f"{path}: {len(words)} flags, but this benchmark orders {len(order)} attributes; write names")
    return tuple(name for name, flag in zip(order, words, strict=True) if flag == "1")
