"""The search over the whole frame: it covers everything, at a bounded cost, from near to far."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from track_clips import peak_calibration, scene, small_network

from vil_tracker.boxes import clip_box
from vil_tracker.config import TrackConfig
from vil_tracker.tracking import search as search_module
from vil_tracker.tracking.confidence import ConfidenceEstimator, appearance
from vil_tracker.tracking.redetect import (
    FRAMES_PER_PASS,
    OVERLAP,
    RedetectionCandidate,
    SlidingWindowSearch,
    apart,
    candidate_posterior,
    coarse_grid,
)
from vil_tracker.tracking.search import SearchOutput, SearchRequest
from vil_tracker.tracking.tracker import Tracker


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.floats(8, 600), st.integers(1, 40))
def test_the_grid_covers_the_frame_within_its_limit(width: int, height: int, side: float, limit: int) -> None:
    grid = coarse_grid(width, height, side, 96, limit)
    assert 1 <= len(grid) <= limit
    points = np.random.default_rng(0).uniform(0, 1, (12, 2)) * (width, height)
    for x, y in points:
        assert any(abs(c.cx - x) <= c.side / 2 + 1e-6 and abs(c.cy - y) <= c.side / 2 + 1e-6 for c in grid)


def test_an_object_of_a_quarter_of_a_crop_lies_whole_in_some_crop() -> None:
    side, width, height = 80.0, 640, 360
    grid = coarse_grid(width, height, side, 96, 500)
    assert grid[0].side == side
    half = side / 8
    for x, y in np.random.default_rng(1).uniform(half, [width - half, height - half], (200, 2)):
        assert any(max(abs(c.cx - x), abs(c.cy - y)) + half <= c.side / 2 + 1e-6 for c in grid)
    assert OVERLAP >= 0.25


def test_the_search_widens_from_the_last_place_to_the_whole_frame() -> None:
    sliding_window, last = SlidingWindowSearch(), np.array([50.0, 60.0])
    seen, reach = set(), []
    grid = {(c.cx, c.cy) for c in coarse_grid(480, 270, 60, 96, 6 * FRAMES_PER_PASS)}
    for _ in range(FRAMES_PER_PASS):
        crops = sliding_window.crops(480, 270, last, 60, 96, 6)
        assert len(crops) <= 6
        seen |= {(c.cx, c.cy) for c in crops}
        reach.append(max(np.hypot(c.cx - 50, c.cy - 60) for c in crops))
    assert seen == grid and reach[0] < reach[-1]


def test_a_change_of_frame_size_is_taken_in_stride() -> None:
    sliding_window = SlidingWindowSearch()
    for width, height in ((480, 270), (1, 1), (1920, 1080), (30, 700)):
        for crop in sliding_window.crops(width, height, np.array([9.0, 9.0]), 40, 96, 6):
            assert 0 <= crop.cx <= width and 0 <= crop.cy <= height


@pytest.fixture
def lost_tracker() -> tuple[Tracker, list[np.ndarray]]:
    network = small_network()
    network.calibration = peak_calibration(bias=-9.0, slope=0.0).to_json()  # never sure
    frames, boxes = scene(0, 14)
    tracker = Tracker(network, TrackConfig(lost_after=2, redetect_crops=5))
    tracker.init(frames[0], boxes[0])
    return tracker, frames[1:]


def test_cost_per_frame_is_bounded_while_lost(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    counts: list[int] = []
    original = search_module.run_search
    monkeypatch.setattr(
        search_module, "run_search", lambda m, f, requests, *rest: _count(counts, requests, original, m, f, rest)
    )
    states = []
    for frame in frames:
        before = sum(counts)
        states.append(tracker.update(frame).state)
        cost = sum(counts) - before
        # the last place, the likeliest one, five others, one from near
        assert cost <= 1 + 1 + 5 + 1 if len(states) > 2 else cost == 1
    assert states[:2] == ["uncertain", "lost"] and set(states[2:]) == {"lost"}


@pytest.mark.parametrize("limit", [4, 6])
def test_the_user_bounds_the_crops_of_a_frame(lost_tracker, monkeypatch, limit: int) -> None:
    tracker, frames = lost_tracker
    tracker.config = replace(tracker.config, max_crops=limit)
    counts: list[int] = []
    original = search_module.run_search
    monkeypatch.setattr(
        search_module, "run_search", lambda m, f, requests, *rest: _count(counts, requests, original, m, f, rest)
    )
    costs = []
    for frame in frames:
        before = sum(counts)
        tracker.update(frame)
        costs.append(sum(counts) - before)
    assert max(costs) == limit and tracker.state.phase.name == "lost"


def _count(counts, requests, original, model, frame, rest):
    counts.append(len(requests))
    return original(model, frame, requests, *rest)


def test_recovery_needs_a_match_with_the_first_template(lost_tracker) -> None:
    tracker, frames = lost_tracker
    results = [tracker.update(frame) for frame in frames[:5]]
    assert results[-1].state == "lost" and results[-1].score < 0.1
    tracker.confidence = ConfidenceEstimator(peak_calibration(bias=9.0, slope=0.0))  # everything matches
    assert tracker.update(frames[5]).state == "recovered"
    assert tracker.state is not None and tracker.state.sliding_window is None
    assert tracker.update(frames[6]).state == "recovered"


def test_the_search_can_be_switched_off(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    tracker.config = TrackConfig(lost_after=2, redetect=False)
    counts: list[int] = []
    original = search_module.run_search
    monkeypatch.setattr(
        search_module, "run_search", lambda m, f, requests, *rest: _count(counts, requests, original, m, f, rest)
    )
    assert [tracker.update(frame).state for frame in frames[:5]][-1] == "lost"
    assert counts == [1] * 5


def test_the_place_looked_at_from_near_is_the_one_that_both_judges_like(lost_tracker, monkeypatch) -> None:
    """The highest peak is on another thing; what the verifier takes for the target is looked at instead."""
    tracker, frames = lost_tracker
    for frame in frames[:4]:
        tracker.update(frame)
    tracker.state.candidate = None
    asked: list[list[SearchRequest]] = []
    seen: list[SearchOutput] = []

    def watched(model, frame, requests, *rest):
        asked.append(list(requests))
        views = original(model, frame, requests, *rest)
        if len(asked) == 1:  # the last place, then the ones searched, the second and third of which stand out
            peaks = [0.1, 0.1, 0.9, 0.8, *[0.1] * (len(views) - 4)]
            views = [replace(view, peak=peak) for view, peak in zip(views, peaks, strict=True)]
            seen.extend(views)
        return views

    original = search_module.run_search
    monkeypatch.setattr(search_module, "run_search", watched)
    likes: dict[float, float] = {0.9: -3.0, 0.8: 3.0}
    described = appearance

    def liked(view, *rest):
        return replace(described(view, *rest), alike=(likes.get(view.peak, 0.0), 0.0))

    monkeypatch.setattr("vil_tracker.tracking.confidence.appearance", liked)
    tracker.update(frames[4])
    near, second = asked[1]
    assert second.geometry != near.geometry
    centre = seen[3].box[:2] + seen[3].box[2:] / 2
    assert (near.geometry.cx, near.geometry.cy) == pytest.approx(tuple(centre), abs=0.1)


def test_the_best_of_many_places_needs_better_evidence() -> None:
    """Bayes: a match with odds of 3 to 1 against chance, at any of six places alike, has odds of 1 to 2."""
    box = np.array([1.0, 2.0, 3.0, 4.0])
    assert RedetectionCandidate.best_of(box, 0.75, 6).probability == pytest.approx(1 / 3)
    assert RedetectionCandidate.best_of(box, 0.75, 1).probability == pytest.approx(0.75)
    assert (
        RedetectionCandidate.best_of(box, 0.0, 6).probability < 1e-5
        and RedetectionCandidate.best_of(box, 1.0, 6).probability > 1 - 1e-5
    )


def test_looking_again_multiplies_the_odds_of_a_place() -> None:
    """Odds of 3 : 1 at the best of six places, 3 : 1 again in the next frame: 3 * 3 / 6. One denial undoes it."""
    first = RedetectionCandidate.best_of(np.array([1.0, 2.0, 3.0, 4.0]), 0.75, 6)
    second = first.seen_again(np.array([5.0, 6.0, 3.0, 4.0]), 0.75, 1.0)
    assert second is not None and second.probability == pytest.approx(0.6) and second.box[0] == 5.0
    assert second.score == pytest.approx(0.75)  # by the last look alone
    assert first.seen_again(first.box, 0.2, 1.0) is None  # 3 / 6 / 4 is below any place's 1 / 6


def test_the_second_best_place_from_afar_may_be_the_best_from_near(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    for frame in frames[:4]:
        tracker.update(frame)
    tracker.state.candidate = None
    judged: list[np.ndarray] = []
    right = iter([0.01, 0.3, 0.999])  # the last place, then the two that look best from afar

    def score(state, frame, view, *_):
        judged.append(view.box)
        return next(right)

    monkeypatch.setattr(tracker.confidence, "score", score)
    result = tracker.update(frames[4])
    assert result.state == "recovered"
    np.testing.assert_allclose(result.box, clip_box(judged[2], frames[4].shape[1], frames[4].shape[0]))


def test_places_to_look_at_are_apart() -> None:
    def at(x: float) -> SearchOutput:
        return SimpleNamespace(box=np.array([x, 10.0, 20.0, 20.0]))  # type: ignore[return-value]

    views = [at(10), at(12), at(60), at(61), at(110)]
    assert apart(views, 2) == [views[0], views[2]] and apart(views, 9) == [views[0], views[2], views[4]]


def test_a_place_that_looks_right_twice_ends_the_search(lost_tracker, monkeypatch) -> None:
    """Where one look is not enough for the better of two places, a second look at that place is."""
    tracker, frames = lost_tracker
    for frame in frames[:4]:
        tracker.update(frame)
    tracker.state.candidate = None
    # The last place and two others; then the last place, the suspect, and whatever else.
    right = chain([0.01, 0.8, 0.1], [0.01, 0.8], repeat(0.01))
    monkeypatch.setattr(tracker.confidence, "score", lambda *_: next(right))
    assert tracker.update(frames[4]).state == "lost"
    candidate = tracker.state.candidate
    assert candidate is not None and candidate.places == 2
    assert candidate.probability == pytest.approx(4 / (4 + candidate.places))
    result = tracker.update(frames[5])
    assert result.state == "recovered" and result.score == pytest.approx(16 / (16 + candidate.places))
    assert tracker.state.candidate is None


def test_the_target_cannot_be_at_two_places() -> None:
    """Judged right at 0.9 there and 0.5 here, each for itself: 0.45 there, 0.05 here, 0.05 nowhere, and never both."""
    assert candidate_posterior(0.9, 0.5) == pytest.approx(0.45 / 0.55)
    assert candidate_posterior(0.9, 0.95) < 0.35 and candidate_posterior(1.0, 1.0) == 0.0
    assert candidate_posterior(0.6, 0.0) == pytest.approx(0.6)


@pytest.fixture
def doubting_tracker() -> tuple[Tracker, list[np.ndarray], list[list[SearchRequest]]]:
    """Says 0.5 of every place, which is neither sure nor uncertain."""
    network = small_network()
    network.calibration = peak_calibration(bias=0.0, slope=0.0).to_json()
    frames, boxes = scene(0, 14)
    tracker = Tracker(network, TrackConfig(score_gain=1.0, redetect_after=3, redetect_crops=2, redetect_near=1))
    tracker.init(frames[0], boxes[0])
    return tracker, frames[1:], []


def _judge_by_crop(monkeypatch, tracker: Tracker, asked: list[list[SearchRequest]], here: float, there: float) -> None:
    """Give the box that is followed one score, and what is seen anywhere else another one, and note what is asked."""
    original = search_module.run_search

    def watched(model, frame, requests, *rest):
        asked.append(list(requests))
        return original(model, frame, requests, *rest)

    def judged(known, frame, view, seen, distance, last_size):
        known.judged.append((view.box, np.zeros(1)))
        return here if len(known.judged) == 1 else there  # the followed box is judged first

    monkeypatch.setattr(search_module, "run_search", watched)
    monkeypatch.setattr(tracker.confidence, "score", judged)
    monkeypatch.setattr(
        "vil_tracker.tracking.tracker.candidate_score", lambda seen: 0.0
    )  # all deserve a look from near


def test_a_doubtful_track_is_given_up_for_a_likelier_place(doubting_tracker, monkeypatch) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.9)
    results = [tracker.update(frame) for frame in frames[:4]]
    assert [len(requests) for requests in asked[:3]] == [1, 1, 1]  # not in doubt yet
    assert [result.state for result in results[:3]] == ["tracking"] * 3
    assert results[3].state == "recovered" and results[3].score == pytest.approx(candidate_posterior(0.9, 0.5))
    np.testing.assert_allclose(
        results[3].box, clip_box(tracker.state.confidence.judged[-1][0], *frames[3].shape[1::-1])
    )
    assert tracker.state.candidate is None and tracker.state.sliding_window is None


def test_a_doubtful_track_goes_on_where_no_place_is_likelier(doubting_tracker, monkeypatch) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.7, there=0.8)
    states = [tracker.update(frame).state for frame in frames[:8]]
    assert states == ["tracking"] * 8
    assert sum(len(requests) > 1 for requests in asked) >= 5  # it looked


@pytest.mark.parametrize("change", [{"redetect_below": 0.0}, {"redetect": False}, {"redetect_below": 0.4}])
def test_without_doubt_a_frame_is_one_crop(doubting_tracker, monkeypatch, change) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.9)
    tracker.config = replace(tracker.config, **change)
    for frame in frames[:6]:
        assert tracker.update(frame).state == "tracking"
    assert [len(requests) for requests in asked] == [1] * 6


def test_what_promises_less_than_the_followed_box_is_not_looked_at_from_near(doubting_tracker, monkeypatch) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.9)
    promises = chain([1.0], repeat(0.5))  # the followed box, then other places
    monkeypatch.setattr("vil_tracker.tracking.tracker.candidate_score", lambda seen: next(promises))
    for frame in frames[:4]:
        assert tracker.update(frame).state == "tracking"
    assert len(asked) == 4 and len(asked[3]) > 1 and tracker.state.candidate is None


def test_a_suspect_at_the_followed_box_is_no_other_place(doubting_tracker, monkeypatch) -> None:
    """A place looked at again may turn out to be the followed one; each crop's view stays with its request."""
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.6)
    for frame in frames[:3]:
        tracker.update(frame)
    box = tracker.state.box.copy()
    tracker.state.candidate = RedetectionCandidate.best_of(box, 0.9, 1)
    monkeypatch.setattr("vil_tracker.tracking.tracker.iou", lambda a, b: np.float64(1.0))  # all that is seen is there
    assert tracker.update(frames[3]).state == "tracking"
    assert len(asked[3]) > 2 and tracker.state.candidate is None
    assert len(tracker.state.confidence.judged) == 2  # the followed box and the suspect, nothing from near
