"""``vil-tracker track`` from the outside: files, numbers, interruptions, mistakes."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tracking_fakes import FakeTracker, ScriptedWindow, numbered_frame, read_video, rows, serve, track

from vil_tracker import cli as top
from vil_tracker.errors import UserError
from vil_tracker.images import read_image, write_image
from vil_tracker.tracking import cli, select

BOX = "8,4,20,10"


pytestmark = pytest.mark.usefixtures("fake_tracker")


def test_boxes_and_video_of_a_plain_run(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert track(clip, "--box", BOX, "--output", out) == 0
    lines = (out / "boxes.csv").read_text().splitlines()
    assert lines[:3] == [
        "frame,id,x,y,w,h,score,time,state",
        "0,1,8.000,4.000,20.000,10.000,1.0000,0.0000,tracking",
        "1,1,10.000,5.000,20.000,10.000,0.7500,0.0334,tracking",
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
    # Which frames a busy machine drops, the first ones among them, is up to its load; none comes twice or too late.
    assert found == sorted(set(found)) and len(found) >= 3


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


def test_boxes_of_a_run_go_on_at_a_later_start(tmp_path: Path) -> None:
    """Each target from its first box there on which it is not lost."""
    table = ["frame,id,x,y,w,h,score,time,state"]
    table += [f"{n},1,{n},4,20,10,1.0,{n / 25},{'lost' if n in (8, 9) else 'tracking'}" for n in range(30)]
    table += [f"{n},2,{n},30,9,9,1.0,{n / 25},tracking" for n in range(12, 20)]
    table += [f"{n},3,{n},40,9,9,1.0,{n / 25},tracking" for n in range(5)]
    file = tmp_path / "boxes.csv"
    file.write_text("\n".join(table))
    found = [(t.number, t.frame, t.box[0]) for t in select.read_targets(file, 8)]
    assert found == [(1, 10, 10.0), (2, 12, 12.0)]
    assert [(t.number, t.frame) for t in select.read_targets(file)] == [(1, 0), (2, 12), (3, 0)]
    with pytest.raises(UserError, match="last box of target 1 is for frame 29, but tracking begins at 40"):
        select.read_targets(file, 40)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("table", [True, False])
def test_boxes_from_a_named_pipe(table: bool, tmp_path: Path, clip: Path) -> None:
    """It gives its text once."""
    os.mkfifo(tmp_path / "pipe")
    text = "frame,id,x,y,w,h\n5,1,8,4,20,10\n" if table else "8,4,20,10\n"
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(text), daemon=True)
    writer.start()
    words = ["--boxes", tmp_path / "pipe", "--start", 5, "--frames", 2, "--no-video"]
    assert track(clip, *words, "-o", tmp_path / "out") == 0
    writer.join(timeout=10)
    assert rows(tmp_path / "out" / "boxes.csv")[0]["x"] == "8.000"


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("Frame;ID;X;Y;W;H\r\n0;1;8,5;4;20;10\r\n", "utf-8-sig"),
        ("sep=;\nframe;id;x;y;w;h\n0;1;8,5;4,0;20;10\n", "utf-8"),
        ("frame\tid\tx\ty\tw\th\n0\t1\t8,5\t4\t20\t10\n", "utf-16"),
        ("frame,id,x,y,w,h\n0.0,1.0,8.5,4,20,10\n", "utf-8"),
        ('id; frame ;"x";"y";"w";"h"\n1;0;8.5;4;20;10\n', "utf-8"),
    ],
)
def test_tables_of_spreadsheets(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text, encoding=encoding, newline="")
    (target,) = select.read_targets(tmp_path / "t.csv")
    assert (target.number, target.frame, target.box.tolist()) == (1, 0, [8.5, 4, 20, 10])


def test_a_box_too_small_to_follow(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for box in ("8,4,3,10", "8,4,20,3.9", "0.1,0.2,0.3,0.4"):
        assert track(clip, "--box", box, "-o", tmp_path / "out") == 2
        err = capsys.readouterr().err
        assert "a side below 4 pixels" in err and "ffmpeg" in err and err.count("\n") == 1
    assert track(clip, "--box", "8,4,4,4", "-o", tmp_path / "out", "--no-video", "--frames", 2) == 0


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
    # three frames, pause, two steps, draw the box again, go on for three steps, quit
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


def test_corrections_on_the_command_line(tmp_path: Path, clip: Path, capfd) -> None:
    words = (clip, "--box", BOX, "--box", "40,20,30,30", "--no-video")
    assert track(*words, "-o", tmp_path / "plain") == 0
    corrections = ("--correct", "10:1,2,20,10", "--correct", "2@20:3,4,9,9")
    assert track(*words, *corrections, "-o", tmp_path / "out") == 0
    before, after = rows(tmp_path / "plain" / "boxes.csv"), rows(tmp_path / "out" / "boxes.csv")
    assert before[:20] == after[:20] and before[21:40:2] == after[21:40:2]  # what was right stays as it was
    assert [after[20][key] for key in ("x", "y", "w", "score")] == ["1.000", "2.000", "20.000", "1.0000"]
    assert [after[22][key] for key in "xy"] == ["3.000", "3.000"] and after[41]["x"] == "3.000"
    for text in ("10", "x:1,2,3,4", "1@2@3:1,2,3,4", "5:1,2,3", "3@5:1,2,3,4", "0:1,2,3,4", "5:500,500,3,4"):
        capfd.readouterr()
        assert track(*words, "--correct", text, "-o", tmp_path / "wrong") == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and not (tmp_path / "wrong").exists(), error
    assert track(clip, "--box", BOX, "--no-video", "--correct", "500:1,2,3,4", "-o", tmp_path / "late") == 0
    assert "before target 1 was to be corrected (frame 500)" in capfd.readouterr().err
