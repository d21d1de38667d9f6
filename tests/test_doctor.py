"""``vil-tracker doctor`` as a user meets it: what it prints, its JSON and its exit status."""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from vil_tracker import doctor
from vil_tracker.doctor import Check
from vil_tracker.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes time and has tests of its own below: weights, and all codecs but one."""
    monkeypatch.setattr(doctor, "_weights_folder", lambda: Path("no weights here"))
    monkeypatch.setattr("vil_tracker.io.video_writer.CODECS", ("auto", "h264"))
    monkeypatch.delenv("VIL_DATA", raising=False)


def run(*options: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_options(parser)
    return doctor.run(parser.parse_args(options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    picture = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in ("airplane-2", "airplane-1", "bear-1"):
        sequence = tmp_path / "root" / "LaSOT" / name.rpartition("-")[0] / name
        (sequence / "img").mkdir(parents=True)
        for number in (1, 2, 3):
            (sequence / "img" / f"{number:08d}.jpg").write_bytes(picture)
        (sequence / "groundtruth.txt").write_text("1,1,4,4\n" * 3)
    own = tmp_path / "root" / "mine" / "a"
    (own / "img").mkdir(parents=True)
    (own / "img" / "1.jpg").write_bytes(picture)
    (own / "groundtruth.txt").write_text("1,1,4,4\n")
    return tmp_path / "root"


def test_without_data_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    printed = capsys.readouterr().out
    for expected in ("python: 3.", "torch: ", "cv2: ", "cpu: ", "h264: written and read back", "no problems"):
        assert expected in printed
    assert "give --data-root DIR or set VIL_DATA" in printed
    assert "GOT-10k_Train_000001/" in printed and "Aardwolf-2/" in printed and "FOLDER/" in printed  # layouts


def test_finds_counts_and_shows_what_is_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data-root", str(root)) == 0
    printed = capsys.readouterr().out
    assert f"lasot train: 2 of 1120 in {root / 'LaSOT'}" in printed
    assert "lasot test: 1 of 280" in printed and "missing: airplane-10, airplane-11" in printed
    assert "folder:mine all: 1 in" in printed
    assert "GOT-10k_Train_000001/" in printed and "airplane-1/" not in printed.split("layouts expected")[1]


def test_json(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIL_DATA", str(root))
    assert run("--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    lasot = next(entry for entry in report["data"] if entry["name"] == "lasot")
    assert [(part["split"], part["found"], part["official"]) for part in lasot["splits"]] == [
        ("train", 2, 1120),
        ("test", 1, 280),
    ]
    assert len(lasot["splits"][0]["missing"]) == 1118
    assert {"area", "name", "status", "text", "advice"} == set(report["checks"][0])


def test_scan_finds_broken_and_missing_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data-root", str(root), "--scan", "--cache-dir", str(tmp_path / "cache"))
    assert run(*options) == 0
    assert "6 boxes" in capsys.readouterr().out
    (root / "LaSOT" / "bear" / "bear-1" / "groundtruth.txt").write_text("1,1,4,4\n1,1,x,4\n")
    (root / "LaSOT" / "airplane" / "airplane-1" / "img" / "00000002.jpg").unlink()
    assert run(*options) == 1
    printed = capsys.readouterr().out
    assert "groundtruth.txt:2" in printed and "1 frames are missing" in printed
    assert "2 problem(s): data: lasot train; data: lasot test" in printed


def test_asked_for_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data-root", str(tmp_path / "nowhere")) == 1
    assert "is not a folder" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert run("--data-root", str(tmp_path / "empty")) == 1
    assert "holds no data set that is recognised" in capsys.readouterr().out


def test_all_layouts_on_request(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--data-root", str(root), "--layouts")
    assert "airplane-1/" in capsys.readouterr().out


def test_broken_package_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    original = doctor.importlib.import_module

    def failing(name: str):
        if name == "einops":
            raise ImportError("no module named einops")
        return original(name)

    monkeypatch.setattr(doctor.importlib, "import_module", failing)
    assert run() == 1
    printed = capsys.readouterr().out
    assert "FAIL  einops" in printed and "-> pip install" in printed and "1 problem(s): packages: einops" in printed


def test_no_codec_is_a_failure_and_one_missing_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vil_tracker.io.video_writer.CODECS", ("auto", "vp9", "h264"))
    monkeypatch.setattr(doctor, "_codec_fault", lambda codec: "" if codec == "h264" else "cannot")
    assert {check.name: check.status for check in doctor.check_video()}["vp9"] == "note"
    monkeypatch.setattr(doctor, "_codec_fault", lambda codec: "cannot")
    assert list(doctor.check_video())[-1].status == "fail"


def test_extras_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2", 'matplotlib>=3.7; extra == "plots"', "gradio ; python_version > '3' and extra == 'demo'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "_version", lambda name: "3.9" if name == "matplotlib" else None)
    assert list(doctor.check_extras()) == [
        Check("extras", "demo", "note", "not installed (lacks gradio)", "pip install 'vil-tracker[demo]'"),
        Check("extras", "plots", "ok", "matplotlib 3.9"),
    ]


def test_shipped_weights_are_loaded_and_damage_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_model(name: str, device: str) -> None:
        if name == "tiny":
            raise UserError("tiny.safetensors does not have its checksum")

    assert [check.status for check in doctor.check_weights()] == ["note"]
    (tmp_path / "weights").mkdir()
    for name in ("nano", "tiny"):
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    monkeypatch.setattr(doctor, "_weights_folder", lambda: tmp_path / "weights")
    stub = types.SimpleNamespace(load_model=load_model)
    monkeypatch.setitem(sys.modules, "vil_tracker.models.pretrained", stub)  # type: ignore[arg-type]
    checks = list(doctor.check_weights())
    assert [(check.name, check.status) for check in checks] == [("nano", "ok"), ("tiny", "fail")]
    assert "--force-reinstall" in checks[1].advice
