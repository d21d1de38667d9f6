"""Published scores from published boxes, and the GOT-10k package's scores from random ones."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from eval_trees import jpeg, write_boxes, write_frames

from vil_tracker.cli import main
from vil_tracker.evaluation.conventions import GOT10K

PARITY = Path(__file__).resolve().parents[1] / "parity" / "ccot_otb2013.zip"


@pytest.fixture(scope="module")
def ccot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ccot")
    with zipfile.ZipFile(PARITY) as archive:
        archive.extractall(folder)
    return folder


def evaluate(*arguments: str | Path) -> int:
    return main(["--quiet", "evaluate", *map(str, arguments)])


def test_ccot_on_otb2013(ccot: Path, tmp_path: Path) -> None:
    command = ["--benchmark", "otb2013", "--truth", ccot / "gt", "--results", ccot / "ccot", "--output", tmp_path]
    assert evaluate(*command, "--no-html") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["overall"]["auc"] == pytest.approx(0.676875, abs=1e-6)
    assert report["overall"]["precision"] == pytest.approx(0.907952, abs=1e-6)
    assert report["complete"] and not report["partial"]
    assert len(report["sequences"]) == 51
    assert report["sequences"]["Jogging-1"]["frames"] == 307


def test_a_missing_result_is_named_and_nothing_is_scored(ccot: Path, tmp_path: Path, capsys) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for path in (ccot / "ccot").iterdir():
        if path.stem not in ("Tiger1", "Jogging-2"):
            (results / path.name).symlink_to(path)
    command = ["--benchmark", "otb2013", "--truth", ccot / "gt", "--results", results, "--output", tmp_path / "out"]
    assert evaluate(*command, "--no-html") == 2
    error = capsys.readouterr().err
    assert "Jogging-2" in error and "Tiger1" in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "report.json").exists()
    assert evaluate(*command, "--no-html", "--keep-going") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["overall"] is None and report["missing"] == ["Jogging-2", "Tiger1"]
    assert len(report["sequences"]) == 49


def random_got10k(root: Path, results: Path, count: int) -> list[str]:
    """A data set in GOT-10k's layout with random boxes and absences, and random results of it."""
    rng = np.random.default_rng(11)
    names = [f"GOT-10k_Val_{number:06d}" for number in range(1, count + 1)]
    (root / "val").mkdir(parents=True)
    (root / "val" / "list.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        length, width, height = int(rng.integers(5, 25)), int(rng.integers(40, 90)), int(rng.integers(30, 70))
        folder = root / "val" / name
        write_frames(folder, range(1, length + 1), "{:08d}.jpg", jpeg(width, height))
        truth = rng.uniform([-10, -10, 1, 1], [width, height, width, height], (length, 4)).round(2)
        truth[0] = [5, 5, 20, 15]
        cover = rng.integers(0, 9, length)
        absence = (cover == 0).astype(int)
        truth[absence == 1] = rng.choice([0.0, 3.0])  # boxes of absent targets are arbitrary
        truth[0], cover[0], absence[0] = [5, 5, 20, 15], 8, 0
        cover[1], absence[1] = 8, 0
        write_boxes(folder / "groundtruth.txt", truth)
        (folder / "cover.label").write_text("".join(f"{value}\n" for value in cover))
        (folder / "absence.label").write_text("".join(f"{value}\n" for value in absence))
        (folder / "cut_by_image.label").write_text("0\n" * length)
        (folder / "meta_info.ini").write_text(f"[METAINFO]\nresolution: ({width}, {height})\n")
        write_boxes(results / name / f"{name}_001.txt", truth + rng.normal(0, 4, truth.shape).round(3) * [1, 1, 0, 0])
        times = results / name / f"{name}_time.txt"
        times.write_text("0.5\n" * length)
        boxes = np.loadtxt(results / name / f"{name}_001.txt", delimiter=",")
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
        write_boxes(results / name / f"{name}_001.txt", boxes)
    return names


def test_got10k_equals_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    experiments = pytest.importorskip("got10k.experiments", reason="needs the got10k package: pip install got10k six")
    results = tmp_path / "results" / "GOT-10k" / "ours"
    names = random_got10k(tmp_path / "data", results, 60)
    experiment = experiments.ExperimentGOT10k(
        str(tmp_path / "data"), subset="val", result_dir=str(tmp_path / "results"), report_dir=str(tmp_path / "reports")
    )
    monkeypatch.setattr(experiment, "plot_curves", lambda *_: None)
    expected = experiment.report(["ours"])["ours"]

    command = ["--benchmark", "got10k_val", "--data-root", tmp_path / "data", "--sequences", "all"]
    assert evaluate(*command, "--results", results, "--output", tmp_path / "out", "--no-html") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["overall"]["ao"] == pytest.approx(expected["overall"]["ao"], abs=1e-6)
    assert report["overall"]["sr50"] == pytest.approx(expected["overall"]["sr"], abs=1e-6)
    np.testing.assert_allclose(report["curves"]["success"]["values"], expected["overall"]["succ_curve"], atol=1e-6)
    assert report["curves"]["success"]["thresholds"] == pytest.approx(np.linspace(0, 1, 101), abs=1e-6)
    for name in names:
        assert report["sequences"][name]["ao"] == pytest.approx(expected["seq_wise"][name]["ao"], abs=1e-6)
        assert report["sequences"][name]["sr50"] == pytest.approx(expected["seq_wise"][name]["sr"], abs=1e-6)
    assert GOT10K.skip_first and report["partial"]
