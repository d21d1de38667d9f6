"""The search over the whole frame: it covers everything, at a bounded cost, from near to far."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from track_clips import peak_calibration, scene, small_network

from vil_tracker.boxes import centred_box, clip_box
from vil_tracker.config import TrackConfig
from vil_tracker.models.verifier import scan_grid
from vil_tracker.tracking import search as search_module
from vil_tracker.tracking.confidence import ConfidenceEstimator, appearance
from vil_tracker.tracking.redetect import (
    PART,
    REST,
    RIVALS,
    PlaceSearch,
    RedetectionCandidate,
    candidate_posterior,
    frame_parts,
)
from vil_tracker.tracking.search import SearchRequest
from vil_tracker.tracking.tracker import Tracker


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 2000), st.integers(2, 2000), st.floats(2, 900), st.floats(2, 900))
def test_a_box_anywhere_in_the_frame_lies_whole_in_a_part_of_bounded_size(
    width: int, height: int, box_width: float, box_height: float
) -> None:
    box_size = np.array([box_width, box_height])
    parts = frame_parts(width, height, box_size)
    for x1, y1, x2, y2 in parts:
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert np.all([x2 - x1, y2 - y1] <= PART * box_size + 2)
    fits = np.minimum(box_size, (width, height))
    for corner in np.random.default_rng(0).uniform(0, 1, (12, 2)) * ((width, height) - fits):
        inside = np.concatenate([corner, -corner - fits]) >= np.array([[x1, y1, -x2, -y2] for x1, y1, x2, y2 in parts])
        assert inside.all(axis=1).any()


def _alike(*places: tuple[float, float]):
    """Similarity by distance: 5 at the first place, 4 at the second, and so on, 0 far from all of them."""

    def similarity_map(picture: np.ndarray, box_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, centres = scan_grid(picture.shape[1], picture.shape[0], box_size)
        near = [np.exp(-((centres - place) ** 2).sum(1) / 200) * (5 - rank) for rank, place in enumerate(places)]
        return centres, np.max(near, axis=0)

    return similarity_map


FRAME, BOX_SIZE = np.zeros((200, 200, 3), np.uint8), np.array([20.0, 20.0])


def test_the_places_most_like_the_target_are_looked_at_first_and_then_rest() -> None:
    search, similarity_map = PlaceSearch(), _alike((150, 150), (50, 150), (150, 50))
    visited = [search.places(FRAME, np.zeros(2), BOX_SIZE, similarity_map, [], 2) for _ in range(2)]
    (first, second), (third, _) = visited
    assert np.abs(first - (150, 150)).max() < 10 and np.abs(second - (50, 150)).max() < 10
    assert np.abs(third - (150, 50)).max() < 10  # the first two rest
    for _ in range(REST):
        search.places(FRAME, np.zeros(2), BOX_SIZE, similarity_map, [], 0)
    np.testing.assert_array_equal(search.places(FRAME, np.zeros(2), BOX_SIZE, similarity_map, [], 1), [first])


def test_what_is_looked_at_anyway_or_too_little_alike_is_passed_over() -> None:
    similarity_map = _alike((150, 150), (50, 150))
    (place,) = PlaceSearch().places(FRAME, np.zeros(2), BOX_SIZE, similarity_map, [np.array([148.0, 155.0])], 1)
    assert np.abs(place - (50, 150)).max() < 10
    assert PlaceSearch().places(FRAME, np.zeros(2), BOX_SIZE, similarity_map, [], 1, least=5.5) == []


def test_the_search_widens_from_the_last_place_to_the_whole_frame() -> None:
    frame, search, seen = np.zeros((270, 480, 3), np.uint8), PlaceSearch(), []
    parts = frame_parts(480, 270, np.array([8.0, 8.0]))

    def similarity_map(picture: np.ndarray, box_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(picture.ctypes.data)
        return np.zeros((1, 2)), np.zeros(1)

    centres = [
        search.places(frame, np.array([50.0, 60.0]), np.array([8.0, 8.0]), similarity_map, [], 1)
        for _ in range(len(parts))
    ]
    assert len(set(seen)) == len(parts)  # each part once
    reach = [np.hypot(*(corner - (50, 60))) for (corner,) in filter(len, centres)]
    assert reach[0] < reach[-1]


def test_a_change_of_frame_size_is_taken_in_stride() -> None:
    search = PlaceSearch()
    for width, height in ((480, 270), (1, 1), (1920, 1080), (30, 700)):
        frame = np.zeros((height, width, 3), np.uint8)
        for x, y in search.places(frame, np.array([9.0, 9.0]), np.array([10.0, 10.0]), _alike((5, 5)), [], 3):
            assert 0 <= x <= width and 0 <= y <= height


@pytest.fixture
def lost_tracker() -> tuple[Tracker, list[np.ndarray]]:
    network = small_network()
    network.calibration = peak_calibration(bias=-9.0, slope=0.0).to_json()  # never sure
    frames, boxes = scene(0, 14)
    tracker = Tracker(network, TrackConfig(lost_after=2))
    tracker.init(frames[0], boxes[0])
    return tracker, frames[1:]


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_the_user_bounds_the_crops_of_a_frame(lost_tracker, monkeypatch, limit: int) -> None:
    tracker, frames = lost_tracker
    tracker.config = replace(tracker.config, max_crops=limit)
    asked = _watch(monkeypatch)
    costs, states = [], []
    for frame in frames:
        before = len(asked)
        states.append(tracker.update(frame).state)
        costs.append(len(asked) - before)
    assert states[:2] == ["uncertain", "lost"] and set(states[2:]) == {"lost"}
    assert costs[:2] == [1, 1] and max(costs) == limit


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[SearchRequest]:
    """All crops that are asked for from now on."""
    asked: list[SearchRequest] = []
    original = search_module.run_search

    def watched(model, frame, requests, *rest):
        asked.extend(requests)
        return original(model, frame, requests, *rest)

    monkeypatch.setattr(search_module, "run_search", watched)
    return asked


def test_recovery_needs_a_match_with_the_first_template(lost_tracker) -> None:
    tracker, frames = lost_tracker
    results = [tracker.update(frame) for frame in frames[:5]]
    assert results[-1].state == "lost" and results[-1].score < 0.1
    tracker.confidence = ConfidenceEstimator(peak_calibration(bias=9.0, slope=0.0))  # everything matches
    assert tracker.update(frames[5]).state == "recovered"
    assert tracker.state is not None and tracker.state.search is None
    assert tracker.update(frames[6]).state == "recovered"


def test_the_search_can_be_switched_off(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    tracker.config = TrackConfig(lost_after=2, redetect=False)
    asked = _watch(monkeypatch)
    assert [tracker.update(frame).state for frame in frames[:5]][-1] == "lost"
    assert len(asked) == 5


def _lost_for_a_while(tracker: Tracker, frames: list[np.ndarray]) -> None:
    for frame in frames[:4]:
        tracker.update(frame)
    tracker.state.search, tracker.state.candidate = None, None


def test_what_the_verifier_takes_for_the_target_is_looked_at(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    _lost_for_a_while(tracker, frames)
    asked = _watch(monkeypatch)
    wanted = (frames[4].shape[1] - 12.0, 12.0)
    monkeypatch.setattr(tracker.confidence, "similarity_map", lambda known, *picture: _alike(wanted)(*picture))
    tracker.update(frames[4])
    here, place = asked
    box_size = tracker.state.confidence.first.box[2:]
    assert np.all(np.abs((place.geometry.cx - wanted[0], place.geometry.cy - wanted[1])) < box_size)
    assert np.abs((here.geometry.cx - wanted[0], here.geometry.cy - wanted[1])).max() > box_size.max()


def test_a_new_place_needs_better_evidence_than_a_known_one() -> None:
    """Bayes: a match with odds of 3 to 1 at either of two places alike has odds of 3 to 2."""
    box = np.array([1.0, 2.0, 3.0, 4.0])
    assert RIVALS == 2 and RedetectionCandidate.first_seen(box, 0.75).probability == pytest.approx(0.6)
    assert RedetectionCandidate.first_seen(box, 0.0).probability < 1e-5
    assert RedetectionCandidate.first_seen(box, 1.0).probability > 1 - 1e-5


def test_looking_again_multiplies_the_odds_of_a_place() -> None:
    """Odds of 3 : 1 at the better of two places, 3 : 1 again in the next frame: 3 * 3 / 2. A denial undoes it."""
    first = RedetectionCandidate.first_seen(np.array([1.0, 2.0, 3.0, 4.0]), 0.75)
    second = first.seen_again(np.array([5.0, 6.0, 3.0, 4.0]), 0.75, 1.0)
    assert second is not None and second.probability == pytest.approx(9 / 11) and second.box[0] == 5.0
    assert second.score == pytest.approx(0.75)  # by the last look alone
    assert first.seen_again(first.box, 0.2, 1.0) is None  # 3 / 2 / 4 is below 1 / 2


def test_the_second_place_may_turn_out_to_be_the_target(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    tracker.config = replace(tracker.config, max_crops=3)
    _lost_for_a_while(tracker, frames)
    judged: list[np.ndarray] = []
    right = iter([0.01, 0.3, 0.999])  # the last place, then two others

    def score(state, frame, view, *_):
        judged.append(view.box)
        return next(right)

    monkeypatch.setattr(tracker.confidence, "score", score)
    result = tracker.update(frames[4])
    assert result.state == "recovered"
    np.testing.assert_allclose(result.box, clip_box(judged[2], frames[4].shape[1], frames[4].shape[0]))


def test_a_place_that_looks_right_twice_ends_the_search(lost_tracker, monkeypatch) -> None:
    """Where one look at a place is not enough, a second one is."""
    tracker, frames = lost_tracker
    tracker.config = replace(tracker.config, max_crops=3)
    _lost_for_a_while(tracker, frames)
    # The last place and two others; then the last place, the candidate, and another.
    right = chain([0.01, 0.8, 0.1], [0.01, 0.8], repeat(0.01))
    monkeypatch.setattr(tracker.confidence, "score", lambda *_: next(right))
    assert tracker.update(frames[4]).state == "lost"
    candidate = tracker.state.candidate
    assert candidate is not None and candidate.probability == pytest.approx(4 / 6)
    result = tracker.update(frames[5])
    assert result.state == "recovered" and result.score == pytest.approx(16 / 18)
    assert tracker.state.candidate is None


def test_with_one_crop_to_spare_the_candidate_and_new_places_take_turns(lost_tracker, monkeypatch) -> None:
    tracker, frames = lost_tracker
    _lost_for_a_while(tracker, frames)
    tracker.state.sure_size = 8.0  # so that there are places enough
    asked = _watch(monkeypatch)
    monkeypatch.setattr(tracker.confidence, "score", lambda *_: 0.6)  # a candidate, and never more than that
    tracker.state.candidate = known = RedetectionCandidate.first_seen(np.array([4.0, 4.0, 20.0, 20.0]), 0.7)
    monkeypatch.setattr(RedetectionCandidate, "seen_again", lambda *_: known)
    for frame in frames[4:8]:
        tracker.update(frame)
    at_candidate = [abs(one.geometry.cx - 14) < 1 and abs(one.geometry.cy - 14) < 1 for one in asked[1::2]]
    assert len(asked) == 8 and at_candidate in ([True, False] * 2, [False, True] * 2)


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
    tracker = Tracker(network, TrackConfig(score_gain=1.0, redetect_after=3, max_crops=3))
    tracker.init(frames[0], boxes[0])
    return tracker, frames[1:], []


def _judge_by_crop(monkeypatch, tracker: Tracker, asked: list[list[SearchRequest]], here: float, there: float) -> None:
    """Give the box that is followed one score, and what is seen anywhere else another one, and note what is asked."""
    original = search_module.run_search

    def watched(model, frame, requests, *rest):
        asked.append(list(requests))
        views = original(model, frame, requests, *rest)
        if len(asked) > 4 and requests[0].context is None:  # a search: something small in the middle of each crop
            middles = [np.array([view.geometry.cx, view.geometry.cy]) for view in views]
            return [replace(v, box=centred_box(m, np.full(2, 8.0))) for v, m in zip(views, middles, strict=True)]
        return views

    def judged(known, frame, view, seen, distance, last_size):
        known.judged.append((view.box, np.zeros(1)))
        return here if len(known.judged) == 1 else there  # the followed box is judged first

    monkeypatch.setattr(search_module, "run_search", watched)
    monkeypatch.setattr(tracker.confidence, "score", judged)
    monkeypatch.setattr(tracker.confidence, "similarity_map", lambda known, *picture: _alike((9, 9), (99, 9))(*picture))


def test_a_doubtful_track_is_given_up_for_a_likelier_place(doubting_tracker, monkeypatch) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.95)
    results = [tracker.update(frame) for frame in frames[:4]]
    assert [len(requests) for requests in asked[:3]] == [1, 1, 1]  # not in doubt yet
    assert [result.state for result in results[:3]] == ["tracking"] * 3
    assert results[3].state == "recovered" and results[3].score == pytest.approx(candidate_posterior(9.5 / 10.5, 0.5))
    np.testing.assert_allclose(results[3].box, clip_box(tracker.state.confidence.judged[1][0], *frames[3].shape[1::-1]))
    assert tracker.state.candidate is None and tracker.state.search is None


def test_a_doubtful_track_goes_on_where_no_place_is_likelier(doubting_tracker, monkeypatch) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.7, there=0.8)
    states = [tracker.update(frame).state for frame in frames[:8]]
    assert states == ["tracking"] * 8
    assert sum(map(len, asked)) > 8 + 3  # it looked


@pytest.mark.parametrize("change", [{"redetect_below": 0.0}, {"redetect": False}, {"redetect_below": 0.4}])
def test_without_doubt_a_frame_is_one_crop(doubting_tracker, monkeypatch, change) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.9)
    tracker.config = replace(tracker.config, **change)
    for frame in frames[:6]:
        assert tracker.update(frame).state == "tracking"
    assert [len(requests) for requests in asked] == [1] * 6


@pytest.mark.parametrize(
    ("there", "fall", "state"),
    [
        ((5.0, 1.0), 2.5, "recovered"),
        ((2.5, 1.0), 2.5, "tracking"),
        ((5.0, 0.0), 2.5, "tracking"),
        ((5.0, 1.0), 9.0, ""),
    ],
    ids=["clearly more alike", "little more alike", "does not fit", "has not fallen enough"],
)
def test_a_box_that_scores_high_but_is_no_longer_alike(doubting_tracker, monkeypatch, there, fall, state) -> None:
    """Whose similarity has fallen from 4 to -1: given up for what is clearly more alike, whatever the scores."""
    tracker, frames, asked = doubting_tracker
    tracker.config = replace(tracker.config, redetect_fall=fall)
    monkeypatch.setattr("vil_tracker.tracking.tracker.UNLIKE_AFTER", 4)
    tracker.state.confidence.similarity_ema = 4.0
    _judge_by_crop(monkeypatch, tracker, asked, here=0.95, there=0.96)
    monkeypatch.setattr(tracker.confidence, "update", lambda *_: None)
    described = appearance

    def described_as(view, *rest):
        return replace(described(view, *rest), alike=there if view.box[2] == 8.0 else (-1.0, -1.0))

    monkeypatch.setattr("vil_tracker.tracking.confidence.appearance", described_as)
    states = [tracker.update(frame).state for frame in frames[:4]]
    assert states == ["tracking"] * 3 + [state or "tracking"]
    assert [len(requests) for requests in asked] == [1] * 4 + [2] * bool(state)


def test_what_is_less_like_the_target_than_the_followed_box_is_not_looked_at(doubting_tracker, monkeypatch) -> None:
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.9)
    described = appearance
    monkeypatch.setattr(
        "vil_tracker.tracking.confidence.appearance",
        lambda view, *rest: replace(described(view, *rest), alike=(6.0, 0.0)),
    )
    for frame in frames[:4]:
        assert tracker.update(frame).state == "tracking"
    assert [len(requests) for requests in asked] == [1] * 4 and tracker.state.candidate is None


def test_a_candidate_at_the_followed_box_is_no_other_place(doubting_tracker, monkeypatch) -> None:
    """A place looked at again may turn out to be the followed one."""
    tracker, frames, asked = doubting_tracker
    _judge_by_crop(monkeypatch, tracker, asked, here=0.5, there=0.6)
    for frame in frames[:3]:
        tracker.update(frame)
    tracker.state.candidate = RedetectionCandidate.first_seen(tracker.state.box.copy(), 0.9)
    monkeypatch.setattr("vil_tracker.tracking.tracker.iou", lambda a, b: np.float64(1.0))  # all that is seen is there
    assert tracker.update(frames[3]).state == "tracking"
    assert len(asked[4]) == 2 and tracker.state.candidate is None
    assert len(tracker.state.confidence.judged) == 2  # the followed box and the candidate, not the new place
