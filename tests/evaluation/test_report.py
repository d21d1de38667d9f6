"""What a person and a program find in the output folder."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from eval_trees import make_folder_benchmark, moving_boxes, write_boxes

from vil_tracker.cli import main

KEYS = {"auc", "precision", "normalized_precision", "op50", "op75", "ao", "sr50", "sr75", "fps"}


def evaluate(*arguments: str | Path) -> int:
    return main(["--quiet", "evaluate", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_folder_benchmark(tmp_path / "data" / "one", {"a": 12, "b": 9})
    make_folder_benchmark(tmp_path / "data" / "two", {"c": 8})
    return tmp_path / "data"


def test_report_of_two_trackers_beside_published_results(data: Path, tmp_path: Path, capsys) -> None:
    for name, count in {"a": 12, "b": 9, "c": 8}.items():
        write_boxes(tmp_path / "others" / "Rival" / f"{name}.txt", moving_boxes(count) + [1, 1, 0, 0])
    output = tmp_path / "out"
    arguments = ["--benchmark", "folder", "--data-root", data, "--output", output, "--compare", tmp_path / "others"]
    trackers = ["--tracker", "python:helper_trackers:Drift", "still"]
    assert evaluate(*arguments, *trackers, "--convention", "official,ostrack") == 0

    report = json.loads((output / "report.json").read_text())
    assert set(report["overall"]) >= KEYS and set(report["trackers"]) == {"Drift", "still", "Rival"}
    assert set(report["sequences"]) == {"a", "b", "c"}
    assert all(set(entry) >= KEYS for entry in report["sequences"].values())
    assert report["overall"]["auc"] == pytest.approx(20 / 21) and report["overall"]["fps"] > 0
    assert report["groups"].keys() == {"one", "two"} and report["groups"]["one"]["sequences"] == 2
    assert report["trackers"]["Rival"]["overall"]["fps"] is None
    assert 0 < report["trackers"]["still"]["overall"]["auc"] < report["trackers"]["Rival"]["overall"]["auc"] < 1
    assert report["convention"]["name"] == "official" and set(report["conventions"]) == {"official", "ostrack"}
    assert report["difference"]["ostrack - official"]["Drift"]["auc"] == pytest.approx(0)

    printed = capsys.readouterr().out
    assert "convention: official" in printed and "difference, ostrack minus official" in printed
    assert re.search(r"Drift +0\.952", printed) and "expected calibration error" in printed

    with (output / "sequences.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 3 * 2 and set(rows[0]) >= KEYS
    drift = next(row for row in rows if row["tracker"] == "Drift" and row["sequence"] == "b")
    assert float(drift["auc"]) == pytest.approx(report["sequences"]["b"]["auc"], abs=1e-6)
    with (output / "curves.csv").open() as stream:
        success = [row for row in csv.DictReader(stream) if row["curve"] == "success" and row["tracker"] == "Drift"]
    assert len(success) == 2 * 21

    page = (output / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "url(" not in page  # needs no other file
    assert page.count("data:image/svg+xml") == 5 and "Rival" in page and "Worst sequences of Drift" in page
    assert page.count("data:image/jpeg") >= 3 and "$" not in page.replace("${", "")


def test_worst_sequences_show_the_loss(data: Path, tmp_path: Path) -> None:
    from vil_tracker.evaluation.benchmarks import get_benchmark, load_sequences
    from vil_tracker.evaluation.failure_cases import find_worst
    from vil_tracker.evaluation.results import ResultStore, Trajectory
    from vil_tracker.evaluation.scoring import score_tracker

    benchmark = get_benchmark("folder")
    sequences = load_sequences(benchmark, data)
    store = ResultStore(tmp_path / "results")
    for sequence in sequences:
        boxes = sequence.boxes.copy()
        if sequence.name == "b":
            boxes[4:6, 1] += 30  # away for two frames
        if sequence.name == "a":
            boxes[3:, 1] += 30  # away for good
        store.save(sequence.name, Trajectory(boxes))
    scores = score_tracker("x", benchmark, sequences, store, ["official"])
    worst = find_worst(scores, sequences)
    assert [entry.name for entry in worst] == ["a", "b", "c"]
    assert worst[0].verdict == "lost in frame 4 for good"
    assert worst[1].verdict == "lost in frame 5 and found again in frame 7"
    assert [picture.frame for picture in worst[0].pictures] == [3, 4, 12]
    assert worst[0].pictures[0].jpeg[:2] == b"\xff\xd8"


def test_attributes_are_scored(tmp_path: Path) -> None:
    from eval_trees import write_frames

    root = tmp_path / "OTB"
    for name, count in {"Deer": 71, "Skiing": 81}.items():
        write_frames(root / name / "img", range(1, count + 1))
        write_boxes(root / name / "groundtruth_rect.txt", moving_boxes(count))
    arguments = ["--benchmark", "otb2013", "--data-root", root, "--sequences", "Deer,Skiing", "--tracker", "still"]
    assert evaluate(*arguments, "--output", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["attributes"]["In-Plane Rotation"]["sequences"] == 2
    assert report["attributes"]["Deformation"]["auc"] == pytest.approx(report["sequences"]["Skiing"]["auc"])
    assert report["partial"] and report["confidence"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Challenges" in page and "Only a part of the benchmark" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "folder"], "say where the data is"),
        (["--benchmark", "folder", "--truth", "x"], "goes with --results"),
        (["--benchmark", "folder", "--data-root", "x"], "x is not a folder"),
        (["--benchmark", "foldr", "--data-root", "x"], "unknown benchmark 'foldr'"),
        (["--benchmark", "folder", "--data-root", "x", "--convention", "mine"], "--convention mine: choose from"),
        (["--benchmark", "folder", "--data-root", ".", "--workers", "0"], "--workers 0 is below 1"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert evaluate(*arguments, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tracker", ["vill", "opencv:Foo", "python:nowhere:Thing", "python:helper_trackers"])
def test_unknown_trackers(tracker: str, data: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--benchmark", "folder", "--data-root", data, "--output", tmp_path / "out", "--tracker", tracker]
    assert evaluate(*arguments, "--no-html") == 2
    assert tracker.split(":")[-1] in capsys.readouterr().err


def test_results_with_a_wrong_number_of_boxes(data: Path, tmp_path: Path, capsys) -> None:
    for name in ("a", "b", "c"):
        write_boxes(tmp_path / "results" / f"{name}.txt", moving_boxes(9))
    arguments = ["--benchmark", "folder", "--data-root", data, "--results", tmp_path / "results", "--no-html"]
    assert evaluate(*arguments, "--output", tmp_path / "out") == 2
    assert "a.txt: 9 boxes, but the sequence has 12 frames" in capsys.readouterr().err


def test_truth_scored_against_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("p", "q"):
        write_boxes(tmp_path / "truth" / f"{name}.txt", rng.uniform(1, 90, (20, 4)).round(2))
    arguments = ["--benchmark", "folder", "--truth", tmp_path / "truth", "--results", tmp_path / "truth"]
    assert evaluate(*arguments, "--output", tmp_path / "out") == 0
    overall = json.loads((tmp_path / "out" / "report.json").read_text())["overall"]
    assert overall["precision"] == overall["op75"] == overall["sr50"] == 1.0
    assert overall["auc"] == pytest.approx(20 / 21)  # no overlap is greater than the last threshold, 1


def test_page_without_matplotlib_says_what_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vil_tracker.evaluation.page.find_spec", lambda name: None)
    arguments = ["--benchmark", "folder", "--data-root", data, "--output", tmp_path, "--tracker"]
    assert evaluate(*arguments, "python:helper_trackers:Drift,still") == 0
    page = (tmp_path / "report.html").read_text()
    assert "vil-tracker[plots]" in page and "image/svg" not in page and "Confidence" in page


def test_attributes_from_a_folder(data: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "att"
    folder.mkdir()
    (folder / "a.txt").write_text("Fog, Night\n")
    (folder / "b.txt").write_text("Night\n")
    arguments = ["--benchmark", "folder", "--data-root", data, "--output", tmp_path / "out", "--tracker", "still"]
    assert evaluate(*arguments, "--attributes", folder, "--no-html") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {name: entry["sequences"] for name, entry in report["attributes"].items()} == {"Fog": 1, "Night": 2}
    (folder / "a.txt").write_text("0,1\n")
    assert evaluate(*arguments, "--attributes", folder, "--no-html") == 2
    assert "2 flags" in capsys.readouterr().err


def test_lasot_flags_have_the_order_of_its_toolkit(tmp_path: Path) -> None:
    from vil_tracker.evaluation.benchmarks import get_benchmark, load_truth, with_attributes

    write_boxes(tmp_path / "bird-2.txt", moving_boxes(4))
    (tmp_path / "att").mkdir()
    (tmp_path / "att" / "bird-2.txt").write_text("1,0,0,0,0,0,0,0,0,1,0,0,0,1\n")
    lasot = get_benchmark("lasot")
    (bird,) = with_attributes(load_truth(lasot, tmp_path, ("all",)), tmp_path / "att", lasot.attributes)
    assert bird.attributes == ("Illumination Variation", "Full Occlusion", "Aspect Ratio Change")


def test_legends_lie_beside_the_curves_and_the_truth_on_top() -> None:
    from vil_tracker.evaluation import failure_cases, plots

    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    assert len(set(plots.COLORS)) == len(plots.COLORS) >= plots._MAX_LINES  # one colour per line
    seen: list[bool] = []
    save = Figure.savefig

    def look(figure: Figure, *args: object, **words: object) -> None:
        save(figure, *args, **words)
        (axes,), (legend,) = figure.axes, figure.legends
        seen.append(legend.get_window_extent().overlaps(axes.get_window_extent()))

    confidence = {"reliability": {"score": [0.2, 0.9], "correct": [0.1, 0.8], "count": [5, 9]}, "ece": 0.1}
    trackers = [SimpleNamespace(name=f"tracker {i}", confidence=confidence) for i in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", look)
        assert plots.reliability(trackers)  # type: ignore[arg-type]
        scores = SimpleNamespace(auc=0.6, curves={"success": [1.0, 0.5, 0.0]})
        for tracker in trackers:
            tracker.main = SimpleNamespace(overall=scores, convention=SimpleNamespace(success_axis=[0.0, 0.5, 1.0]))
        assert plots.curves(trackers, "success")  # type: ignore[arg-type]
    assert seen == [False, False]
    box = np.array([40.0, 30.0, 120.0, 90.0])
    data = failure_cases._draw(np.zeros((240, 360, 3), np.uint8), box, box)
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    colours = (failure_cases.TRUTH_COLOR, failure_cases.PREDICTED_COLOR)
    edge = picture[30, 44:156].astype(int)
    truth, predicted = (int((np.abs(edge - colour).sum(1) < 120).sum()) for colour in colours)
    assert truth > 30 and predicted > 15  # dashes of the one over the line of the other
