"""What makes the many small runs of these tests quick."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vil_tracker.training import loop


@pytest.fixture
def with_curves() -> None:
    """Asked for by the tests that look at the picture of the curves, which takes longer to draw than their run."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, which is fastest for tiny networks, and no curves."""
    if "with_curves" not in request.fixturenames:
        monkeypatch.setattr(loop, "plot_curves", lambda log_path, path: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
