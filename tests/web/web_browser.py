"""What a person does on the page, by way of a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright").expect

PATIENCE = 120_000  # milliseconds, for machines with much else to do


def draw(page: Any, box: list[float]) -> None:
    """Drag the mouse over a box given in pixels of the video."""
    shown = page.locator("#overlay").bounding_box()
    size = page.locator("#picture").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    sx, sy = shown["width"] / size[0], shown["height"] / size[1]
    x, y, w, h = box
    page.mouse.move(shown["x"] + x * sx, shown["y"] + y * sy)
    page.mouse.down()
    page.mouse.move(shown["x"] + (x + w / 2) * sx, shown["y"] + (y + h) * sy)
    page.mouse.move(shown["x"] + (x + w) * sx, shown["y"] + (y + h) * sy)
    page.mouse.up()


def numbers(page: Any, row: int = 0) -> list[float]:
    inputs = page.locator("#targets li").nth(row).locator(".numbers input")
    return [float(inputs.nth(i).input_value()) for i in range(4)]


def bring(page: Any, path: Path) -> None:
    page.set_input_files("#file", path)
    page.wait_for_selector("#picture[src] >> visible=true")
    page.locator("#picture").evaluate("image => image.decode()")


def at_frame(page: Any, number: int) -> None:
    """Wait until this frame is what the page shows."""
    expect(page.locator("#frame-text")).to_contain_text(f"frame {number} of", timeout=PATIENCE)
    if page.locator("#picture").is_visible():
        expect(page.locator("#picture")).to_have_attribute("alt", f"Frame {number} of the video", timeout=PATIENCE)
