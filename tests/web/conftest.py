"""One server for the tests of the page, as its processes take a while to start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import web_fakes as fakes

pytest.importorskip("starlette", reason="the web page needs the demo extra")
pytest.importorskip("uvicorn", reason="the web page needs the demo extra")

from vil_tracker.web.limits import MIB, Limits  # noqa: E402
from vil_tracker.web.server import running  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)}): apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    with playwright.sync_playwright() as tool:
        root = hasattr(os, "getuid") and os.getuid() == 0
        browser = tool.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: tuple[str, Path]) -> Iterator[Any]:
    """A fresh visitor; whatever the page complains of in the console fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    context.set_default_timeout(120_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server[0])
    page.wait_for_selector("#fine:has-text('frames')")
    yield page
    context.close()
    assert not faults
