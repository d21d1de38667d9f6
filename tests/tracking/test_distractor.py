"""Two things that look the same and cross: the target is told by how both moved."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from track_clips import peak_calibration, small_network

from vil_tracker.boxes import box_centre, centred_box, iou
from vil_tracker.config import TrackConfig
from vil_tracker.data.crops import CropGeometry
from vil_tracker.tracking.distractor import DistractorTrack, second_view, tell_apart
from vil_tracker.tracking.search import SearchOutput
from vil_tracker.tracking.tracker import Tracker

Things = list[tuple[np.ndarray, float]]

GRID, SIDE, SIZE = 16, 160.0, 30.0  # cells and pixels of the search crop, pixels of a target


def view(middle: np.ndarray, *things: tuple[np.ndarray, float], background: float = -8.0) -> SearchOutput:
    """What a network says of a crop around ``middle`` that shows things: their centres in the image, and logits."""
    geometry = CropGeometry(float(middle[0]), float(middle[1]), SIDE, int(SIDE))
    logits = np.full((GRID, GRID), background)
    offsets, sizes = np.full((2, GRID, GRID), 0.5), np.full((2, GRID, GRID), SIZE / SIDE)
    for centre, logit in things:
        column, row = (centre - middle + SIDE / 2) / SIDE * GRID
        if not (0 <= column < GRID and 0 <= row < GRID):
            continue  # outside of the crop
        cell = int(row), int(column)
        logits[cell], offsets[:, *cell] = logit, (column - int(column), row - int(row))
    row, column = np.unravel_index(int(logits.argmax()), logits.shape)
    centre = (np.array([column, row]) + offsets[:, row, column]) / GRID
    in_crop = np.concatenate([centre - SIZE / SIDE / 2, centre + SIZE / SIDE / 2])
    peak = 1 / (1 + math.exp(-logits.max()))
    pixels, features = np.zeros((int(SIDE), int(SIDE), 3), np.uint8), torch.zeros(GRID**2, 32)
    return SearchOutput(
        geometry, pixels, geometry.to_image(in_crop), in_crop, peak, logits, offsets, sizes, features, None
    )


def test_the_second_view_has_the_box_of_the_other_thing() -> None:
    here, there = np.array([100.0, 90.0]), np.array([143.0, 77.0])
    seen = view(here, (here, 4.0), (there, -1.0))
    other = second_view(seen)
    assert other is not None
    np.testing.assert_allclose(other.box, [128, 62, 30, 30], atol=1e-6)
    np.testing.assert_allclose(seen.geometry.to_image(other.box_in_crop), other.box)
    assert other.peak == pytest.approx(1 / (1 + math.e))
    assert second_view(view(here, (here, 4.0), (there, -2.3))) is None  # below 0.1
    assert second_view(view(here, (here, 4.0), (here + (12.0, 5.0), 1.0))) is None  # on the same thing


def crossing(count: int, hidden: range, preferred: float, shake: float = 0.0) -> Iterator[tuple[np.ndarray, Things]]:
    """The target's centre in each frame, and what the score map shows: the target goes right while a distractor goes
    left, before a camera that shakes by ``shake`` pixels. In the ``hidden`` frames one hides the other, and the map
    has a peak between them; from then on its logit of the distractor is higher by ``preferred``.
    """
    rng = np.random.default_rng(0)
    for frame in range(count):
        target, other = (
            np.array([200.0, 200.0]) + side * np.array([5.0 * (frame - count / 2), 4.0]) for side in (1, -1)
        )
        moved = rng.normal(0.0, shake, 2)
        things = [(target + moved, 2.0), (other + moved, 2.0 + preferred if frame >= hidden.stop else 1.0)]
        yield target + moved, [((target + other) / 2 + moved, 2.0)] if frame in hidden else things


def cross(count: int, hidden: range, preferred: float = 1.0, shake: float = 0.0) -> list[float]:
    """The overlap with the target in each frame."""
    track: DistractorTrack | None = None
    overlaps, middle = [], np.array([200.0, 200.0])
    for frame, (target, things) in enumerate(crossing(count, hidden, preferred, shake)):
        track, seen = tell_apart(track, view(middle, *things), frame)
        overlaps.append(float(iou(seen.box, centred_box(target, np.full(2, SIZE)))))
        middle = box_centre(seen.box)
    return overlaps


@pytest.mark.parametrize("shake", [0.0, 6.0])
def test_the_target_is_followed_behind_a_crossing(shake: float) -> None:
    overlaps = cross(24, range(10, 15), shake=shake)
    assert min(overlaps[:10] + overlaps[15:]) > 0.99


def test_a_map_that_is_sure_of_the_other_is_believed() -> None:
    assert max(cross(24, range(10, 15), preferred=3.5)[15:]) < 0.2


def test_nothing_is_exchanged_without_a_motion_before() -> None:
    """What was not seen apart before the crossing, or stands still: the network's own choice counts, or the place."""
    assert max(cross(24, range(15))[15:]) < 0.2
    track, here, there = None, np.array([200.0, 200.0]), np.array([245.0, 200.0])
    for frame in range(10):
        first, second = (here, there) if frame < 7 else (there, here)
        seen = view(here, (first, 2.0), (second, 1.0))
        track, found = tell_apart(track, seen, frame)
        # In the eighth frame the peak has jumped onto the thing that stood there before.
        assert np.allclose(box_centre(found.box), here) and (found is seen) == (frame < 7)


def test_a_distractor_is_expected_where_it_was_going_and_then_forgotten() -> None:
    track = None
    for frame in range(4):
        target, own = np.array([100.0, 100.0]), np.array([150.0 + 3.0 * frame, 100.0 - 2.0 * frame])
        track, _ = tell_apart(track, view(target, (target, 3.0), (own, 1.0)), frame)
    assert track is not None and not track.is_at(centred_box(np.array([100.0, 100.0]), np.full(2, SIZE)), frame)
    alone = view(np.array([100.0, 100.0]), (np.array([100.0, 100.0]), 3.0))
    for frame in range(4, 28):
        track, seen = tell_apart(track, alone, frame)
        assert track is not None and seen is alone
        np.testing.assert_allclose(track.expected(frame)[1], (150 + 3.0 * frame, 100 - 2.0 * frame))
        assert track.is_at(centred_box(track.expected(frame)[1] + 20.0, np.full(2, SIZE)), frame)
    assert tell_apart(track, alone, 28)[0] is None


def follow(distractors: bool) -> tuple[list[float], Tracker]:
    """A session that is given such maps."""
    network, frame = small_network(temporal=False), np.zeros((400, 400, 3), np.uint8)
    network.calibration = peak_calibration(bias=3.0).to_json()
    tracker = Tracker(network, TrackConfig(distractors=distractors, redetect=False))
    (first, _), *rest = crossing(24, range(10, 15), preferred=1.0)
    tracker.init(frame, centred_box(first, np.full(2, SIZE)))
    overlaps = []
    for target, things in rest:
        steps = tracker.steps(frame)
        (request,) = next(steps)
        with pytest.raises(StopIteration):
            steps.send([view(np.array([request.geometry.cx, request.geometry.cy]), *things)])
        assert tracker.state is not None
        overlaps.append(float(iou(tracker.state.box, centred_box(target, np.full(2, SIZE)))))
    return overlaps, tracker


def test_a_session_follows_the_target_and_forecasts_from_it() -> None:
    overlaps, tracker = follow(distractors=True)
    assert min(overlaps[14:]) > 0.95
    state = tracker.state
    assert state is not None and state.phase.name == "tracking"
    assert np.abs(state.motion.predict(state.box) - box_centre(state.box) - (5.0, 0.0)).max() < 2.0
    assert max(follow(distractors=False)[0][14:]) < 0.2


@pytest.mark.parametrize("known", [True, False])
def test_a_search_in_doubt_does_not_take_the_distractor_for_the_target(known: bool) -> None:
    _, tracker = follow(distractors=True)
    state = tracker.state
    assert state is not None and state.distractor is not None
    tracker.config = TrackConfig(redetect_below=1.0, redetect_after=1, recover_above=1.0)
    state.frames_in_doubt = 1
    centre, there = box_centre(state.box), state.distractor.expected(state.frame)[1]
    if not known:
        state.distractor = None
    steps = tracker.steps(np.zeros((400, 400, 3), np.uint8))
    next(steps)
    places = steps.send([view(centre, (centre, 2.0))])  # the distractor is not seen from here
    with pytest.raises(StopIteration):
        steps.send([view(there, (there, 3.0)) for _ in places])
    assert (state.candidate is None) == known
