"""Take the pictures of the documentation: ``python scripts/make_screenshots.py [--weights NAME]``.

Needs the extras ``demo`` and ``plots``, Playwright and an installed Chromium. The page is shown with the sample clip;
the picture of the demo comes from a folder of ``make demo``, that of the report from one of ``vil-tracker evaluate``.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from PIL import Image

from vil_tracker.cli import guarded
from vil_tracker.config import DEFAULT_WEIGHTS
from vil_tracker.errors import UserError, atomic_write, require_extra

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
SIZE = {"width": 1366, "height": 768}
COLOURS = ("#2ecc71", "#ffb020", "#f04848", "#4895ff", "#0c7a4f", "#2463b3", "#7db4ff", "#16202e", "#566377", "#f4f6f9")
PATIENCE = 600_000  # milliseconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS, help=f"of the page (default: {DEFAULT_WEIGHTS})")
    parser.add_argument("--demo", type=Path, help="folder of make demo")
    parser.add_argument("--report", type=Path, help="folder of vil-tracker evaluate")
    parser.add_argument("--no-page", action="store_true", help="leave the web page's pictures as they are")
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.demo is not None:
        sheet = Image.open(args.demo / "contact-sheet.png").convert("RGB")
        sheet.thumbnail((1400, 1400))
        save_jpeg(sheet, IMAGES / "demo.jpg")
    if args.report is None and args.no_page:
        return 0
    tool = require_extra("playwright.sync_api", "dev", "take pictures of pages")
    program = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if program is None:
        raise UserError("no browser is installed: install Chromium")
    with tool.sync_playwright() as playwright:
        root = hasattr(os, "getuid") and os.getuid() == 0
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        if not args.no_page:
            take_page(browser, args.weights)
        if args.report is not None:
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.goto((args.report / "report.html").resolve().as_uri())
            page.wait_for_timeout(500)
            save_png(page.screenshot(), IMAGES / "report.png")
        browser.close()
    return 0


def take_page(browser, weights: str) -> None:  # type: ignore[no-untyped-def]
    """Drawing, the result and a correction on the web page."""
    from vil_tracker.tracking.cli import load_tracker_factory
    from vil_tracker.web.server import running

    with running(partial(load_tracker_factory, weights, "auto")) as address:
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector("#fine:has-text('frames')")
        page.click("#sample")
        page.wait_for_selector("#picture[src] >> visible=true")
        page.locator("#picture").evaluate("image => image.decode()")
        x, y, w, h = (float(box.input_value()) for box in page.locator("#targets .numbers input").all())
        shown = page.locator("#overlay").bounding_box()
        sx, sy = shown["width"] / 640, shown["height"] / 360
        page.mouse.move(shown["x"] + x * sx, shown["y"] + y * sy)
        page.mouse.down()
        page.mouse.move(shown["x"] + (x + w) * sx, shown["y"] + (y + h) * sy, steps=4)
        save_png(page.screenshot(), IMAGES / "page-draw.png")
        page.mouse.up()
        page.click("#start")
        page.wait_for_selector("#get-video >> visible=true")
        page.locator("#slider").fill("45")
        page.mouse.move(640, 4)
        page.wait_for_timeout(2500)
        save_png(page.screenshot(full_page=True), IMAGES / "page-result.png")
        page.locator("#slider").fill("86")  # behind the tree, where the score is lowest
        page.click("#correct")
        page.mouse.move(640, 4)
        page.wait_for_timeout(2500)
        save_png(page.screenshot(full_page=True), IMAGES / "page-correct.png")


def save_png(data: bytes, path: Path) -> None:
    """With a palette, a third of the size; the page's own colours are kept, however few pixels have them."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    weighted = Image.new("RGB", (picture.width, picture.height + 24 * len(COLOURS)))
    weighted.paste(picture)
    for row, colour in enumerate(COLOURS):
        weighted.paste(colour, (0, picture.height + 24 * row, picture.width, picture.height + 24 * (row + 1)))
    palette = weighted.quantize(256, method=Image.Quantize.MEDIANCUT)
    with atomic_write(path) as stream:
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(stream, "PNG", optimize=True)
    print(f"{path} {path.stat().st_size // 1024} KB")


def save_jpeg(picture: Image.Image, path: Path) -> None:
    with atomic_write(path) as stream:
        picture.save(stream, "JPEG", quality=82, optimize=True)
    print(f"{path} {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    sys.exit(main())
