"""The page for everybody: axe-core finds nothing, focus follows the view, a phone can do it all."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import web_fakes as fakes
from web_browser import PATIENCE, bring, draw, expect, numbers

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    pytest.importorskip("axe_playwright_python", reason="axe-core comes with axe-playwright-python")
    return (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()


@pytest.fixture
def phone(browser: Any, server: tuple[str, Path]) -> Iterator[Any]:
    context = browser.new_context(**PHONE)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(server[0])
    page.wait_for_selector("#fine:has-text('frames')")
    yield page
    context.close()


def faults(page: Any, axe: str) -> list[str]:
    """What axe-core finds wrong in the view that is shown, in light and in dark colours."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour on its way to another
        page.evaluate(axe)
        result = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        for fault in result["violations"]:
            found += [f"{scheme}: {fault['id']}: {node['target']} {node['failureSummary']}" for node in fault["nodes"]]
    return found


def contrast(page: Any, one: str, other: str) -> float:
    """Contrast (WCAG 2.2) of two colours of the style sheet, by their names."""
    return float(
        page.evaluate(
            """([one, other]) => {
              const light = (name) => {
                const probe = document.body.appendChild(document.createElement("i"));
                probe.style.color = `var(--${name})`;
                const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255);
                probe.remove();
                const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
              return (a + 0.05) / (b + 0.05);
            }""",
            [one, other],
        )
    )


def test_axe_finds_nothing_and_focus_follows(page: Any, axe: str, clip: Path, tmp_path: Path) -> None:
    focused = "() => document.activeElement.id"
    assert faults(page, axe) == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for ground in ("card", "paper"):
            borders = ("edge", "focus", "accent")
            assert all(contrast(page, line, ground) >= 3 for line in borders), scheme
        assert all(contrast(page, target, "card") >= 3 for target in ("one", "two", "three", "four"))
        states = ("tracking", "uncertain", "lost", "recovered")
        assert all(contrast(page, state, "on-state") >= 3 for state in states)
        assert contrast(page, "on-state" if scheme == "light" else "tracking", "card") >= 3  # a band's edge, or itself

    bring(page, fakes.write_video(tmp_path / "slow.mp4", fakes.frames(40, 0, slow=True)))
    assert page.evaluate(focused) == "title" and page.title() == "Target: slow.mp4 · ViL-Tracker"
    draw(page, fakes.BOX)
    page.click("#add")
    draw(page, [60, 10, 30, 20])
    assert faults(page, axe) == []
    page.evaluate(
        """() => {
          window.said = [];
          new MutationObserver(() => said.push([performance.now(), document.getElementById("live").textContent]))
            .observe(document.getElementById("live"), {childList: true});
        }"""
    )
    page.focus("#start")
    page.keyboard.press("Enter")
    expect(page.locator("#run-text")).to_contain_text("frames per second", timeout=PATIENCE)
    assert page.evaluate(focused) == "title"
    assert faults(page, axe) == []
    page.wait_for_selector("#get-video >> visible=true")
    assert page.evaluate(focused) == "title"
    assert faults(page, axe) == []
    page.wait_for_function("() => said.some(([, text]) => text.startsWith('Done'))")
    said = page.evaluate("said")
    assert all(late[0] - early[0] > 1900 for early, late in zip(said, said[1:], strict=False)), said
    fills = "[...document.querySelectorAll('#plot .pattern')].map((part) => part.getAttribute('fill'))"
    patterns = page.evaluate(fills)
    assert {"url(#uncertain)", "url(#lost)", "url(#recovered)"} <= set(patterns)  # not by colour alone


def test_on_a_phone(phone: Any, axe: str, clip: Path) -> None:
    assert phone.locator("#drop").inner_text().startswith("Choose a video")
    bring(phone, clip)
    assert "Tap on the target" in phone.inner_text(".panel >> visible=true")
    assert faults(phone, axe) == []
    wide = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not phone.evaluate(wide)
    touch(phone, [[(8, 36)], [(20, 50)], [(32, 60)]])  # one finger draws
    assert numbers(phone) == pytest.approx(fakes.BOX, abs=0.6)
    before = phone.locator("#picture").bounding_box()
    touch(phone, [[(60, 48)], [(60, 48), (100, 48)], [(50, 48), (110, 48)], [(40, 48), (120, 48)]])  # two zoom
    after = phone.locator("#picture").bounding_box()
    assert after["width"] == pytest.approx(2 * before["width"], rel=0.05)
    assert numbers(phone) == pytest.approx(fakes.BOX, abs=0.6)  # and draw nothing
    touch(phone, [[(60, 48)], [(70, 54)], [(80, 60)]])  # the same place of the picture, at twice the size
    assert numbers(phone) == pytest.approx([60, 48, 20, 12], abs=0.6)
    phone.click("#start")
    phone.wait_for_selector("#get-video >> visible=true")
    assert faults(phone, axe) == [] and not phone.evaluate(wide)


def touch(page: Any, steps: list[list[tuple[float, float]]]) -> None:
    """Move fingers over points of the picture; each step holds the fingers that are down."""
    session = page.context.new_cdp_session(page)
    size = page.locator("#picture").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    shown = page.locator("#picture").bounding_box()
    down = 0
    for fingers in steps:
        points = [
            {"x": shown["x"] + x * shown["width"] / size[0], "y": shown["y"] + y * shown["height"] / size[1], "id": i}
            for i, (x, y) in enumerate(fingers)
        ]
        kind = "touchStart" if len(points) > down else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        down = len(points)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()
