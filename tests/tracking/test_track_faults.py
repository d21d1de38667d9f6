"""``vil-tracker track`` interrupted, mistaken, or short of disk: complete files or none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from tracking_fakes import FakeTracker, read_number, read_video, rows, track

from vil_tracker.io import files
from vil_tracker.io.box_writers import CsvBoxes
from vil_tracker.io.source import Frame
from vil_tracker.tracking import cli

BOX = "8,4,20,10"

pytestmark = pytest.mark.usefixtures("fake_tracker")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_complete_files(tmp_path, clip, monkeypatch, capsys, number: signal.Signals) -> None:
    class Interrupting(FakeTracker):
        def update(self, frame: np.ndarray):
            if read_number(frame) == 12:
                signal.raise_signal(number)
            return super().update(frame)

    monkeypatch.setattr(cli, "load_tracker_factory", lambda *arguments, **options: Interrupting)
    before = signal.getsignal(number)
    assert track(clip, "--box", BOX, "-o", tmp_path, "--format", "csv,coco", "--strip") == 128 + number
    assert signal.getsignal(number) is before
    assert [int(row["frame"]) for row in rows(tmp_path / "boxes.csv")] == list(range(12))
    assert [read_number(frame) & 8 for frame in read_video(tmp_path / "annotated.webm")[1]] == [0] * 8 + [8] * 4
    assert len(json.loads((tmp_path / "boxes.coco.json").read_text())["images"]) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "annotated.webm",
        "boxes.coco.json",
        "boxes.csv",
        "strip.png",
    ]
    assert f"interrupted by {number.name}" in capsys.readouterr().out


def test_interruption_while_the_files_are_completed_changes_nothing(tmp_path, clip, monkeypatch) -> None:
    finish = CsvBoxes.finish

    def interrupted_finish(self) -> None:
        signal.raise_signal(signal.SIGINT)
        finish(self)

    monkeypatch.setattr(CsvBoxes, "finish", interrupted_finish)
    assert track(clip, "--box", BOX, "-o", tmp_path, "--no-video") == 0
    assert len(rows(tmp_path / "boxes.csv")) == 30


def test_ctrl_c_in_another_process(tmp_path: Path, clip: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from tracking_fakes import FakeTracker
        from vil_tracker import cli as top
        from vil_tracker.tracking import cli
        cli.load_tracker_factory = lambda *arguments, **options: lambda: FakeTracker(delay=0.2)
        sys.exit(top.main(sys.argv[1:]))
    """
    out = tmp_path / "out"
    words = ["track", str(clip), "--box", BOX, "--output", str(out)]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), *words], stderr=subprocess.PIPE)
    for _ in range(1200):
        if any(out.glob(".vil-tracker-*/*.webm")):
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    count = len(rows(out / "boxes.csv"))
    assert 0 < count < 30 and len(read_video(out / "annotated.webm")[1]) == count
    assert sorted(p.name for p in out.iterdir()) == ["annotated.webm", "boxes.csv"]


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(os.urandom(2000))
    (tmp_path / "file").touch()
    (tmp_path / "late.csv").write_text("frame,id,x,y,w,h\n3,1,1,1,5,5\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    out = tmp_path / "out" / "deep"
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "none.mp4", "--box", BOX], "none.mp4 does not exist"),
        ([noise, "--box", BOX], "noise.mp4 cannot be opened"),
        ([clip], "say what to follow"),
        ([clip, "--box", BOX, "--select"], "exclude each other"),
        ([clip, "--box", "1,2,3"], "not four numbers"),
        ([clip, "--box", "nan,2,3,4"], "not four numbers"),
        ([clip, "--box", "1e999,2,3,4"], "not four numbers"),
        ([clip, "--box", "1,2,0,4"], "no area"),
        ([clip, "--box", "1,2,-3,4"], "no area"),
        ([clip, "--box", "-50,2,3,4"], "outside the 96x64 frame"),
        ([clip, "--box", "500,2,3,4"], "outside the 96x64 frame"),
        ([clip, "--box", "0,0,1e7,1e7"], "far larger"),
        ([clip, "--box", BOX, "--box", "500,2,3,4"], "outside"),
        ([clip, "--box", BOX, "--start", 30], "beyond the end"),
        ([clip, "--box", BOX, "--start", "soon"], "neither a frame nor a time"),
        ([clip, "--box", BOX, "--stride", 0], "stride 0"),
        ([clip, "--box", BOX, "--stride", "x"], "invalid int value"),
        ([clip, "--box", BOX, "--frames", 0], "--frames 0"),
        ([clip, "--box", BOX, "--format", "xml"], "xml is no box format"),
        ([clip, "--box", BOX, "--video-codec", "av9"], "invalid choice"),
        ([clip, "--boxes", tmp_path / "none.txt"], "none.txt"),
        ([clip, "--boxes", tmp_path / "late.csv", "--start", 5], "for frame 3, but tracking begins at frame 5"),
        ([clip, "--box", BOX, "--output", tmp_path / "file"], "is a file, but a folder is needed"),
        ([clip, "--box", BOX, "--output", tmp_path / "file" / "x"], "file"),
        ([clip, "--box", BOX, "--bxo"], "unrecognized arguments"),
        (["", "--box", BOX], "does not exist|is a folder|holds no images"),
        (["\0", "--box", BOX], "."),
        ([clip / "x", "--box", BOX], "does not exist"),
        (["9" * 3000, "--box", BOX], "."),
    ]
    for words, message in cases:
        words = words if "--output" in words else [*words, "--output", out]
        assert track(*words) == 2, words
        printed = capfd.readouterr()
        assert printed.err.count("\n") == 1 and "Traceback" not in printed.err, printed.err
        assert re.search(message, printed.err), (words, printed.err)
        assert printed.out == ""
        assert sorted(p.name for p in tmp_path.iterdir()) == before, words


def test_fault_in_mid_run_keeps_the_results_before(tmp_path: Path, clip: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    assert track(clip, "--box", BOX, "-o", out, "--frames", 3) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    write = CsvBoxes.write

    def full(self, frame, results):
        if frame.number == 9:
            raise OSError(28, "No space left on device")
        write(self, frame, results)

    with monkeypatch.context() as patch:
        patch.setattr(CsvBoxes, "_line", lambda self, frame, *_: full(self, frame, {}) or "")
        assert track(clip, "--box", BOX, "-o", out) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before

    class Broken(FakeTracker):
        def update(self, frame):
            raise RuntimeError("not the user's fault")

    monkeypatch.setattr(cli, "load_tracker_factory", lambda *arguments, **options: Broken)
    with pytest.raises(RuntimeError, match="not the user's fault"):
        track(clip, "--box", BOX, "-o", tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_second_run_replaces_the_first(tmp_path: Path, clip: Path) -> None:
    for count in (9, 4):
        assert track(clip, "--box", BOX, "-o", tmp_path, "--no-video", "--format", "csv,yolo", "--frames", count) == 0
        assert len(rows(tmp_path / "boxes.csv")) == len(list((tmp_path / "labels").iterdir())) == count


def test_long_source_needs_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames alive at any moment are bounded by the queues, however long the source is."""
    import gc
    import weakref

    alive: set[int] = set()
    most = 0

    class Long:
        name, fps, total, live = "long", 25.0, 400, False

        def __iter__(self):
            nonlocal most
            for number in range(400):
                image = np.zeros((64, 96, 3), np.uint8)
                alive.add(number)
                weakref.finalize(image, alive.discard, number)
                most = max(most, len(alive))
                yield Frame(number, number / 25, image)

        def close(self) -> None:
            pass

    monkeypatch.setattr(files, "open_source", lambda *args, **kwargs: Long())
    assert track("long", "--box", BOX, "-o", tmp_path, "--no-video", "--format", "csv,jsonl,mot,coco", "--strip") == 0
    gc.collect()
    assert most <= 20
    assert len(rows(tmp_path / "boxes.csv")) == 400
