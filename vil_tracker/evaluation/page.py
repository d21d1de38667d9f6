"""The report as one self-contained HTML page: no other file, no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

from vil_tracker import __version__
from vil_tracker.errors import atomic_write
from vil_tracker.evaluation import plots
from vil_tracker.evaluation.failure_cases import PREDICTED_COLOR, TRUTH_COLOR, WorstSequence, find_worst
from vil_tracker.evaluation.report import COLUMNS, Report, count_of, describe_precision, differences, format_metric
from vil_tracker.evaluation.scores import METRIC_NAMES, Score


def write_page(path: Path, report: Report) -> None:
    """Write the page; without matplotlib it has no plots and says so.

    Raises:
        UserError: the place cannot be written.
    """
    with_plots = find_spec("matplotlib") is not None
    body = "\n".join(
        section
        for section in (
            _head(report),
            _summary(report),
            _plots(report) if with_plots else _NO_PLOTS,
            _attributes(report) if with_plots else "",
            _confidence(report, with_plots=with_plots),
            _worst(report),
            _per_sequence(report),
        )
        if section
    )
    template = resources.files("vil_tracker.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(f"{report.trackers[0].name} on {report.benchmark.title}"),
        body=body,
        footer=f"Made by ViL-Tracker {escape(__version__)}. The same numbers are in report.json and the CSV files.",
    )
    with atomic_write(path, "w") as stream:
        stream.write(page)


def _head(report: Report) -> str:
    first = report.trackers[0]
    frames = sum(len(sequence.boxes) for sequence in report.sequences)
    parts = [
        f"<h1>{escape(first.name)} on {escape(report.benchmark.title)}</h1>",
        f'<p class="soft">{count_of(len(report.sequences), "sequence")}, {count_of(frames, "frame")}.</p>',
    ]
    if report.partial:
        parts.append('<p class="warning">Only a part of the benchmark: not comparable with published scores.</p>')
    for tracker in report.trackers:
        if tracker.missing:
            names = escape(", ".join(tracker.missing))
            parts.append(f'<p class="warning">{escape(tracker.name)} has no overall score: no result for {names}.</p>')
    parts += [
        f'<p class="warning">{escape(failure.tracker)} failed on {escape(failure.sequence)}: '
        f"{escape(failure.message)}</p>"
        for failure in report.failures
    ]
    parts += [f'<p class="warning">{escape(note)}</p>' for note in report.notes]
    overall = first.main.overall if first.main else None
    if overall is not None:
        shown = ("auc", "precision", "normalized_precision", "op50", "ao", "fps")
        tiles = "".join(
            f'<div class="tile"><b>{format_metric(name, getattr(overall, name))}</b><span>{_LONG[name]}</span></div>'
            for name in shown
            if getattr(overall, name) is not None
        )
        parts.append(f'<div class="tiles">{tiles}</div>')
    convention = report.convention
    if convention is not None:
        precision, normalized = describe_precision(convention)
        parts.append(
            f'<p class="soft">Convention <b>{escape(convention.name)}</b>, that of the {escape(convention.toolkit)}: '
            f"{escape(convention.rule)}. Precision is taken {escape(precision)}, normalised precision "
            f"{escape(normalized)}.</p>"
        )
    else:
        parts.append('<p class="soft">The benchmark withholds the true boxes: no scores here, only speed.</p>')
    return "\n".join(parts)


_NO_PLOTS = (
    "<p class=\"warning\">Curves and other plots need matplotlib: <code>pip install 'vil-tracker[plots]'</code>, then "
    "give the same command again; the results are kept.</p>"
)
_LEGEND = (
    '<p class="soft">AUC: area under the success curve. Prec, NormPrec: share of frames whose centre is near the true '
    "one, in pixels and in box sizes. OP50, OP75: share of frames with an overlap above 0.5 and 0.75. AO: average "
    "overlap. SR0.5, SR0.75: as OP, over the frames in which the target can be seen. fps: frames per second.</p>"
)
_LONG = {
    "auc": "area under success curve",
    "precision": "precision",
    "normalized_precision": "normalised precision",
    "op50": "frames with overlap > 0.5",
    "ao": "average overlap",
    "fps": "frames per second",
}


def _summary(report: Report) -> str:
    sections = []
    for name in report.trackers[0].conventions:
        rows: list[str] = []
        overall = [t.conventions[name].overall for t in report.trackers]
        best = _best(overall)
        for index, tracker in enumerate(report.trackers):
            scores = tracker.conventions[name]
            dot = f'<span class="dot" style="background:{plots.color_of(index)}"></span>'
            rows.append(f"<tr><td>{dot}{escape(tracker.name)}</td>{_cells(scores.overall, best)}</tr>")
            rows += [
                f'<tr class="sub"><td>{escape(group)}</td>{_cells(score)}</tr>'
                for group, score in scores.groups.items()
            ]
        label = f", {escape(name)} convention" if len(report.trackers[0].conventions) > 1 else ""
        sections.append(f'<h2>Overall{label}</h2><div class="card">{_table("tracker", rows)}</div>')
    if sections:
        sections.append(_LEGEND)
    names = list(report.trackers[0].conventions)
    for other in names[1:]:
        rows = []
        for tracker in report.trackers:
            change = differences(tracker, names[0], other)
            if change is not None:
                cells = "".join(
                    f"<td>{change[key]:+.4f}</td>" if key in change else "<td>-</td>" for key in METRIC_NAMES
                )
                rows.append(f"<tr><td>{escape(tracker.name)}</td>{cells}</tr>")
        title = f"Difference: {escape(other)} minus {escape(names[0])}"
        sections.append(f'<h2>{title}</h2><div class="card">{_table("tracker", rows)}</div>')
    return "\n".join(sections)


def _best(scores: Sequence[Score | None]) -> dict[str, float]:
    """The highest value of each metric, where there are several trackers to compare."""
    present = [score for score in scores if score is not None]
    if len(present) < 2:
        return {}
    return {name: max(getattr(score, name) or 0.0 for score in present) for name in METRIC_NAMES}


def _cells(score: Score | None, best: dict[str, float] | None = None) -> str:
    if score is None:
        return "<td>-</td>" * len(METRIC_NAMES)
    values = score.metrics()
    marked = {name for name, value in (best or {}).items() if values[name] == value and value}
    return "".join(
        f"<td{' class=best' if name in marked else ''}>{format_metric(name, value)}</td>"
        for name, value in values.items()
    )


def _table(first: str, rows: Sequence[str], *, sortable: bool = False) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in (first, *COLUMNS.values()))
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _plots(report: Report) -> str:
    if not any(t.main is not None and t.main.overall is not None for t in report.trackers):
        return ""
    drawn = [plots.curves(report.trackers, which) for which in ("success", "precision", "normalized")]
    speed = plots.speed_accuracy(report.trackers)
    if speed is not None:
        drawn.append(speed)
    return f'<h2>Curves</h2><div class="plots">{"".join(_card(svg) for svg in drawn)}</div>'


def _card(svg: str, kind: str = "") -> str:
    return f'<div class="card">{_image("image/svg+xml", svg.encode(), kind)}</div>'


def _image(mime: str, data: bytes, kind: str = "", text: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<img{name} alt="{escape(text)}" src="data:{mime};base64,{base64.b64encode(data).decode()}">'


def _attributes(report: Report) -> str:
    svg = plots.attribute_bars(report.trackers)
    return "" if svg is None else f"<h2>Challenges</h2>{_card(svg, 'wide')}"


def _confidence(report: Report, *, with_plots: bool) -> str:
    rows = []
    for tracker in report.trackers:
        if tracker.confidence is None:
            continue
        measures: dict[str, Any] = tracker.confidence
        absent = measures["absent"] or {"precision": None, "recall": None}
        loss, absence = measures["recovery"]["after_loss"], measures["recovery"]["after_absence"]
        cells = [
            f"{measures['ece']:.3f}",
            _or_dash(measures["auroc_lost"]),
            f"{_or_dash(absent['precision'])} / {_or_dash(absent['recall'])}",
            _recovery(absence),
            _recovery(loss),
        ]
        rows.append(f"<tr><td>{escape(tracker.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    if not rows:
        return ""
    svg = plots.reliability(report.trackers) if with_plots else None
    heads = ("tracker", "ECE", "AUROC of lost", "absent: precision / recall", "after absence", "after loss")
    head = "".join(f"<th>{title}</th>" for title in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    explanation = (
        '<p class="soft">Is the score to be trusted? Expected calibration error over 15 bins; how well a low score '
        "marks frames with overlap up to 0.5 or without target; the state “lost” against frames flagged absent; share "
        "of absences and losses after which the target was found again, with the median number of frames it took.</p>"
    )
    return f'<h2>Confidence</h2>{explanation}<div class="card">{table}</div>{_card(svg, "narrow") if svg else ""}'


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _recovery(summary: dict[str, Any]) -> str:
    if not summary["events"]:
        return "none"
    median = "" if summary["median_frames"] is None else f", median {summary['median_frames']:.0f} frames"
    return f"{summary['recovered']:.0%} of {summary['events']}{median}"


def _worst(report: Report) -> str:
    entries = find_worst(report.trackers[0], report.sequences)
    if not entries:
        return ""
    key = (
        f'<p class="soft">Lowest AUC first.<span class="key" style="border-color:rgb{TRUTH_COLOR}"></span>truth'
        f'<span class="key" style="border-color:rgb{PREDICTED_COLOR}"></span>{escape(report.trackers[0].name)}</p>'
    )
    cards = "".join(_worst_card(entry) for entry in entries)
    return f'<h2>Worst sequences of {escape(report.trackers[0].name)}</h2>{key}<div class="worst">{cards}</div>'


def _worst_card(entry: WorstSequence) -> str:
    figures = "".join(
        f"<figure>{_image('image/jpeg', picture.jpeg, text=picture.caption)}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in entry.pictures
    )
    strip = f'<div class="strip">{figures}</div>' if figures else ""
    return (
        f'<div class="card"><h3>{escape(entry.name)} · AUC {entry.auc:.3f}</h3>'
        f'<p class="soft">{escape(entry.verdict)}</p>{strip}</div>'
    )


def _per_sequence(report: Report) -> str:
    sections = []
    for tracker in report.trackers:
        if tracker.main is None:
            continue
        rows = [f"<tr><td>{escape(name)}</td>{_cells(score)}</tr>" for name, score in tracker.main.sequences.items()]
        table = _table("sequence", rows, sortable=True)
        opened = " open" if tracker is report.trackers[0] else ""
        sections.append(
            f'<details{opened}><summary>{escape(tracker.name)}</summary><div class="card">{table}</div></details>'
        )
    if not sections:
        return ""
    return f'<h2>Every sequence</h2><p class="soft">Click a column to sort by it.</p>{"".join(sections)}'
