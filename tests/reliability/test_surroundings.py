"""Machines on which something is missing: a home folder, a place for the cache, a library, letters of the terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_files import encoded
from tracking_fakes import FakeTracker

from vil_tracker import cli, native
from vil_tracker.data.index import load_index
from vil_tracker.data.readers import FOLDER_READERS
from vil_tracker.doctor import check_device
from vil_tracker.native import CacheFault, build
from vil_tracker.runtime import cache_folder
from vil_tracker.tracking import cli as tracking_cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, as a container's may be."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("VIL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)


@pytest.mark.skipif(sys.platform != "linux", reason="programs are compiled on Linux only")
def test_without_a_home_programs_are_not_kept_and_the_cure_is_named(homeless, monkeypatch) -> None:
    monkeypatch.setattr(native, "_compilers", lambda: ("true",))
    monkeypatch.setattr(native, "_run", lambda command: "version 1\n")
    with pytest.raises(CacheFault, match="no-home-folder"):
        build("passes", cache_folder() / "native")
    native.attempt.cache_clear()
    native._warn_of_cache.cache_clear()
    try:
        assert native.load("passes") is None and native.load("sublayer") is None
        kernel = next(check for check in check_device() if check.name == "cpu kernel")
        assert kernel.status == "note" and kernel.advice == "set VIL_CACHE to a folder that can be written"
    finally:
        native.attempt.cache_clear()


def test_without_a_home_data_sets_are_indexed_all_the_same(homeless, tmp_path: Path) -> None:
    (tmp_path / "a" / "img").mkdir(parents=True)
    (tmp_path / "a" / "img" / "1.jpg").write_bytes(encoded(".jpg"))
    (tmp_path / "a" / "groundtruth_rect.txt").write_text("1,2,20,20\n")
    reader = next(reader for reader in FOLDER_READERS.values() if reader.matches(tmp_path))
    assert len(load_index(reader, tmp_path, "all").frames) == 1


def test_letters_that_the_terminal_has_not(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "视频"
    folder.mkdir()
    (folder / "1.png").write_bytes(encoded(".png"))
    monkeypatch.setattr(tracking_cli, "load_tracker_factory", lambda *arguments, **options: FakeTracker)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    words = ["track", str(folder), "--box", "8,4,20,10", "-o", str(folder / "out"), "--no-video"]
    assert cli.main(words) == 0
    assert cli.main(["track", str(folder / "没有.mp4"), "--box", "8,4,20,10"]) == 2
    out.flush(), err.flush()
    assert b"\\u89c6\\u9891" in out.buffer.getvalue() and b"\\u6ca1\\u6709.mp4 does not exist" in err.buffer.getvalue()


def test_a_library_that_opencv_needs_is_missing(tmp_path: Path) -> None:
    (tmp_path / "cv2").mkdir()
    fault = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2" / "__init__.py").write_text(f"raise ImportError({fault!r})\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "vil_tracker", "track", "x.mp4", "--box", "1,2,30,40"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "libGL.so.1" in done.stderr and "apt install" in done.stderr and "opencv-python-headless" in done.stderr
