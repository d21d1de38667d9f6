"""The curves of a run as a picture."""

from __future__ import annotations

import logging
from pathlib import Path

from vil_tracker.errors import UserError, atomic_write, require_extra
from vil_tracker.training.record import read_log

log = logging.getLogger(__name__)

PANELS = (
    ("loss", ("loss", "focal", "giou", "l1")),
    ("overlap", ("iou", "validation_iou", "validation_auc")),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("lr",)),
)


def plot_curves(log_path: Path, path: Path) -> Path | None:
    """Draw the losses, overlaps, gradient norm and rate of a log over its steps.

    Args:
        log_path: ``log.jsonl`` of a run.
        path: PNG file to write.

    Returns:
        ``path``, or None with a note in the log where matplotlib is not installed.
    """
    try:
        figures = require_extra("matplotlib.figure", "plots", "draw the curves of a run")
    except UserError as error:
        log.info("no curves: %s", error)
        return None
    lines = [line for line in read_log(log_path) if "step" in line]
    figure = figures.Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    return path
