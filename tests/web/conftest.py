"""One server for the tests of the page, as its processes take a while to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import web_fakes as fakes

pytest.importorskip("starlette", reason="the web page needs the demo extra")
pytest.importorskip("uvicorn", reason="the web page needs the demo extra")

from vil_tracker.web.limits import MIB, Limits  # noqa: E402
from vil_tracker.web.server import running  # noqa: E402

LIMITS = Limits(upload_bytes=2 * MIB, frames=120, pixels=640 * 480, workers=2, waiting=12, stall_seconds=8)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a page with a stand-in for the network, and the folder that holds its uploads."""
    place = tmp_path_factory.mktemp("uploads")
    with running(fakes.load_patch_tracker, LIMITS, place) as address:
        yield address, place
    assert list(place.iterdir()) == []  # nothing is left when the server ends


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.write_video(tmp_path_factory.mktemp("clips") / "disc.mp4", fakes.frames(50, 0))
