"""``vil-tracker track`` interrupted, mistaken, or short of disk: complete files or none."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tracking_fakes import FakeTracker, numbered_frame, read_number, read_video, rows, track

from vil_tracker.errors import UserError
from vil_tracker.images import write_image
from vil_tracker.io import files
from vil_tracker.io.box_writers import BoxLines, CsvBoxes
from vil_tracker.io.output_folder import OutputFolder, partial_name
from vil_tracker.io.source import Frame
from vil_tracker.tracking import cli
from vil_tracker.tracking.run import interruptible

BOX = "8,4,20,10"

pytestmark = pytest.mark.usefixtures("fake_tracker")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_leaves_complete_files(tmp_path, clip, monkeypatch, capsys, number: signal.Signals) -> None:
    class Interrupting(FakeTracker):
        def update(self, frame: np.ndarray):
            if read_number(frame) == 12:
                signal.raise_signal(number)
            return super().update(frame)

    monkeypatch.setattr(cli, "load_tracker_factory", lambda *arguments, **options: Interrupting)
    inherited = signal.signal(number, signal.default_int_handler)  # a test run in the background ignores SIGINT
    try:
        assert track(clip, "--box", BOX, "-o", tmp_path, "--format", "csv,coco", "--strip") == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, inherited)
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


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interruption_while_the_files_are_completed_changes_nothing(tmp_path, clip, monkeypatch) -> None:
    finish = BoxLines.finish

    def interrupted_finish(self) -> None:
        signal.raise_signal(signal.SIGINT)
        finish(self)

    monkeypatch.setattr(BoxLines, "finish", interrupted_finish)
    assert track(clip, "--box", BOX, "-o", tmp_path, "--no-video") == 0
    assert len(rows(tmp_path / "boxes.csv")) == 30


@contextlib.contextmanager
def run_apart(clip: Path, out: Path, *words: object, frames: int = 5) -> Iterator[subprocess.Popen[bytes]]:
    """A slow run in a process of its own, once so many of its frames are written."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from tracking_fakes import FakeTracker
        from vil_tracker import cli as top
        from vil_tracker.tracking import cli
        cli.load_tracker_factory = lambda *arguments, **options: lambda: FakeTracker(delay=0.2)
        sys.exit(top.main(sys.argv[1:]))
    """
    command = ["track", *map(str, (clip, "--box", BOX, "--output", out, *words))]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), *command], stderr=subprocess.PIPE)
    table = out / "boxes.csv.partial"
    try:
        while process.poll() is None and not (table.is_file() and table.read_bytes().count(b"\n") > frames):
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_closed_terminal_in_another_process(tmp_path: Path, clip: Path) -> None:
    out, number = tmp_path / "out", signal.SIGHUP
    with run_apart(clip, out) as process:
        process.send_signal(number)
        errors = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 128 + number and "Traceback" not in errors, errors
    count = len(rows(out / "boxes.csv"))
    assert 0 < count < 30 and len(read_video(out / "annotated.webm")[1]) == count
    assert sorted(p.name for p in out.iterdir()) == ["annotated.webm", "boxes.csv"]


def test_a_killed_run_leaves_its_boxes_and_the_next_one_tidies_up(tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    with run_apart(clip, out, "--format", "mot,coco,cvat", frames=12) as process:
        process.kill()
        process.wait()
    table = rows(out / "boxes.csv.partial")
    assert len(table) >= 12 and all(len(row) == 9 and row["state"] for row in table)  # whole lines, up to the end
    assert len((out / "boxes.mot.txt.partial").read_text().splitlines()) >= 11
    assert (out / "annotated.partial.webm").is_file()
    # What is left is good for going on, and then stays where it is; any other run takes the folder over.
    left = out / "boxes.csv.partial"
    assert track(clip, "--boxes", left, "--start", 8, "-o", out, "--no-video") == 0
    assert left.is_file() and len(rows(tmp_path / "out-2" / "boxes.csv")) == 22
    assert track(clip, "--box", BOX, "-o", out, "--no-video") == 0
    assert [p.name for p in out.iterdir()] == ["boxes.csv"] and len(rows(out / "boxes.csv")) == 30


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
        ([clip, "--box", BOX, "--workers", "2"], "for many videos: give LIST.csv"),
        ([clip, "--boxes", tmp_path / "none.txt"], "none.txt"),
        ([clip, "--boxes", tmp_path / "late.csv", "--start", 5], "last box of target 1 is for frame 3, but tracking"),
        ([clip, "--box", BOX, "--output", tmp_path / "file"], "is a file, but a folder is needed"),
        ([clip, "--box", BOX, "--output", tmp_path / "file" / "x"], "file"),
        ([clip, "--box", BOX, "--output", "/proc/nowhere"], "cannot write /proc/nowhere"),
        ([clip, "--box", BOX, "--output", "/dev/null/x"], "/dev/null is a file"),
        ([clip, "--box", BOX, "--range", "1,2"], "--range is for images"),
        ([clip, "--box", BOX, "--range", "2,1"], "no range"),
        ([clip, "--box", BOX, "--output", "/proc/nowhere"], "cannot write /proc/nowhere"),
        ([clip, "--box", BOX, "--output", "/dev/null/x"], "/dev/null is a file"),
        ([clip, "--box", BOX, "--range", "1,2"], "--range is for images"),
        ([clip, "--box", BOX, "--range", "2,1"], "no range"),
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

    write = BoxLines.write

    def no_space(*_: object) -> str:
        raise OSError(28, "No space left on device")

    def full(self, frame, results):
        if frame.number == 9:
            self._line = no_space
        write(self, frame, results)

    with monkeypatch.context() as patch:
        patch.setattr(BoxLines, "write", full)
        assert track(clip, "--box", BOX, "-o", out, "--overwrite") == 2
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


def test_a_second_run_goes_to_a_second_folder(tmp_path: Path, clip: Path, capsys) -> None:
    out = tmp_path / "out"

    def run(count: int, *words: object) -> None:
        assert track(clip, "--box", BOX, "-o", out, "--no-video", "--frames", count, *words) == 0

    run(9, "--format", "csv,yolo,mot")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    capsys.readouterr()
    run(4, "--format", "csv,yolo")
    said = capsys.readouterr()
    assert f"{out} holds another run: the files go to {out}-2" in said.err and f"{out}-2" in said.out
    run(5)
    assert [len(rows(tmp_path / name / "boxes.csv")) for name in ("out", "out-2", "out-3")] == [9, 4, 5]
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    assert len(list((tmp_path / "out-2" / "labels").iterdir())) == 4

    (out / "notes.txt").write_text("mine")
    run(6, "--overwrite", "--format", "jsonl")
    assert sorted(p.name for p in out.iterdir()) == ["boxes.jsonl", "notes.txt"]  # no mixture of two runs
    assert len((out / "boxes.jsonl").read_text().splitlines()) == 6
    run(2, "-o", tmp_path / "mine", "--format", "mot")  # no table but the one that was asked for
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["boxes.mot.txt"]


def test_two_runs_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    first = OutputFolder(tmp_path / "out")
    begun = CsvBoxes(first.path / partial_name("boxes.csv"))
    second = OutputFolder(tmp_path / "out")
    assert second.path == tmp_path / "out-2"
    with pytest.raises(UserError, match="another run writes to"):
        OutputFolder(tmp_path / "out", overwrite=True)
    begun.finish()
    assert [p.name for p in first.publish()] == ["boxes.csv"]
    second.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["boxes.csv"]


def test_a_long_name_is_shortened_for_the_folder(tmp_path: Path, clip: Path, monkeypatch) -> None:
    long = tmp_path / ("é" * 100 + ".mp4")
    long.write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert track(long, "--box", BOX, "--no-video", "--frames", 2) == 0
    assert (tmp_path / ("é" * 60 + "_tracked-2") / "boxes.csv").is_file()


def test_labels_of_ones_own_are_not_overwritten(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert track(clip, "--box", BOX, "-o", tmp_path, "--overwrite", "--no-video", "--frames", 2) == 0
    assert (tmp_path / "labels" / "mine.txt").exists() and (tmp_path / "boxes.csv").exists()
    (tmp_path / "boxes.csv").unlink()
    for words, place in ((["--format", "yolo"], tmp_path.with_name(f"{tmp_path.name}-2") / "labels"), ([], tmp_path)):
        assert track(clip, "--box", BOX, "-o", tmp_path, "--no-video", "--frames", 2, *words) == 0
        assert (place / ("000001.txt" if words else "boxes.csv")).exists()
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["mine.txt"]


def test_a_source_that_breaks_off_keeps_what_was_tracked(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(8):
        write_image(folder / f"{number}.png", numbered_frame(number))
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:50])
    out = tmp_path / "out"
    assert track(folder, "--box", BOX, "-o", out, "--format", "csv,coco") == 2
    assert [int(row["frame"]) for row in rows(out / "boxes.csv")] == list(range(5))
    assert len(json.loads((out / "boxes.coco.json").read_text())["images"]) == 5
    assert len(read_video(out / "annotated.webm")[1]) == 5
    said = capsys.readouterr()
    assert "ended early; the files are complete up to frame 4" in said.out
    assert "5.png" in said.err and said.err.count("\n") == 1


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
