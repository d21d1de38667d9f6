"""The report as one self-contained HTML page: no other file, no network. ``page.html`` is its Jinja2 template."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vil_tracker import __version__
from vil_tracker.errors import atomic_write
from vil_tracker.evaluation import plots
from vil_tracker.evaluation.failure_cases import PREDICTED_COLOR, TRUTH_COLOR, find_worst
from vil_tracker.evaluation.report import COLUMNS, Report, count_of, describe_precision, differences, format_metric
from vil_tracker.evaluation.scoring import CURVES, METRIC_NAMES, Score

TILES = {
    "auc": "area under success curve",
    "precision": "precision",
    "normalized_precision": "normalised precision",
    "op50": "frames with overlap > 0.5",
    "ao": "average overlap",
    "fps": "frames per second",
}


def write_page(path: Path, report: Report) -> None:
    """Write the page; without matplotlib it has no plots and says so.

    Raises:
        UserError: the place cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("vil_tracker.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count_of": count_of,
        "data_url": data_url,
        "metric": lambda v, name: format_metric(name, v),
    }
    page = environment.get_template("page.html").render(
        report=report,
        version=__version__,
        tiles=TILES,
        columns=list(COLUMNS.values()),
        metric_names=METRIC_NAMES,
        frames=sum(len(sequence.boxes) for sequence in report.sequences),
        precision=describe_precision(report.convention) if report.convention else None,
        color_of=plots.color_of,
        best=best,
        differences=differences,
        worst=find_worst(report.trackers[0], report.sequences),
        colors={"truth": TRUTH_COLOR, "predicted": PREDICTED_COLOR},
        plots=draw_plots(report) if find_spec("matplotlib") is not None else None,
    )
    with atomic_write(path, "w") as stream:
        stream.write(page)


def draw_plots(report: Report) -> dict[str, Any]:
    """SVG texts of the curves (a list), the attributes' bars and the reliability diagram (None without numbers)."""
    scored = any(t.main is not None and t.main.overall is not None for t in report.trackers)
    curves = [plots.curves(report.trackers, which) for which in CURVES if scored]
    return {
        "curves": [figure for figure in (*curves, plots.speed_accuracy(report.trackers)) if figure is not None],
        "attributes": plots.attribute_bars(report.trackers),
        "reliability": plots.reliability(report.trackers),
    }


def best(scores: Sequence[Score | None]) -> dict[str, float]:
    """The highest value of each metric, where there are several trackers to compare."""
    present = [score for score in scores if score is not None]
    if len(present) < 2:
        return {}
    return {name: max(getattr(score, name) or 0.0 for score in present) for name in METRIC_NAMES}


def data_url(data: str | bytes, mime: str) -> str:
    """The address of a picture that travels inside the page."""
    content = data.encode() if isinstance(data, str) else data
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
