"""The little video and the stand-in for the tracker that tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracking_fakes import FakeTracker, write_video

from vil_tracker.tracking import cli


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 30)


@pytest.fixture
def fake_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_tracker_factory", lambda *arguments, **options: FakeTracker)
