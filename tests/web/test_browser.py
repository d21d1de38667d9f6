"""The page in a real browser: bring a video, draw a box with the mouse, run, watch the result, download it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import web_fakes as fakes
from web_browser import PATIENCE, at_frame, bring, draw, expect, numbers

from vil_tracker.boxes import iou


def test_from_a_video_to_its_result(page: Any, clip: Path, tmp_path: Path) -> None:
    page.set_input_files("#file", clip)
    page.wait_for_selector("#picture[src] >> visible=true")
    page.locator("#picture").evaluate("image => image.decode()")
    assert page.inner_text("#title") == "disc.mp4" and "160 × 96" in page.inner_text("#facts")
    assert page.locator("#start").is_disabled()
    draw(page, [100, 5, 30, 20])
    draw(page, fakes.BOX)  # drawing again replaces the box
    assert page.locator("#targets li").count() == 1
    assert numbers(page) == pytest.approx(fakes.BOX, abs=0.3)  # the mouse moves in pixels of the screen
    page.click("#add")
    draw(page, [100, 5, 30, 20])
    assert numbers(page, 1) == pytest.approx([100, 5, 30, 20], abs=0.3)
    page.locator("#targets li").nth(1).locator(".remove").click()
    for position, value in enumerate(fakes.BOX):  # or typed, to the tenth of a pixel
        page.locator("#targets .numbers input").nth(position).fill(str(value))
    page.locator("#targets .numbers input").nth(3).blur()
    page.click("#start")

    page.wait_for_selector("#get-video >> visible=true")
    assert page.inner_text("#result-title") == "Done" and "50 frames" in page.inner_text("#result-text")
    player = page.locator("#player")
    player.evaluate("video => { video.pause(); video.currentTime = 1.0; }")
    expect(player).to_have_js_property("readyState", 4, timeout=PATIENCE)
    assert player.evaluate("video => [video.videoWidth, video.videoHeight, video.duration]") == [160, 96, 2]
    assert player.evaluate("video => video.error") is None
    player.evaluate("video => { video.loop = false; return video.play(); }")
    expect(player).to_have_js_property("ended", True, timeout=PATIENCE)  # it plays to its end
    assert len(page.locator("#plot .score").get_attribute("d").split("L")) == 50
    assert page.locator("#plot .band").count() == 5  # ten frames of each state, then tracking again
    page.locator("#plot").hover(position={"x": 40, "y": 60})
    assert "frame 0 · 0.00 s · 1.00 tracking" in page.inner_text("#plot-readout")

    visitor = fakes.Visitor(
        page.url.split("/#")[0], "; ".join(f"{c['name']}={c['value']}" for c in page.context.cookies())
    )
    video = page.url.split("#")[1]
    for button, role, name in (("#get-video", "video", "disc_tracked.webm"), ("#get-csv", "csv", "disc_boxes.csv")):
        with page.expect_download() as download:
            page.click(button)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_bytes() == visitor.file(video, role).body
    assert (
        (tmp_path / "disc_boxes.csv")
        .read_text()
        .startswith("frame,id,x,y,w,h,score,time,state\n0,1,8.000,36.000,24.000,24.000,1.0")
    )

    names = {"jsonl": "JSON lines", "mot": "MOT", "coco": "COCO", "yolo": "YOLO", "cvat": "CVAT"}
    for role, name in (names | {"label-studio": "Label Studio"}).items():
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        assert Path(download.value.path()).read_bytes() == visitor.file(video, role).body

    page.reload(wait_until="commit")  # the result is still there
    page.wait_for_selector("#get-video >> visible=true")
    page.click("#again")
    page.wait_for_selector("#canvas >> visible=true")
    assert numbers(page) == fakes.BOX
    page.reload()  # in every view
    page.wait_for_selector("#canvas >> visible=true")
    page.go_back()
    page.wait_for_selector("#get-video >> visible=true")
    page.go_forward()
    page.click(".panel[data-for=draw] .anew")
    page.wait_for_selector("#drop >> visible=true")
    assert "#" not in page.url
    entry = page.locator("#videos li")  # nothing is lost by that click
    expect(entry).to_have_text("disc.mp4done, 50 framesDelete")
    entry.locator("a").click()
    page.wait_for_selector("#get-video >> visible=true")
    page.go_back()
    page.wait_for_selector("#drop >> visible=true")
    page.once("dialog", lambda dialog: dialog.dismiss())
    entry.locator("button").click()
    assert visitor.status(video)["status"] == "done"
    page.once("dialog", lambda dialog: dialog.accept())
    entry.locator("button").click()
    expect(page.locator("#mine")).to_be_hidden(timeout=PATIENCE)
    assert visitor.ask("GET", f"/api/videos/{video}").status == 404


def test_what_cannot_be_tracked_is_told(page: Any, clip: Path, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    bad.write_bytes(b"no video at all" * 50)
    page.set_input_files("#file", bad)
    page.wait_for_selector("#error >> visible=true")
    assert "not a video that can be read" in page.inner_text("#error-text")
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(3 << 20))
    page.set_input_files("#file", large)
    expect(page.locator("#error-text")).to_contain_text("the limit is 2 MB")
    bring(page, fakes.write_lie(tmp_path / "lie.avi", 12, 60))
    page.locator("#slider").fill("9")
    at_frame(page, 9)
    page.locator("#slider").fill("40")  # there is no such frame, whatever the header says
    expect(page.locator("#error-text")).to_contain_text("no frame 40", timeout=PATIENCE)
    at_frame(page, 9)
    page.click(".panel >> visible=true >> .anew")
    page.wait_for_selector("#drop >> visible=true")
    named = tmp_path / "<b>bold<b>.mp4"
    shutil.copy(clip, named)
    page.set_input_files("#file", named)
    page.wait_for_selector("#canvas >> visible=true")
    assert page.inner_text("#title") == "<b>bold<b>.mp4"  # shown as text
    assert page.locator("#error").is_hidden()


def test_any_frame_corrections_and_a_second_tab(page: Any, clip: Path, tmp_path: Path) -> None:
    bring(page, clip)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    at_frame(page, 2)
    page.locator("#slider").fill("10")
    at_frame(page, 10)
    page.locator("#picture").evaluate("image => image.decode()")
    draw(page, [32, 44, 24, 24])
    page.locator(".name").fill("disc")
    page.click("#add")
    draw(page, [60, 10, 30, 20])
    page.locator(".name").nth(1).fill("wall")
    page.locator(".name").nth(1).blur()
    page.click("#forward")
    at_frame(page, 11)
    assert page.locator("#targets .numbers input").first.input_value() == ""  # nothing is drawn here
    expect(page.locator("#targets .chips").first).to_have_text("begins on frame 10")
    page.wait_for_timeout(500)
    due = """async ([times, moments]) => {
      const { dueAt } = await import("/readings.js");
      return moments.map((seconds) => dueAt(times, seconds));
    }"""
    uneven = [[5, 5.04, 5.2, 5.24], [0, 0.039, 0.04, 0.19, 9]]
    assert page.evaluate(due, uneven) == [0, 0, 1, 1, 3]  # the frame that is seen
    page.reload()  # keeps what is drawn, and where
    at_frame(page, 11)
    expect(page.locator("#targets .chips").first).to_have_text("begins on frame 10")
    page.click("#start")

    page.wait_for_selector("#get-video >> visible=true")
    page.locator("#player").evaluate("video => video.pause()")
    assert page.locator("#key li").all_inner_texts() == ["disc", "wall"]
    # One call, because the plot may be drawn again between finding its lines and reading them.
    strokes = "css => [...document.querySelectorAll(css)].map((line) => getComputedStyle(line).stroke)"
    colours = page.evaluate(strokes, "#plot .score")
    assert len(set(colours)) == 2
    assert colours == page.evaluate(strokes, "#key svg")
    page.click("#problem")  # each tracker is unsure of its tenth frame to its fortieth
    at_frame(page, 20)
    assert "frame 20 · 0.80 s · disc" in page.inner_text("#plot-readout") and "uncertain" in page.inner_text(
        "#plot-readout"
    )
    page.click("#problem")  # there is no other one
    at_frame(page, 20)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    at_frame(page, 31)
    page.keyboard.press("ArrowLeft")
    at_frame(page, 30)
    before = rows_of(page, tmp_path)
    page.click("#correct")
    page.wait_for_selector("#canvas >> visible=true")
    at_frame(page, 30)
    assert page.locator("#overlay .ghost").count() == 2
    box = [100.0, 60.0, 30.0, 24.0]
    draw(page, box)
    assert page.locator("#overlay .ghost").count() == 1
    expect(page.locator("#targets .chips").first).to_have_text("begins on frame 10×corrected on frame 30×")
    page.click("#start")
    expect(page.locator("#result-text")).to_contain_text("40 frames", timeout=PATIENCE)
    after = rows_of(page, tmp_path)
    assert [row for row in after if row[1] == "2"] == [row for row in before if row[1] == "2"]
    assert after[:40] == before[:40] and after[42:] != before[42:]
    assert [float(value) for value in after[40][2:6]] == pytest.approx(box, abs=0.3)

    page.go_back()
    page.wait_for_selector("#canvas >> visible=true")
    at_frame(page, 30)
    page.wait_for_timeout(300)
    other = page.context.new_page()  # a second tab
    other.goto(page.url)
    at_frame(other, 30)
    expect(other.locator("#targets .chips").first).to_have_text("begins on frame 10×corrected on frame 30×")
    page.click("[aria-label='Remove target 2']")
    expect(other.locator("#targets li")).to_have_count(1, timeout=PATIENCE)
    page.bring_to_front()
    page.click("[aria-label='Remove the box of target 1 on frame 30']")
    page.click("#undo")
    expect(page.locator("#targets .chips").first).to_have_text("begins on frame 10×corrected on frame 30×")
    page.click("[aria-label='Remove the box of target 1 on frame 30']")
    page.click("#start")
    page.wait_for_selector("#get-video >> visible=true")
    expect(other.locator("#get-video")).to_be_visible(timeout=PATIENCE)
    assert rows_of(other, tmp_path) == [row for row in before if row[1] == "1"]


def rows_of(page: Any, folder: Path) -> list[list[str]]:
    with page.expect_download() as download:
        page.click("#get-csv")
    download.value.save_as(folder / "rows.csv")
    return [line.split(",") for line in (folder / "rows.csv").read_text().splitlines()[1:]]


def test_stop_redraw_go_on(page: Any, tmp_path: Path) -> None:
    bring(page, fakes.write_video(tmp_path / "slow.mp4", fakes.frames(40, 0, slow=True)))
    draw(page, fakes.BOX)
    page.click("#start")
    expect(page.locator("#run-text")).to_contain_text("frames per second", timeout=PATIENCE)
    page.reload()  # goes on watching
    expect(page.locator("#run-text")).to_contain_text("frames per second", timeout=PATIENCE)
    page.click("#stop")
    expect(page.locator("#result-title")).to_have_text("Stopped", timeout=PATIENCE)
    before = rows_of(page, tmp_path)
    last = len(before) - 1
    at_frame(page, last)  # where it stopped
    page.click("#correct")
    page.wait_for_selector("#canvas >> visible=true")
    at_frame(page, last)
    draw(page, [60, 30, 24, 24])
    page.click("#start")
    expect(page.locator("#result-text")).to_contain_text("40 frames", timeout=PATIENCE)
    assert rows_of(page, tmp_path)[:last] == before[:last]


def test_a_click_is_enough(page: Any, clip: Path) -> None:
    bring(page, clip)
    shown = page.locator("#overlay").bounding_box()
    page.mouse.click(shown["x"] + 20 / 160 * shown["width"], shown["y"] + 48 / 96 * shown["height"])
    expect(page.locator("#proposal")).to_be_visible(timeout=PATIENCE)
    count = int(page.inner_text("#proposal-text").split()[3])
    boxes = [numbers(page)]
    for number in range(2, count + 1):
        page.keyboard.press("Tab")
        expect(page.locator("#proposal-text")).to_have_text(f"Box {number} of {count} for this click.")
        boxes.append(numbers(page))
    assert max(iou(np.array(box), np.array(fakes.BOX)) for box in boxes) > 0.6
    page.click("#next-proposal")  # from the last to the first
    assert numbers(page) == boxes[0] and page.locator("#start").is_enabled()
    page.click("#undo")
    page.click("#undo")  # one proposal after another, and the last one is taken back as well
    assert page.locator("#undo").is_visible() and page.locator("#proposal").is_hidden()
    draw(page, [100, 5, 30, 20])  # drawing ends it
    assert page.locator("#proposal").is_hidden()
    assert numbers(page) == pytest.approx([100, 5, 30, 20], abs=0.3)
