from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vil_tracker import native

pytestmark = pytest.mark.skipif(native.unavailable_reason("sublayer") is not None, reason="no C++ compiler")


def test_built_once_for_a_source_and_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = native.build("sublayer", tmp_path / "new")
    assert ctypes.CDLL(str(built)).lanes() in (4, 8, 16)
    written = built.stat().st_mtime_ns
    assert native.build("sublayer", tmp_path / "new") == built and built.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "new").iterdir()] == [built.name]  # nothing of the way there
    monkeypatch.setattr(native, "_processor", lambda: "another processor")
    assert native.build("sublayer", tmp_path / "new") != built


def test_built_anew_when_a_header_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(native.__file__).parent
    for path in (*folder.glob("*.cpp"), *folder.glob("*.h")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    built = native.build("passes", tmp_path / "made")
    assert native.build("passes", tmp_path / "made") == built
    with (tmp_path / "vectors.h").open("a") as header:
        header.write("// changed\n")
    assert native.build("passes", tmp_path / "made") != built


def compiler(folder: Path, script: str) -> str:
    """A program that stands in for a compiler."""
    path = folder / "compiler"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (None, "no C\\+\\+ compiler"),
        ("echo 1.0; [ $1 = --version ] || { echo 'x.cpp:3: error: no such flag' >&2; exit 1; }", "no such flag"),
    ],
    ids=["none", "broken"],
)
def test_says_why_there_is_none(script: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent") if script is None else compiler(tmp_path, script))
    monkeypatch.setenv("VIL_CACHE", str(tmp_path / "cache"))
    native.attempt.cache_clear()
    try:
        assert native.load("sublayer") is None
        reason = native.unavailable_reason("sublayer")
        assert reason is not None and re.search(what, reason) and "\n" not in reason
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        native.attempt.cache_clear()


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from vil_tracker.native import build; print(build('sublayer', pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in processes}
    assert len(paths) == 1 and all(process.returncode == 0 for process in processes)
    assert ctypes.CDLL(paths.pop().decode()).lanes() in (4, 8, 16)
