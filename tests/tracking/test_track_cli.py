"""``vil-tracker track`` from the outside: files, numbers, interruptions, mistakes."""

from __future__ import annotations

import csv
import io
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
from tracking_fakes import FakeTracker, ScriptedWindow, numbered_frame, read_number, read_video, serve, write_video

from vil_tracker import cli as top
from vil_tracker.errors import UserError
from vil_tracker.images import read_image, write_image
from vil_tracker.tracking import cli, select, sinks, video
from vil_tracker.tracking.outputs import CsvBoxes

BOX = "8,4,20,10"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 30)


@pytest.fixture(autouse=True)
def fake_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_tracker_factory", lambda *arguments, **options: FakeTracker)
    monkeypatch.setattr(sinks, "find_ffmpeg", lambda: None)


def track(*words: object) -> int:
    return top.main(["track", *map(str, words)])


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_boxes_and_video_of_a_plain_run(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert track(clip, "--box", BOX, "--output", out) == 0
    lines = (out / "boxes.csv").read_text().splitlines()
    assert lines[:3] == [
        "frame,id,x,y,w,h,score",
        "0,1,8.000,4.000,20.000,10.000,1.0000",
        "1,1,10.000,5.000,20.000,10.000,0.7500",
    ]
    assert [int(row["frame"]) for row in rows(out / "boxes.csv")] == list(range(30))
    fps, frames = read_video(out / "annotated.webm")
    assert fps == pytest.approx(29.97, abs=0.01) and len(frames) == 30
    assert sorted(p.name for p in out.iterdir()) == ["annotated.webm", "boxes.csv"]
    printed = capsys.readouterr()
    assert "tracked 30 frames (0 to 29)" in printed.out and "frames per second" in printed.out
    assert all(f"{part} " in printed.out for part in ("decode", "track", "write"))
    assert printed.err == ""  # no progress bar where nobody watches


def test_start_stride_and_limit(tmp_path: Path, clip: Path) -> None:
    assert track(clip, "--box", BOX, "-o", tmp_path, "--start", "0.2s", "--stride", 4, "--frames", 5) == 0
    assert [int(row["frame"]) for row in rows(tmp_path / "boxes.csv")] == [6, 10, 14, 18, 22]
    fps, frames = read_video(tmp_path / "annotated.webm")
    assert len(frames) == 5 and fps == pytest.approx(29.97 / 4, abs=0.01)  # the same speed as the source


def test_quiet_says_nothing_and_no_video_writes_none(tmp_path: Path, clip: Path, capfd) -> None:
    assert track(clip, "--box", BOX, "-o", tmp_path, "--no-video", "-q") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["boxes.csv"]
    assert capfd.readouterr() == ("", "")


def test_every_format_tells_the_same(tmp_path: Path, clip: Path) -> None:
    formats = "csv,jsonl,mot,coco,yolo"
    second = "40,20,30,30"
    assert track(clip, "--box", BOX, "--box", second, "-o", tmp_path, "--no-video", "--format", formats) == 0
    table = rows(tmp_path / "boxes.csv")
    assert [(row["frame"], row["id"]) for row in table] == [(str(f), i) for f in range(30) for i in "12"]
    objects = [json.loads(line) for line in (tmp_path / "boxes.jsonl").read_text().splitlines()]
    assert list(objects[0]) == ["frame", "time", "id", "x", "y", "w", "h", "score", "state"]
    for row, item in zip(table, objects, strict=True):
        assert all(float(row[key]) == item[key] for key in ("frame", "id", "x", "y", "w", "h", "score"))
        assert item["time"] == pytest.approx(item["frame"] / 29.97, abs=1e-3)
    found = [item for item in objects if item["state"] != "lost"]
    assert 0 < len(found) < len(objects)

    mot = [[float(v) for v in line.split(",")] for line in (tmp_path / "boxes.mot.txt").read_text().splitlines()]
    coco = json.loads((tmp_path / "boxes.coco.json").read_text())
    assert len(coco["images"]) == 30 and len({image["id"] for image in coco["images"]}) == 30
    assert coco["images"][7] == {"id": 7, "file_name": "000007.jpg", "width": 96, "height": 64}
    for item, line, note in zip(found, mot, coco["annotations"], strict=True):
        box = [item[key] for key in "xywh"]
        assert line[:2] == [item["frame"] + 1, item["id"]] and line[7:] == [-1, -1, -1]
        assert np.allclose(line[2:6], [box[0] + 1, box[1] + 1, box[2], box[3]])
        assert note["image_id"] == item["frame"] and note["track_id"] == item["id"] and note["bbox"] == box
    assert len({note["id"] for note in coco["annotations"]}) == len(found)

    labels = sorted((tmp_path / "labels").iterdir())
    assert [p.name for p in labels] == [f"{i:06d}.txt" for i in range(30)]
    kind, cx, cy, w, h = (float(v) for v in labels[3].read_text().splitlines()[1].split())
    wanted = objects[7]
    assert kind == 1 and wanted["id"] == 2 and wanted["frame"] == 3
    low, size = np.array([wanted["x"], wanted["y"]]), np.array([wanted["w"], wanted["h"]])
    high = np.minimum(low + size, [96, 64])
    assert np.allclose([cx * 96, cy * 64, w * 96, h * 64], [*(low + high) / 2, *(high - low)], atol=1e-3)


def test_pictures_and_clips(tmp_path: Path, clip: Path) -> None:
    pytest.importorskip("matplotlib")
    extras = ["--strip", "--contact-sheet", "--score-plot", "--target-clip"]
    assert track(clip, "--box", BOX, "--box", "40,20,30,30", "-o", tmp_path, *extras) == 0
    strip, sheet = read_image(tmp_path / "strip.png"), read_image(tmp_path / "contact-sheet.png")
    assert strip.shape[1] > 8 * 320 and strip.shape[0] < 320 and sheet.shape[1] > 4 * 320
    assert read_image(tmp_path / "scores.png").shape[0] > 200
    for number in (1, 2):
        fps, frames = read_video(tmp_path / f"target-{number}.webm")
        assert len(frames) == 30 and frames[0].shape == (256, 256, 3) and fps == pytest.approx(29.97, abs=0.01)


def test_image_folder_and_changing_sizes(tmp_path: Path) -> None:
    for number in range(6):
        size = (96, 64) if number < 3 else (160, 90)
        write_image(tmp_path / "in" / f"{number}.png", numbered_frame(number, *size))
    out = tmp_path / "out"
    assert track(tmp_path / "in", "--box", BOX, "-o", out, "--fps", 12.5, "--format", "csv,coco,yolo") == 0
    fps, frames = read_video(out / "annotated.webm")
    assert fps == pytest.approx(12.5) and [frame.shape[:2] for frame in frames] == [(64, 96)] * 6
    coco = json.loads((out / "boxes.coco.json").read_text())
    assert [(image["file_name"], image["width"]) for image in coco["images"]][2:4] == [("2.png", 96), ("3.png", 160)]
    assert sorted(p.name for p in (out / "labels").iterdir()) == [f"{i}.txt" for i in range(6)]


def test_images_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_image(tmp_path / f"{number}.png", numbered_frame(number))
    data = b"".join((tmp_path / f"{number}.png").read_bytes() for number in range(4))
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        assert track("-", "--box", BOX, "-o", tmp_path / "out", "--no-video") == 0
    assert len(rows(tmp_path / "out" / "boxes.csv")) == 4


def test_stream_is_tracked_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve([[numbered_frame(number) for number in range(40)]]) as address:
        assert track(address, "--box", BOX, "-o", tmp_path, "--stream-timeout", 0.7, "--no-video") == 0
    found = [int(row["frame"]) for row in rows(tmp_path / "boxes.csv")]
    assert found[0] == 0 and found == sorted(set(found)) and len(found) >= 3


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets_of_a_file_may_join_late(tmp_path: Path, clip: Path) -> None:
    file = tmp_path / "targets.csv"
    file.write_text("frame,id,x,y,w,h,score\n0,1,8,4,20,10,1\n1,1,9,9,9,9,1\n12,5,40,20,10,10,1\n13,5,1,1,1,1,1\n")
    assert track(clip, "--boxes", file, "-o", tmp_path / "out", "--no-video") == 0
    found = rows(tmp_path / "out" / "boxes.csv")
    assert [int(row["frame"]) for row in found if row["id"] == "1"] == list(range(30))
    late = [row for row in found if row["id"] == "5"]
    assert [int(row["frame"]) for row in late] == list(range(12, 30))
    assert [float(late[0][key]) for key in "xywh"] == [40, 20, 10, 10]


def test_boxes_csv_of_a_run_starts_the_next(tmp_path: Path, clip: Path) -> None:
    assert track(clip, "--box", BOX, "--box", "30,30,9,9", "-o", tmp_path / "a", "--no-video") == 0
    assert track(clip, "--boxes", tmp_path / "a" / "boxes.csv", "-o", tmp_path / "b", "--no-video") == 0
    assert (tmp_path / "a" / "boxes.csv").read_bytes() == (tmp_path / "b" / "boxes.csv").read_bytes()


def test_plain_box_file_has_a_target_per_line(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("1 2 3 4\n5,6,7,8\n")
    targets = select.read_targets(tmp_path / "b.txt")
    assert [(t.number, *t.box, t.frame) for t in targets] == [(1, 1, 2, 3, 4, None), (2, 5, 6, 7, 8, None)]


@pytest.mark.parametrize(
    "content, message",
    [("", "no box"), ("frame,id,x,y,w\n", "column h is missing"), ("frame,id,x,y,w,h\n1,a,1,1,1,1\n", "line 2"),
     ("frame,id,x,y,w,h\n1,1,1\n", "line 2"), ("frame,id,x,y,w,h\n-1,1,1,1,1,1\n", "start at 0"),
     ("1,2,3\n", "b.txt:1"), ("1,2,3,4\n" * 65, "limit of 64"), ("\xff\xfe\x00", "b.txt"),
     ("frame,id,x,y,w,h\n1," + "9" * 5000 + ",1,1,1,1\n", "line 2"), ('frame,id,x,y,w,h\n"1', "line")],
)  # fmt: skip
def test_bad_box_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "b.txt").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        select.read_targets(tmp_path / "b.txt")


def run_with_window(clip: Path, out: Path, window: ScriptedWindow, *words: str) -> int:
    parser = top.build_parser("track")
    args = parser.parse_args(["track", str(clip), "--output", str(out), "--no-video", *words])
    return cli.track(args, lambda: FakeTracker, lambda: window)


def test_mouse_selection_of_two_targets(tmp_path: Path, clip: Path) -> None:
    window = ScriptedWindow([], [np.array([8.0, 4, 20, 10]), np.array([40.0, 20, 10, 10]), None])
    assert run_with_window(clip, tmp_path, window, "--select") == 0
    first = rows(tmp_path / "boxes.csv")[:2]
    assert [float(row["x"]) for row in first] == [8, 40] and window.closed
    with pytest.raises(UserError, match="no target was drawn"):
        run_with_window(clip, tmp_path / "none", ScriptedWindow([], []), "--select")
    assert not (tmp_path / "none").exists()


def test_keys_pause_step_correct_and_quit(tmp_path: Path, clip: Path) -> None:
    # three frames, pause, two steps, draw the box anew, go on for three steps, quit
    keys = ["s", "s", "s", "", "", "s", "s", "r", "s", "s", "s", "q"]
    window = ScriptedWindow(keys, [np.array([50.0, 30, 12, 12])])
    assert run_with_window(clip, tmp_path, window, "--box", BOX, "--show") == 0
    table = [[float(row[key]) for key in ("frame", "x", "y", "w", "score")] for row in rows(tmp_path / "boxes.csv")]
    assert len(table) == 9 and [row[0] for row in table] == list(range(9))
    assert table[4] == [4, 16, 8, 20, 0.75]
    assert table[5] == [5, 50, 30, 12, 1.0]  # the row of the corrected frame holds what was drawn
    assert table[6] == [6, 52, 31, 12, 0.75]
    assert len(window.shown) == 9 + 1 and window.closed


def test_no_display_is_told_at_once(clip: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("a display is always there on this system")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for option in ("--select", "--show"):
        words = ["--show", "--box", BOX] if option == "--show" else ["--select"]
        assert track(clip, *words, "-o", tmp_path / "out") == 2
        assert "no display" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- interruptions and faults ---------------------------------------------------------------------------------------


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
        sys.path.insert(0, {str(Path(__file__).parent)!r})
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
        ([clip, "--box", BOX, "--video-codec", "h264"], r"vil-tracker\[video\]"),
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
                yield video.Frame(number, number / 25, image)

        def close(self) -> None:
            pass

    monkeypatch.setattr(video, "open_source", lambda *args, **kwargs: Long())
    assert track("long", "--box", BOX, "-o", tmp_path, "--no-video", "--format", "csv,jsonl,mot,coco", "--strip") == 0
    gc.collect()
    assert most <= 20
    assert len(rows(tmp_path / "boxes.csv")) == 400
