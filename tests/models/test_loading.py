"""Which model a session runs, from the command line to the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from track_clips import small_network
from tracking_fakes import write_video

from vil_tracker.cli import main
from vil_tracker.config import TrackConfig
from vil_tracker.evaluation.trackers import parse_tracker
from vil_tracker.models.pretrained import save_model
from vil_tracker.tracking import tracker
from vil_tracker.tracking.tracker import Tracker


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command that tracks six frames with a small network."""
    save_model(small_network(), tmp_path / "small.safetensors")
    clip = write_video(tmp_path / "clip.mp4", 6)
    files = ["--weights", str(tmp_path / "small.safetensors"), "--output", str(tmp_path / "out")]
    return ["track", str(clip), "--box", "8,4,20,10", "--no-video", *files]


def test_compiled_programs_track_the_same(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself takes minutes: here it hands the function back, and counts its calls."""
    calls: list[int] = []

    def compile(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
        def program(*arguments: Any) -> Any:
            calls.append(1)
            return function(*arguments)

        return program

    monkeypatch.setattr(torch, "compile", compile)
    assert main(words) == 0 and not calls
    expected = (tmp_path / "out/boxes.csv").read_text()
    assert main([*words, "--compile"]) == 0 and calls
    assert (tmp_path / "out/boxes.csv").read_text() == expected


def test_a_missing_compiler_is_told_in_a_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
        def program(*arguments: Any) -> Any:
            raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found\n\nmore")

        return program

    monkeypatch.setattr(torch, "compile", compile)
    assert main([*words, "--compile"]) == 2
    message = capsys.readouterr().err.strip()
    assert "No working C++ compiler found" in message and "leave --compile out" in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_options_of_the_session_reach_it(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrackConfig] = []
    monkeypatch.setattr(tracker, "Tracker", lambda model, config: seen.append(config) or Tracker(model, config))
    file = tmp_path / "track.yaml"
    file.write_text("track: {lost_after: 7, window: 0.3}\n")
    assert main([*words, "--config", str(file), "--set", "track.window=0.4", "track.motion=false"]) == 0
    assert seen == [TrackConfig(lost_after=7, window=0.4, motion=False)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "train.steps=3"], "only track.KEY=VALUE acts"),
        (["--set", "track.redetct=false"], "redetect"),
        (["--set", "track.window=2"], "window"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistaken_options_are_told(
    words: list[str], tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_results_under_other_options_are_told_apart() -> None:
    plain, changed = parse_tracker("vil"), parse_tracker("vil", config=TrackConfig(motion=False))
    assert plain.identity() == parse_tracker("vil", config=TrackConfig()).identity() != changed.identity()
