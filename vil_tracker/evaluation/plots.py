"""The report's figures, as SVG text. matplotlib is an extra; no figure touches its global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from vil_tracker.errors import require_extra
from vil_tracker.evaluation.scoring import TrackerScores

# Distinct for colour-blind readers and in order of use; the report's own tracker comes first.
COLORS = (
    *("#2a78d6", "#d9480f", "#1b9e77", "#b8860b", "#7b5ac7", "#c2417c"),
    *("#52606d", "#0e8a9c", "#6b4226", "#8fae1b", "#e377c2", "#1f3a68"),
)
_MAX_LINES = len(COLORS)
_LEGEND_LINE = 0.2  # inches
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "axes.edgecolor": "#9aa5b1",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def color_of(index: int) -> str:
    """The colour of the tracker at a position in the report."""
    return COLORS[index % len(COLORS)]


def _draw(width: float, height: float, fill: Callable[[Any], None]) -> str:
    """Draw one pair of axes of the given size in inches and return it as SVG."""
    matplotlib = require_extra("matplotlib", "plots", "draw the report's plots")
    figure_module = require_extra("matplotlib.figure", "plots", "draw the report's plots")
    with matplotlib.rc_context(_STYLE):
        figure = figure_module.Figure(figsize=(width, height), layout="constrained")
        fill(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def curves(trackers: Sequence[TrackerScores], which: str) -> str:
    """Curves of the trackers with an overall score; the legend gives the metric. ``which`` is one of `CURVES`."""
    titles = {
        "success": ("Success", "overlap threshold", "share of frames above it", "AUC"),
        "precision": ("Precision", "centre error threshold in pixels", "share of frames within it", "P"),
        "normalized_precision": (
            "Normalised precision",
            "centre error threshold in box sizes",
            "share of frames within it",
            "NP",
        ),
    }
    title, x_label, y_label, short = titles[which]
    entries = []
    for index, tracker in enumerate(trackers):
        if tracker.main is not None and (overall := tracker.main.overall) is not None:
            value = getattr(overall, "auc" if which == "success" else which)
            axis = getattr(tracker.main.convention, f"{which}_axis")
            entries.append((value, index, axis, overall.curves[which]))
    entries = sorted(entries, key=lambda entry: -entry[0])[:_MAX_LINES]

    def fill(axes: Any) -> None:
        for value, index, axis, curve in entries:
            axes.plot(
                axis,
                curve,
                color=color_of(index),
                linewidth=2.4 if index == 0 else 1.6,
                label=f"{trackers[index].name}  {short} {value:.3f}",
                zorder=3 if index == 0 else 2,
            )
        axes.set(title=title, xlabel=x_label, ylabel=y_label, ylim=(0, 1.005))
        axes.margins(x=0)
        axes.figure.legend(loc="outside lower center")  # no curve runs there

    return _draw(4.6, 3.5 + _LEGEND_LINE * len(entries), fill)


def attribute_bars(trackers: Sequence[TrackerScores]) -> str | None:
    """AUC per challenge attribute as horizontal bars, sorted by the first tracker; None without attributes."""
    shown = [(i, t) for i, t in enumerate(trackers) if t.main is not None and t.main.attributes][:6]
    if not shown:
        return None
    first = shown[0][1].main
    assert first is not None
    names = sorted(first.attributes, key=lambda name: first.attributes[name][0].auc)
    thickness = 0.8 / len(shown)

    def fill(axes: Any) -> None:
        for place, (index, tracker) in enumerate(shown):
            assert tracker.main is not None
            values = [tracker.main.attributes[n][0].auc if n in tracker.main.attributes else 0.0 for n in names]
            offsets = [row + 0.4 - thickness * (place + 0.5) for row in range(len(names))]
            axes.barh(offsets, values, height=thickness * 0.9, color=color_of(index), label=tracker.name)
        axes.set_yticks(range(len(names)), [f"{name} ({first.attributes[name][1]})" for name in names])
        axes.set(title="AUC by attribute (number of sequences)", xlabel="AUC", xlim=(0, 1))
        axes.grid(axis="y", visible=False)
        if len(shown) > 1:
            axes.figure.legend(loc="outside lower center", ncols=2)

    return _draw(7.0, 1.2 + _LEGEND_LINE * ((len(shown) + 1) // 2) + len(names) * max(0.28, 0.13 * len(shown)), fill)


def speed_accuracy(trackers: Sequence[TrackerScores]) -> str | None:
    """AUC against frames per second, one dot per tracker; None where no speed is known."""
    points = [
        (index, tracker.name, tracker.fps, tracker.main.overall.auc)
        for index, tracker in enumerate(trackers)
        if tracker.fps and tracker.main is not None and tracker.main.overall is not None
    ]
    if not points:
        return None

    def fill(axes: Any) -> None:
        for index, name, fps, auc in points:
            axes.scatter([fps], [auc], s=70, color=color_of(index), zorder=3)
            axes.annotate(name, (fps, auc), xytext=(7, 5), textcoords="offset points", fontsize=9)
        speeds = [fps for _, _, fps, _ in points]
        aucs = [auc for *_, auc in points]
        axes.set_xscale("log")
        axes.set(title="Speed and accuracy", xlabel="frames per second (tracker calls only)", ylabel="AUC")
        axes.set_xlim(min(speeds) / 1.6, max(speeds) * 2.2)
        axes.set_ylim(max(0.0, min(aucs) - 0.08), min(1.0, max(aucs) + 0.08))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        narrow = max(speeds) / min(speeds) < 20  # room for 20, 50, 200 between the powers of ten
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if narrow and f"{value:g}"[0] in "25" else "")

    return _draw(4.6, 3.7, fill)


def reliability(trackers: Sequence[TrackerScores]) -> str | None:
    """Share of correct frames against the score, for trackers that have one; None where none has."""
    shown = [(index, tracker) for index, tracker in enumerate(trackers) if tracker.confidence is not None]
    if not shown:
        return None

    def fill(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--", label="perfectly calibrated")
        for index, tracker in shown:
            measures: dict[str, Any] = tracker.confidence or {}
            diagram = measures["reliability"]
            total = sum(diagram["count"])
            bins = [entry for entry in zip(*diagram.values(), strict=True) if entry[2]]
            x, y, count = zip(*bins, strict=True)
            axes.plot(x, y, color=color_of(index), linewidth=1.4, label=f"{tracker.name}  ECE {measures['ece']:.3f}")
            axes.scatter(x, y, s=[12 + 240 * c / total for c in count], color=color_of(index), zorder=3)
        axes.set(
            title="Reliability of the score",
            xlabel="score",
            ylabel="share of frames with overlap above 0.5",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
        )
        axes.figure.legend(loc="outside lower center")

    return _draw(4.6, 3.5 + _LEGEND_LINE * (len(shown) + 1), fill)
