"""The report as a terminal table, as CSV and as JSON; `page.py` makes the HTML page from the same content."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vil_tracker import __version__
from vil_tracker.data.sequence import Sequence
from vil_tracker.errors import atomic_write
from vil_tracker.evaluation.benchmarks import Benchmark
from vil_tracker.evaluation.conventions import Convention
from vil_tracker.evaluation.run import Failure
from vil_tracker.evaluation.scoring import METRIC_NAMES, ConventionScores, Score, TrackerScores

COLUMNS = {
    "auc": "AUC",
    "precision": "Prec",
    "normalized_precision": "NormPrec",
    "op50": "OP50",
    "op75": "OP75",
    "ao": "AO",
    "sr50": "SR0.5",
    "sr75": "SR0.75",
    "fps": "fps",
}


@dataclass(frozen=True)
class Report:
    """One evaluation of trackers, the one that the report is about first, on `sequences` (`partial` where those are
    only a part of the benchmark). `failures` are sequences that trackers could not finish, `notes` remarks that a
    reader of the numbers must know.
    """

    benchmark: Benchmark
    sequences: list[Sequence]
    trackers: list[TrackerScores]
    failures: list[Failure] = field(default_factory=list)
    partial: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tracker has a result for every sequence."""
        return not self.failures and not any(tracker.missing for tracker in self.trackers)

    @property
    def convention(self) -> Convention | None:
        """The convention of the main numbers; None where the truth is withheld."""
        main = self.trackers[0].main
        return main.convention if main else None


def count_of(number: int, noun: str) -> str:
    """A number with its noun, such as "1 sequence" and "2,242 frames"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe_precision(convention: Convention) -> tuple[str, str]:
    """What "precision" and "normalised precision" mean under a convention, in a few words each."""
    if convention.areas:
        return "area under the curve from 0 to 50 px", "area under the curve from 0 to 0.5"
    return "at 20 px", "at 0.2"


def to_json(report: Report) -> dict[str, Any]:
    """The content of report.json; the main tracker's numbers stand at the top level, all trackers' in `trackers`."""
    first = _tracker_json(report, report.trackers[0])
    document: dict[str, Any] = {
        "version": 1,
        "vil_tracker": __version__,
        "benchmark": report.benchmark.key,
        "title": report.benchmark.title,
        "complete": report.complete,
        "partial": report.partial,
        "notes": report.notes,
        "convention": _convention_json(report.convention),
        "tracker": report.trackers[0].name,
        **first,
        "trackers": {tracker.name: _tracker_json(report, tracker) for tracker in report.trackers},
        "failures": [
            {"tracker": failure.tracker, "sequence": failure.sequence, "message": failure.message}
            for failure in report.failures
        ],
    }
    names = list(report.trackers[0].conventions)
    if len(names) > 1:
        document["conventions"] = {
            name: {
                **(_convention_json(report.trackers[0].conventions[name].convention) or {}),
                "overall": {t.name: (o := t.conventions[name].overall) and _score_json(o) for t in report.trackers},
            }
            for name in names
        }
        document["difference"] = {
            f"{name} - {names[0]}": {t.name: differences(t, names[0], name) for t in report.trackers}
            for name in names[1:]
        }
    return document


def differences(tracker: TrackerScores, base: str, other: str) -> dict[str, float] | None:
    """Overall score under one convention minus that under another, metric by metric."""
    first, second = tracker.conventions[base].overall, tracker.conventions[other].overall
    if first is None or second is None:
        return None
    names = [name for name in METRIC_NAMES if name != "fps"]
    return {name: getattr(second, name) - getattr(first, name) for name in names}


def _convention_json(convention: Convention | None) -> dict[str, str] | None:
    if convention is None:
        return None
    precision, normalized = describe_precision(convention)
    return {
        "name": convention.name,
        "toolkit": convention.toolkit,
        "rule": convention.rule,
        "precision": precision,
        "normalized_precision": normalized,
    }


def _tracker_json(report: Report, tracker: TrackerScores) -> dict[str, Any]:
    main = tracker.main
    if main is None:
        timed = {name: None for name in METRIC_NAMES} | {"fps": tracker.fps}
        return {
            "overall": timed | {"sequences": len(tracker.trajectories)},
            "sequences": {s.name: {"frames": len(s.boxes)} for s in report.sequences},
            "missing": tracker.missing,
        }
    by_name = {sequence.name: sequence for sequence in report.sequences}
    return {
        "overall": None if main.overall is None else _score_json(main.overall) | {"sequences": len(main.sequences)},
        "sequences": {
            name: _score_json(score) | {"group": by_name[name].dataset, "attributes": list(by_name[name].attributes)}
            for name, score in main.sequences.items()
        },
        **{
            part: {name: _score_json(score) | {"sequences": count} for name, (score, count) in sets.items()}
            for part, sets in (("groups", main.groups), ("attributes", main.attributes))
        },
        "curves": _curves_json(main),
        "confidence": tracker.confidence,
        "missing": tracker.missing,
    }


def _score_json(score: Score) -> dict[str, Any]:
    return score.metrics() | {"frames": score.frames}


def _curves_json(scores: ConventionScores) -> dict[str, Any] | None:
    if scores.overall is None:
        return None
    axes = {name: getattr(scores.convention, f"{name}_axis") for name in scores.overall.curves}
    return {
        name: {"thresholds": [round(float(value), 6) for value in axes[name]], "values": curve.tolist()}
        for name, curve in scores.overall.curves.items()
    }


def write_csv(folder: Path, report: Report) -> list[Path]:
    """Write overall.csv (with groups and attributes), sequences.csv and curves.csv; returns their paths."""
    overall, sequences, curves = [], [], []
    for tracker in report.trackers:
        for name, scores in tracker.conventions.items():
            head = [tracker.name, name]
            if scores.overall is not None:
                overall.append([*head, "overall", "", len(scores.sequences), *_numbers(scores.overall)])
                for curve, values in (_curves_json(scores) or {}).items():
                    pairs = zip(values["thresholds"], values["values"], strict=True)
                    curves += [[*head, curve, threshold, f"{value:.6f}"] for threshold, value in pairs]
            for scope, sets in (("attribute", scores.attributes), ("group", scores.groups)):
                overall += [[*head, scope, key, count, *_numbers(score)] for key, (score, count) in sets.items()]
            for sequence in report.sequences:
                if sequence.name in scores.sequences:
                    sequences.append(
                        [*head, sequence.name, sequence.dataset, *_numbers(scores.sequences[sequence.name])]
                    )
    tables = {
        "overall.csv": (["tracker", "convention", "scope", "name", "sequences", "frames", *METRIC_NAMES], overall),
        "sequences.csv": (["tracker", "convention", "sequence", "group", "frames", *METRIC_NAMES], sequences),
        "curves.csv": (["tracker", "convention", "curve", "threshold", "value"], curves),
    }
    for file_name, (header, rows) in tables.items():
        with atomic_write(folder / file_name, "w") as stream:
            csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return [folder / file_name for file_name in tables]


def _numbers(score: Score) -> list[object]:
    return [score.frames, *("" if value is None else f"{value:.6f}" for value in score.metrics().values())]


def to_text(report: Report) -> str:
    """The report for a terminal: the convention, a table, differences between conventions, what is missing."""
    part = " (a part of it)" if report.partial else ""
    lines = [f"{report.benchmark.title}, {count_of(len(report.sequences), 'sequence')}{part}"]
    convention = report.convention
    if convention is None:
        lines.append("the true boxes are withheld by the benchmark: no scores, only speed")
        lines += [f"  {t.name}: {t.fps:.1f} fps" if t.fps else f"  {t.name}: speed unknown" for t in report.trackers]
    for name in report.trackers[0].conventions:
        lines += ["", *_convention_text(report, name)]
    names = list(report.trackers[0].conventions)
    for other in names[1:]:
        lines += ["", f"difference, {other} minus {names[0]}"]
        for tracker in report.trackers:
            change = differences(tracker, names[0], other)
            if change is not None:
                lines.append(f"  {tracker.name}: " + ", ".join(f"{COLUMNS[k]} {v:+.4f}" for k, v in change.items()))
    for tracker in report.trackers:
        if tracker.missing:
            lines += ["", f"{tracker.name}: no overall score, results are missing for {', '.join(tracker.missing)}"]
        if tracker.confidence is not None:
            lines += ["", *_confidence_text(tracker)]
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)


def _convention_text(report: Report, name: str) -> list[str]:
    convention = report.trackers[0].conventions[name].convention
    precision, normalized = describe_precision(convention)
    rows = [["tracker", *COLUMNS.values()]]
    for tracker in report.trackers:
        scores = tracker.conventions[name]
        rows.append([tracker.name, *_cells(scores.overall)])
        rows += [[f"  {key}", *_cells(score)] for key, (score, _) in scores.groups.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [
        f"convention: {convention.name} ({convention.toolkit}): {convention.rule}; precision {precision}, "
        f"normalised precision {normalized}",
        *table,
    ]


def _cells(score: Score | None) -> list[str]:
    if score is None:
        return ["-"] * len(METRIC_NAMES)
    return [format_metric(name, value) for name, value in score.metrics().items()]


def format_metric(name: str, value: float | None) -> str:
    """A metric as shown in tables: three decimals, frames per second with one."""
    if value is None:
        return "-"
    return f"{value:.1f}" if name == "fps" else f"{value:.3f}"


def _confidence_text(tracker: TrackerScores) -> list[str]:
    measures: dict[str, Any] = tracker.confidence or {}
    parts = [f"expected calibration error {measures['ece']:.3f}"]
    if measures["auroc_lost"] is not None:
        parts.append(f"AUROC of the lost signal {measures['auroc_lost']:.3f}")
    if "confidently_wrong" in measures:
        parts.append(f"overlap below 0.1 at a score above 0.8: {measures['confidently_wrong']:.1%} of frames")
    absent = measures["absent"]
    if absent is not None:
        parts.append(f"absent: precision {_number(absent['precision'])}, recall {_number(absent['recall'])}")
    for key, title in (("after_absence", "after absences"), ("after_loss", "after losses")):
        recovery = measures["recovery"][key]
        if recovery["events"]:
            parts.append(
                f"{title}: {recovery['recovered']:.0%} of {recovery['events']} recovered, "
                f"median {_number(recovery['median_frames'], 0)} frames"
            )
    return [f"{tracker.name}, confidence: " + "; ".join(parts)]


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
