"""A disk that fills up and places that cannot be written, in tracking and evaluation: what was there stays."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_files import tree, working_in

from vil_tracker import cli, errors
from vil_tracker.errors import UserError, atomic_write

FORMATS = "csv,jsonl,mot,coco,yolo,cvat"


def track_words(files: Path, out: Path | str, *more: str) -> list[str]:
    words = ["track", str(files / "clip.mp4"), "--box", "8,4,20,10", "--weights", str(files / "tiny.safetensors")]
    return [*words, "--device", "cpu", "--output", str(out), "--format", FORMATS, *more]


def evaluate_words(files: Path, out: Path | str) -> list[str]:
    words = ["evaluate", "--benchmark", "folder", "--data-root", str(files / "sets" / "good"), "--tracker", "still"]
    return [*words, "--output", str(out), "--no-html", "-q"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_one_line(status: int, err: str, item: str) -> None:
    assert status == 2, err
    assert err.count("\n") == 1 and err.startswith("vil-tracker: ") and item in err, err


class Fault:
    """Lets the n-th call of an operating system's function fail."""

    def __init__(self, real, number: int, code: int) -> None:
        self.real, self.left, self.code, self.fired = real, number, code, False

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            self.fired = True
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **options)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_old_file_stays_when_a_write_fails(call: str, code: int, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    fault = Fault(getattr(os, call), 1, code)
    monkeypatch.setattr(errors.os, call, fault)
    with pytest.raises(UserError, match="report.json"), atomic_write(target, "w") as stream:
        stream.write("new")
    monkeypatch.undo()
    assert fault.fired and contents(tmp_path) == {"report.json": b"old"}


@pytest.mark.parametrize("number", range(1, 12))
def test_an_evaluation_survives_a_full_disk_at_every_file(
    number: int, files: Path, tmp_path: Path, command_line, capfd, monkeypatch
) -> None:
    """The n-th file to be made durable fails; the same command afterwards gives what an undisturbed one gives."""
    fault = Fault(os.fsync, number, errno.ENOSPC)
    monkeypatch.setattr(errors.os, "fsync", fault)
    with working_in(tmp_path):
        status = cli.main(evaluate_words(files, "out"))
    monkeypatch.undo()
    printed = capfd.readouterr()
    if fault.fired:
        check_one_line(status, printed.err, "the disk is full")
    else:
        assert status == 0
    assert not list(tmp_path.rglob("*.tmp"))
    assert cli.main(evaluate_words(files, tmp_path / "out")) == 0
    assert cli.main(evaluate_words(files, tmp_path / "undisturbed")) == 0

    def boxes(folder: Path) -> dict[str, bytes]:
        return {name: data for name, data in contents(folder / "results").items() if "times" not in name}

    assert boxes(tmp_path / "out") == boxes(tmp_path / "undisturbed")


@pytest.mark.parametrize("code, words", [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
@pytest.mark.parametrize("number", range(1, 5))
def test_a_track_that_cannot_be_finished_leaves_the_earlier_one(
    number: int, code: int, words: str, files: Path, tmp_path: Path, command_line, capfd, monkeypatch
) -> None:
    assert cli.main(track_words(files, tmp_path / "out", "--no-video", "-q", "--frames", "3")) == 0
    before = contents(tmp_path)
    fault = Fault(os.fsync, number, code)
    monkeypatch.setattr("vil_tracker.io.box_writers.os.fsync", fault)
    status = cli.main(track_words(files, tmp_path / "out", "--no-video", "-q", "--overwrite"))
    monkeypatch.undo()
    assert fault.fired
    check_one_line(status, capfd.readouterr().err, words)
    assert contents(tmp_path) == before and not list((tmp_path / "out").glob(".*"))


# --- the operating system's own refusals ----------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, where the machine lets us mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.name != "posix" or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [4, 8, 16, 24, 40, 64])
def test_a_disk_that_is_full_while_tracking(kilobytes: int, files: Path, tmp_path: Path, command_line, capfd) -> None:
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        (disk / "out").mkdir()
        (disk / "out" / "boxes.csv").write_text("frame,id,x,y,w,h,score\n")
        before = tree(disk)
        status = cli.main(track_words(files, disk / "out", "-q", "--strip", "--overwrite"))
        err = capfd.readouterr().err
        if status == 0:
            assert kilobytes >= 64
        else:
            check_one_line(status, err, "disk")
            assert {name: size for name, (size, _) in tree(disk).items()} == {n: s for n, (s, _) in before.items()}


@pytest.mark.parametrize("kilobytes", [4, 8, 12, 20, 28])
def test_a_disk_that_is_full_while_evaluating(kilobytes: int, files: Path, tmp_path: Path, command_line, capfd) -> None:
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        status = cli.main(evaluate_words(files, disk / "out"))
        check_one_line(status, capfd.readouterr().err, "the disk is full")
        assert not list(disk.rglob("*.tmp"))
        for path in disk.rglob("*.txt"):
            assert path.read_text().endswith("\n")  # what is there is whole


def test_a_read_only_place(files: Path, tmp_path: Path, command_line, capfd) -> None:
    with small_disk(tmp_path / "disk", 4000) as disk:
        assert cli.main(track_words(files, disk / "out", "--no-video", "-q")) == 0
        assert cli.main(evaluate_words(files, disk / "runs")) == 0
        before = contents(disk)
        capfd.readouterr()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for words in (
            track_words(files, disk / "out", "--no-video", "-q"),
            track_words(files, disk / "new" / "out", "--no-video", "-q"),
            evaluate_words(files, disk / "runs"),
            evaluate_words(files, disk / "new"),
        ):
            status = cli.main(words)
            check_one_line(status, capfd.readouterr().err, "disk")
        assert contents(disk) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
def test_a_limit_on_the_size_of_files(files: Path, tmp_path: Path) -> None:
    """As ``ulimit -f`` sets it: the write fails with an error of its own, in a process of its own."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "boxes.csv").write_text("old\n")
    words = track_words(files, tmp_path / "out", "--no-video", "-q", "--overwrite")
    code = f"import sys; from vil_tracker.cli import main; sys.exit(main({words!r}))"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, timeout=300)
    check_one_line(done.returncode, done.stderr, "larger than the system allows")
    assert contents(tmp_path) == {"out/boxes.csv": b"old\n"}
