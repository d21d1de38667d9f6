"""Input that ``vil-tracker track`` cannot use: one line that names it and the advice, status 2, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from faulty_files import bytes_stream, check_refused, encoded, picture, png_claiming, working_in

from vil_tracker import cli
from vil_tracker.io import files as file_sources

BOX = ["--box", "8,4,20,10"]
COMMON = ["--weights", "{files}/tiny.safetensors", "--device", "cpu", "--no-video", "-o", "out"]

SOURCES = {  # source: what the message must name
    "missing.mp4": "missing.mp4 does not exist", "": "empty name", "a\0b.mp4": "does not exist", "x" * 5000:
    "does not exist", "*.nothing": "no image matches", "123": "webcam 123", "http://127.0.0.1:9/v.mp4": "stream http",
    "rtsp://127.0.0.1:9/live": "stream rtsp", "nonsense://x": "stream nonsense", "{files}/dangling.mp4": "dangling.mp4",
    **{f"{{files}}/{name}": name for name in (
        "empty.mp4", "random.mp4", "random.avi", "random.webm", "random.mkv", "zeros.mp4", "text.mp4", "cut10.mp4",
        "cut90.mp4", "head.mp4", "head.avi", "no_frame.avi", "folder.mp4", "empty.png", "random.png",
        "cut.png", "head.png", "flipped.png", "random.jpg", "head.jpg", "huge.png", "wide.png", "no_width.png",
        "video.jpg", "cut.webp", "cut.tif", "cut.bmp", "text.png", "huge.avi", "empty_folder", "texts",
        "hidden", "nothing.txt", "binary.txt", "tiny.safetensors",
    )},
    "{files}/broken_first": "1.png",
}  # fmt: skip

BOXES = [
    "nan,4,20,10", "8,nan,20,10", "8,4,inf,10", "-inf,4,20,10", "1e999,4,20,10", "8,4,20", "8,4,20,10,1", "", ",,,",
    "a,b,c,d", "8;4;20;10", "0x8,4,20,10", "8,4,0,10", "8,4,20,0", "8,4,-20,10", "8,4,20,-10", "28,14,-20,-10",
    "0,0,0,0", "1000,4,20,10", "8,1000,20,10", "-100,4,20,10", "8,-100,20,10", "96,4,20,10", "8,64,20,10",
    "0,0,1e9,1e9", "-1e300,-1e300,2e300,2e300", "0,0,1e308,1e308", "8 4 20 10 11", "8,4,20,10,", "1e-320,0,0,0",
]  # fmt: skip
VALID_BOXES = {"8,4,20,10,"}  # an empty part at the end is no fifth number

BOX_FILES = {
    "missing.txt": "missing.txt", **{f"{{files}}/{name}": name for name in (
        "nothing.txt", "blank.txt", "words.txt", "three.txt", "five.txt", "inf.txt", "binary.txt", "latin.txt",
        "many.txt", "second_bad.txt", "hex.txt", "no_columns.csv", "bad_row.csv", "short_row.csv", "negative.csv",
        "id_zero.csv", "nul.csv", "header_only.csv", "quote.csv", "float_frame.csv", "empty_folder", "clip.mp4",
    )},
    "{files}/nan.txt": "not finite", "{files}/flat.txt": "no area", "{files}/far.txt": "outside the 96x64 frame",
    "{files}/nan.csv": "not finite",
}  # fmt: skip

OPTIONS = [
    ("--start -1", "start"), ("--start abc", "abc"), ("--start 1:2:3:4", "1:2:3:4"), ("--start 1e3", "1e3"),
    ("--start 12", "beyond the end"), ("--start 10:00:00", "beyond the end"),
    ("--start 999999999999", "beyond the end"),
    ("--stride 0", "stride 0"), ("--stride -3", "stride -3"), ("--stride two", "two"), ("--stride 1.5", "1.5"),
    ("--frames 0", "--frames 0"), ("--frames -1", "--frames -1"), ("--frames all", "all"), ("--fps 25", "--fps"),
    ("--fps x", "x"), ("--format xml", "xml"), ("--format ,", "nothing"), ("--format csv,pdf", "pdf"),
    ("--video-codec av1", "av1"), ("--device tpu", "tpu"), ("--device cuda:99", "cuda:99"),
    ("--device cuda:x", "cuda:x"),
    ("--device cpu:x", "cpu:x"), ("--device meta", "meta"), ("--stream-timeout never", "never"),
    ("--weights nanoo", "nanoo"), ("--weights none.safetensors", "none.safetensors"), ("--weights ./a/b", "a/b"),
    ("--select", "exclude each other"), ("--boxes {files}/nan.txt", "exclude each other"), ("--nonsense", "--nonsense"),
    ("extra", "extra"), ("-o {files}/nothing.txt", "nothing.txt"), ("-o {files}/nothing.txt/out", "nothing.txt"),
    ("-o {files}/" + "x" * 300, "too long"), ("--show", "no display"),
    *[(f"--weights {{files}}/{name}", name) for name in (
        "empty.safetensors", "random.safetensors", "cut.safetensors", "head.safetensors", "text.safetensors",
        "long_head.safetensors", "foreign.safetensors", "no_config.safetensors", "bad_config.safetensors",
        "list_config.safetensors", "misfit.safetensors", "other_config.safetensors", "enormous_config.safetensors",
        "pickle.pt", "empty_folder", "clip.mp4",
    )],
    ("--weights {files}/unknown_key.safetensors", "dims"), ("--weights {files}/wrong_type.safetensors", "wide"),
    ("--weights {files}/flip.safetensors", "scan: flip"),
    ("--weights {files}/bad_calibration.safetensors", "calibration"),
]  # fmt: skip

LIVE = [(f"--stream-timeout {value}", "stream timeout") for value in ("0", "-1", "nan", "inf", "1e9")]
IMAGES = [(f"--fps {value}", "frames per second") for value in ("0", "-5", "nan", "inf", "1e-9")]


def track(files: Path, source: str, *words: str) -> list[str]:
    return ["track", *(word.format(files=files) for word in (source, *COMMON, *words))]


@pytest.mark.parametrize("source", list(SOURCES), ids=lambda s: Path(s[:40].replace("\0", "0")).name or "none")
def test_sources(source: str, files: Path, command_line, capfd, tmp_path: Path) -> None:
    if "{files}" not in source:
        files = Path("unused")
        words = ["track", source, *BOX, "--no-video", "-o", "out", "--stream-timeout", "0.5"]
    else:
        words = track(files, source, *BOX)
    check_refused(words, SOURCES[source], capfd, tmp_path)


@pytest.mark.parametrize("source", ["broken_second", "zero_second", "huge_second"])
def test_what_came_before_a_damaged_picture_stays(
    source: str, files: Path, command_line, capfd, tmp_path: Path
) -> None:
    with working_in(tmp_path):
        assert cli.main(track(files, f"{{files}}/{source}", *BOX, "-q")) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "2.png" in err
    assert (tmp_path / "out" / "boxes.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("box", BOXES)
def test_boxes(box: str, files: Path, command_line, capfd, tmp_path: Path) -> None:
    words = track(files, "{files}/clip.mp4", "--box", box, "--frames", "2")
    if box in VALID_BOXES:
        with working_in(tmp_path):
            assert cli.main(words) == 0
    else:
        check_refused(words, "box|say what to follow", capfd, tmp_path)


@pytest.mark.parametrize("name", list(BOX_FILES), ids=lambda s: Path(s).name)
def test_box_files(name: str, files: Path, command_line, capfd, tmp_path: Path) -> None:
    check_refused(track(files, "{files}/clip.mp4", "--boxes", name), BOX_FILES[name], capfd, tmp_path)


@pytest.mark.parametrize("options, item", OPTIONS, ids=lambda s: s[:50].replace("{files}/", ""))
def test_options(options: str, item: str, files: Path, command_line, capfd, tmp_path: Path) -> None:
    check_refused(track(files, "{files}/clip.mp4", *BOX, *options.split(" ")), item, capfd, tmp_path)


@pytest.mark.parametrize("source, options, item", [*[("http://127.0.0.1:9/x", *case) for case in LIVE],
                                                  *[("{files}/sizes", *case) for case in IMAGES]])  # fmt: skip
def test_options_of_some_sources(
    source: str, options: str, item: str, files: Path, command_line, capfd, tmp_path: Path
) -> None:
    check_refused(track(files, source, *BOX, *options.split(" ")), item, capfd, tmp_path)


@pytest.mark.parametrize("words", [["track"], ["track", "{files}/clip.mp4"], ["track", "--box", "1,2,3,4"],
                                   ["track", "{files}/clip.mp4", "--select"]])  # fmt: skip
def test_what_is_left_out_is_asked_for(words: list[str], files: Path, command_line, capfd, tmp_path: Path) -> None:
    words = [word.format(files=files) for word in words]
    check_refused(words, "required|say what to follow|no display", capfd, tmp_path)


@pytest.mark.parametrize(
    "data, item",
    [(b"", "no image"), (b"nothing of the kind", "neither JPEG nor PNG"), (b"\xff\xd8\xff", "no image"),
     (encoded(".png")[:500], "no image"), (png_claiming(60_000, 60_000), "60000"), (b"\x89PNG\r\n\x1a\n" + b"\xff" * 99,
     "over 256 MiB"),],
)  # fmt: skip
def test_standard_input(data: bytes, item: str, files: Path, command_line, capfd, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        file_sources.sys, "stdin", type("Piped", (), {"isatty": lambda self: False, "fileno": lambda self: 0})()
    )
    monkeypatch.setattr(file_sources.io, "FileIO", lambda *_, **__: bytes_stream(data))
    words = track(files, "-", *BOX, "-q")
    check_refused(words, item, capfd, tmp_path)


ACCEPTED = {
    "small": (picture(0, 4, 4), "0,0,4,4"), "flat": (picture(0, 50, 5), "3,0,9,5"),
    "narrow": (picture(0, 5, 50), "0,9,5,9"), "one_channel": (picture(0, 96, 64, 1), "8,4,20,10"),
    "sixteen_bits": (picture(0, 96, 64, 3, np.uint16), "8,4,20,10"),
    "sixteen_bits_grey": (picture(0, 96, 64, 1, np.uint16), "8,4,20,10"), "alpha": (picture(0, 96, 64, 4), "8,4,20,10"),
    "sixteen_bits_alpha": (picture(0, 96, 64, 4, np.uint16), "8,4,20,10"),
    "far_outside_but_touching": (picture(0, 96, 64), "-19,-9,20,10"),
    "the_whole_frame": (picture(0, 96, 64), "0,0,96,64"),
    "far_larger": (picture(0, 96, 64), "-4000,-4000,9000,9000"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ACCEPTED))
def test_unusual_pictures_and_boxes_are_tracked(name: str, files: Path, command_line, capfd, tmp_path: Path) -> None:
    image, box = ACCEPTED[name]
    (tmp_path / "frames").mkdir()
    for number in range(3):
        (tmp_path / "frames" / f"{number}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    with working_in(tmp_path):
        assert cli.main(track(files, "frames", "--box", box, "-q")) == 0
    table = np.loadtxt(tmp_path / "out" / "boxes.csv", delimiter=",", skiprows=1, usecols=range(8))
    boxes, (height, width) = table[1:, 2:6], image.shape[:2]
    assert np.isfinite(table).all() and (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= (width + 1e-2, height + 1e-2)).all()
    assert capfd.readouterr().err == ""


def test_libraries_stay_silent_in_the_program_itself(files: Path, tmp_path: Path) -> None:
    """The same in a process of its own, where nothing but the program sets what OpenCV and FFmpeg print."""
    names = [name for name in SOURCES if name.startswith("{files}") or "://" in name or name == "123"]
    script = (
        "import sys, os, tempfile\n"
        "from vil_tracker.cli import main\n"
        f"for name in {[name.format(files=files) for name in names]!r}:\n"
        "    with tempfile.TemporaryFile() as sink:\n"
        "        kept = os.dup(2); sys.stderr.flush(); os.dup2(sink.fileno(), 2)\n"
        f"        status = main(['track', name, *{BOX!r}, '--weights', {str(files / 'tiny.safetensors')!r},\n"
        "            '--stream-timeout', '0.5', '--no-video', '-o', 'out'])\n"
        "        sys.stderr.flush(); os.dup2(kept, 2); sink.seek(0); text = sink.read().decode()\n"
        "    if status != 2 or text.count('\\n') != 1: print(name, status, text)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
