"""Fixtures of the reliability tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from faulty_files import make_files


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of faulty files; see :func:`faulty_files.make_files`."""
    return make_files(tmp_path_factory.mktemp("faulty"))


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The state that the command line begins in, whatever ran before: no log handlers, OpenCV quiet, no data root.

    The program sets OpenCV's log level through the environment before it is imported; here it is imported already.
    """
    monkeypatch.delenv("VIL_DATA", raising=False)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    logger, root = logging.getLogger("vil_tracker"), logging.getLogger()
    kept = logger.handlers[:], logger.level, logger.propagate, root.handlers[:], root.level
    logger.handlers = []
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)
    yield
    cv2.utils.logging.setLogLevel(level)
    logger.handlers, logger.level, logger.propagate, root.handlers, root.level = kept
