"""The whole cycle by the commands that a user types: paint data, train, look at samples, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vil_tracker.cli import main
from vil_tracker.data.synthetic.painted import paint_data
from vil_tracker.images import read_image
from vil_tracker.training.record import read_log

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "smoke.yaml")


def test_train_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture, with_curves) -> None:
    data, output = tmp_path / "painted", tmp_path / "run"
    paint_data(data)
    words = ["train", CONFIG, "--data-root", str(data), "--output", str(output), "--cache-dir", str(tmp_path / "cache")]
    words += ["--device", "cpu", "--threads", "2", "--quiet"]
    assert main([*words, "--show-samples", "4"]) == 0
    assert read_image(output / "samples.png").size > 0
    assert main(words) == 0
    assert f"weights: {output}/weights.safetensors" in capsys.readouterr().out
    log = [line for line in read_log(output / "log.jsonl") if "loss" in line]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"] and log[-1]["step"] == 100

    report = tmp_path / "evaluation"
    words = ["evaluate", "--benchmark", "folder", "--data-root", str(data / "videos"), "--device", "cpu", "--no-html"]
    assert main([*words, "--weights", str(output / "weights.safetensors"), "--output", str(report)]) == 0
    assert json.loads((report / "report.json").read_text())


def test_what_a_user_may_type_wrongly(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.delenv("VIL_DATA", raising=False)
    for words, message in (
        (["train", "nowhere.yaml"], "cannot read config"),
        (["train", CONFIG], "--data-root"),
        (["train", CONFIG, "--data-root", str(tmp_path / "none")], "is not a folder"),
        (["train", CONFIG, "--data-root", str(tmp_path)], "no photo found"),
        (["train", CONFIG, "--data-root", str(tmp_path), "--set", "train.step=3"], "did you mean train.steps"),
        (["train", CONFIG, "--data-root", str(tmp_path), "--resume", "yes"], "invalid choice"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
