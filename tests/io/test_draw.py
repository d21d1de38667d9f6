"""Drawing: in the right place and colour, legible, and never outside the picture."""

from __future__ import annotations

import numpy as np
import pytest

from vil_tracker.io.draw import STATE_COLOURS, draw_results, label_text
from vil_tracker.io.pictures import KeyFrames, contact_sheet, thumbnail
from vil_tracker.io.source import Frame
from vil_tracker.results import STATES, Result


def close_to(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(picture.astype(int) - np.array(colour)) < 40).all(-1)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("background", [0, 128, 255])
def test_box_is_drawn_on_its_edges_in_the_colour_of_its_state(state: str, background: int) -> None:
    image = np.full((360, 640, 3), background, np.uint8)
    picture = draw_results(image, {1: Result(np.array([200.0, 150, 100, 80]), 0.9, state)})
    assert (image == background).all()  # the original stays
    ys, xs = np.nonzero(close_to(picture[149:], STATE_COLOURS[state]))
    ys += 149
    assert abs(xs.max() - 300) <= 2 and abs(ys.max() - 230) <= 2
    on_right = close_to(picture[:, 299:302], STATE_COLOURS[state]).any(1)
    assert on_right[152:160].all() and on_right[222:228].all()
    assert on_right[188:192].all() == (state != "lost")  # a lost target shows its corners only
    assert (picture[170:210, 220:280] == background).all()  # the target itself stays visible


def test_boxes_glide_by_parts_of_a_pixel() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    pictures = [draw_results(image, {1: Result(np.array([200 + d, 150, 100, 80]), 0.9)}) for d in (0.0, 0.25, 0.5)]
    assert (pictures[0] != pictures[1]).any() and (pictures[1] != pictures[2]).any()


def test_label_says_state_only_when_it_matters() -> None:
    assert label_text(3, Result(np.ones(4), 0.934)) == "3  0.93"
    assert label_text(1, Result(np.ones(4), 0.1, "lost")) == "1  lost  0.10"


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (40, 30), (1080, 1920)])
def test_any_box_on_any_picture(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    boxes = [*rng.uniform(-300, 900, (6, 4)), np.array([0.0, 0, *shape[::-1]]), np.array([1e9, -1e9, 1e9, 1e-9])]
    results = {i: Result(box, float(rng.uniform()), STATES[i % 4]) for i, box in enumerate(boxes, start=1)}
    picture = draw_results(np.full((*shape, 3), 90, np.uint8), results)
    assert picture.shape == (*shape, 3) and picture.dtype == np.uint8


def test_lines_grow_with_the_picture() -> None:
    def width_of_edge(scale: int) -> int:
        image = np.zeros((360 * scale, 640 * scale, 3), np.uint8)
        picture = draw_results(image, {1: Result(np.array([200.0, 150, 100, 80]) * scale, 0.9)})
        return int(close_to(picture[200 * scale], STATE_COLOURS["tracking"])[: 250 * scale].sum())

    assert width_of_edge(1) < width_of_edge(3) < width_of_edge(6)


def test_thumbnail_scales_boxes_with_the_picture() -> None:
    frame = Frame(42, 1.4, np.zeros((720, 1280, 3), np.uint8))
    small = thumbnail(frame, {1: Result(np.array([400.0, 300, 200, 160]), 0.9)}, 320)
    assert small.image.shape == (180, 320, 3) and small.caption.startswith("frame 42")
    _, xs = np.nonzero(close_to(small.image[100:], STATE_COLOURS["tracking"]))
    assert abs(xs.min() - 100) <= 2 and abs(xs.max() - 150) <= 2


@pytest.mark.parametrize("state", ["tracking", "lost"])
def test_a_small_target_is_seen_in_its_box(state: str) -> None:
    image = np.full((720, 1280, 3), 90, np.uint8)
    image[300:316, 400:420] = (250, 0, 200)  # four by five pixels of a thumbnail
    plain = thumbnail(Frame(0, 0.0, image), {}, 320).image
    drawn = thumbnail(Frame(0, 0.0, image), {1: Result(np.array([400.0, 300, 20, 16]), 0.9, state)}, 320).image
    there = plain[..., 0] > 200
    assert there.sum() == 20 and (drawn[there] == plain[there]).all()
    assert close_to(drawn, STATE_COLOURS[state]).any()


def test_contact_sheet_lays_out_rows() -> None:
    frame = Frame(0, 0.0, np.zeros((90, 160, 3), np.uint8))
    cells = [thumbnail(frame, {}, 160) for _ in range(5)]
    sheet = contact_sheet(cells, 3)
    assert sheet.shape[1] == 12 + 3 * 172 and sheet.shape[0] > 2 * 90


@pytest.mark.parametrize("length", [1, 3, 8, 9, 100, 1000])
def test_key_frames_are_even_and_few(tmp_path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        "vil_tracker.io.pictures.contact_sheet",
        lambda cells, columns: shown.extend(c.caption for c in cells) or np.zeros((4, 4, 3), np.uint8),
    )
    image = np.zeros((9, 16, 3), np.uint8)
    strip = KeyFrames(tmp_path / "strip.png", count=8, width=16)
    for number in range(length):
        strip.write(Frame(number, number / 25, image), {})
        assert len(strip._kept) <= 33
    strip.finish()
    numbers = [int(caption.split()[1]) for caption in shown]
    assert numbers[0] == 0 and numbers[-1] == length - 1 and len(numbers) == min(length, 8)
    if length >= 100:
        gaps = np.diff(numbers)
        assert gaps.max() <= 1.4 * gaps.min() + 2
