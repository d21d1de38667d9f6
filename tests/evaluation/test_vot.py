"""The integration with the public vot-toolkit, without the toolkit: the workspace's files and the TraX conversation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from eval_trees import make_folder_benchmark

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "vot"


def test_workspace_from_own_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import make_workspace

    make_folder_benchmark(tmp_path / "data", {"a": 3, "b": 2})
    arguments = ["--data-root", str(tmp_path / "data"), "--output", str(tmp_path / "ws"), "--", "--weights", "nano"]
    monkeypatch.setattr(sys, "argv", ["make_workspace.py", *arguments])
    assert make_workspace.main() == 0
    assert "vot evaluate --workspace" in capsys.readouterr().out
    assert (tmp_path / "ws" / "sequences" / "list.txt").read_text() == "a\nb\n"
    assert (tmp_path / "ws" / "sequences" / "a" / "color" / "00000003.jpg").is_file()
    truth = (tmp_path / "ws" / "sequences" / "a" / "groundtruth.txt").read_text().splitlines()
    assert truth == ["4.000,5.000,12.000,9.000", "5.000,5.000,12.000,9.000", "6.000,5.000,12.000,9.000"]
    registry = (tmp_path / "ws" / "trackers.ini").read_text()
    assert "protocol = trax" in registry and "vil_vot.py --weights nano" in registry


def test_conversation(tmp_path: Path) -> None:
    pytest.importorskip("trax", reason="needs the TraX protocol: pip install vot-trax")
    make_folder_benchmark(tmp_path, {"a": 3})
    frames = [(tmp_path / "a" / "img" / f"{n:04d}.jpg").as_uri() for n in (1, 2, 3)]
    lines = [
        '@@TRAX:initialize "4,5,12,9"',
        *(f'@@TRAX:frame "{frame}"' for frame in frames),
        "@@TRAX:quit",
    ]
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parents[2]), str(here.parent)])
    answer = subprocess.run(
        [sys.executable, str(FOLDER / "vil_vot.py"), "--tracker", "python:helper_trackers:Drift"],
        input="\n".join(lines) + "\n",
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    states = [line for line in answer.stdout.splitlines() if line.startswith("@@TRAX:state")]
    assert answer.returncode == 0, answer.stderr
    assert [line.split('"')[1] for line in states] == [
        "4.0000,5.0000,12.0000,9.0000",
        "5.0000,5.0000,12.0000,9.0000",
        "6.0000,5.0000,12.0000,9.0000",
    ]
    assert "confidence=0.9" in states[1]
