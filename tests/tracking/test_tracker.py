"""The basic session: what init and update promise, and that nothing leaks from one video into another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from track_clips import scene, small_network

from vil_tracker.boxes import centred_box
from vil_tracker.config import TrackConfig
from vil_tracker.data.crops import CropGeometry, crop, geometry_for_box, mean_colour, to_input
from vil_tracker.data.sequence import make_sequence
from vil_tracker.errors import UserError
from vil_tracker.evaluation.run import track_sequence
from vil_tracker.images import write_image
from vil_tracker.io.files import open_source
from vil_tracker.models.head import hann_window
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.network import NetworkOutput
from vil_tracker.results import Result
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking.run import OutputSettings, track_source
from vil_tracker.tracking.search import SearchOutput, SearchRequest
from vil_tracker.tracking.select import Target
from vil_tracker.tracking.tracker import Tracker


def run(tracker: Tracker, frames: list[np.ndarray], box: np.ndarray) -> list[Result]:
    return [tracker.init(frames[0], box)] + [tracker.update(frame) for frame in frames[1:]]


def same(a: list[Result], b: list[Result]) -> bool:
    return all(
        np.array_equal(x.box, y.box) and x.score == y.score and x.state == y.state for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module", params=[True, False], ids=["calibrated", "plain"])
def network(request):
    return small_network(calibrated=request.param)


def test_first_result_is_the_given_box(network) -> None:
    frames, boxes = scene(0, 1)
    result = Tracker(network).init(frames[0], boxes[0])
    assert np.array_equal(result.box, boxes[0]) and result.score == 1.0 and result.state == "tracking"


def test_the_session_is_crop_network_decode() -> None:
    """One plain step, written out by hand with the joint forward pass instead of the cached memory."""
    network, (frames, boxes) = small_network(calibrated=False), scene(1, 2)
    config = network.config
    near = geometry_for_box(boxes[0], config.template_factor, config.template_size)
    wide = geometry_for_box(boxes[0], config.search_factor, config.search_size).snapped()
    with torch.no_grad():
        output = network(
            to_input(crop(frames[0], near))[None, None],
            torch.tensor(near.to_crop(boxes[0]), dtype=torch.float32)[None, None],
            to_input(crop(frames[1], wide, mean_colour(frames[1])))[None],
        )
        box, score = network.decode(output, hann_window(5, TrackConfig().window))
    expected = wide.to_image(box[0].double().numpy())
    tracker = Tracker(network, TrackConfig(smooth=False))
    tracker.init(frames[0], boxes[0])
    result = tracker.update(frames[1])
    clipped = np.array([max(expected[0], 0), max(expected[1], 0)])
    assert np.allclose(result.box[:2], clipped, atol=1e-3)
    assert result.score == pytest.approx(float(score[0]), abs=1e-5)


class Rounded(InferenceNetwork):
    """Answers that differ by what another runtime rounds differently."""

    def forward_search(self, *args) -> NetworkOutput:
        output = super().forward_search(*args)
        disturb = torch.Generator().manual_seed(0)
        parts = (part + 3e-7 * torch.randn(part.shape, generator=disturb) for part in output[1:3])
        return output._replace(**dict(zip(("offset", "size"), parts, strict=True)))


def test_rounding_is_not_fed_back(network) -> None:
    """Crops around boxes that differ by a rounding are the same, so the boxes stay that near for good."""
    frames, boxes = scene(8, 60)
    plain, rounded = (run(Tracker(model), frames, boxes[0]) for model in (network, Rounded(network)))
    apart = [float(np.abs(a.box - b.box).max()) for a, b in zip(plain, rounded, strict=True)]
    assert max(apart) < 1e-3 and max(apart[30:]) > 0


def test_the_filter_changes_what_is_reported_not_where_is_searched(network) -> None:
    frames, boxes = scene(9, 20)
    runs = {}
    for smooth in (True, False):
        tracker = Tracker(network, TrackConfig(smooth=smooth))
        tracker.init(frames[0], boxes[0])
        runs[smooth] = [(tracker.update(frame), tracker.state.box) for frame in frames[1:]]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(runs[True], runs[False], strict=True))
    assert all(np.array_equal(result.box, found) for result, found in runs[False])
    assert any(not np.array_equal(result.box, found) for result, found in runs[True])


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_the_crop_follows_the_size_of_the_boxes_with_a_lag(gain: float) -> None:
    """Boxes that are three times as wide and high from the second frame on."""
    network, (frames, _) = small_network(calibrated=False), scene(9, 4)
    tracker = Tracker(network, TrackConfig(size_gain=gain, calibrated=False, smooth=False))
    tracker.init(frames[0], (60.0, 40.0, 10.0, 10.0))
    sides = []
    for frame in frames[1:]:
        steps = tracker.steps(frame)
        (request,) = next(steps)
        sides.append(request.geometry.side)
        centre = np.array([request.geometry.cx, request.geometry.cy])
        box = centred_box(centre, np.array([30.0, 30.0]))
        with pytest.raises(StopIteration) as end:
            steps.send([seen_at(request, box)])
        np.testing.assert_allclose(end.value.value.box, box)  # it is the crop that lags, not the answer
    size = 10 * 3 ** np.array([0, gain, gain + (1 - gain) * gain])
    np.testing.assert_allclose(sides, network.config.search_factor * size, rtol=1e-3)


def test_the_crop_keeps_its_size_while_the_target_is_lost() -> None:
    network, (frames, _) = small_network(calibrated=True), scene(9, 3)
    tracker = Tracker(network, TrackConfig(redetect=False))
    tracker.init(frames[0], (60.0, 40.0, 10.0, 10.0))
    assert tracker.state is not None
    tracker.state.phase.name = "lost"
    for frame in frames[1:]:
        steps = tracker.steps(frame)
        (request,) = next(steps)
        assert request.geometry.side == network.config.search_factor * 10
        with pytest.raises(StopIteration):
            steps.send([seen_at(request, np.array([30.0, 20.0, 50.0, 40.0]))])
        assert tracker.state.phase.name == "lost"


def seen_at(request: SearchRequest, box: np.ndarray) -> SearchOutput:
    """What a network might have seen in a crop, with its best box at ``box`` (4,) xywh."""
    geometry, grid = request.geometry, 4
    pixels = np.zeros((geometry.size, geometry.size, 3), np.uint8)
    logits, features = np.full((grid, grid), -8.0), torch.zeros(grid**2, 32)
    maps = np.full((2, grid, grid), 0.5)
    return SearchOutput(geometry, pixels, box, geometry.to_crop(box), 0.01, logits, maps, maps, features, None)


def test_snapped_crops_stay_where_they_are() -> None:
    rng = np.random.default_rng(0)
    for side in (8.0, 63.9, 64.0, 700.3, 5000.0):
        for _ in range(50):
            geometry = CropGeometry(*rng.uniform(-50, 3000, 2), side * rng.uniform(1, 2), 128)
            snapped = geometry.snapped()
            moved = np.abs([getattr(snapped, name) - getattr(geometry, name) for name in ("cx", "cy", "side")])
            assert moved.max() <= geometry.side / 4096 and snapped.snapped() == snapped
            np.testing.assert_allclose(snapped.to_image(snapped.to_crop([3, 4, 50, 60])), [3, 4, 50, 60], atol=1e-9)


def test_a_new_init_starts_from_nothing(network) -> None:
    frames, boxes = scene(2, 12)
    other, other_boxes = scene(3, 12)
    fresh = run(Tracker(network), frames, boxes[0])
    used = Tracker(network)
    run(used, other, other_boxes[0])
    assert same(run(used, frames, boxes[0]), fresh)


def test_same_run_twice_bit_for_bit(network) -> None:
    frames, boxes = scene(4, 12)
    assert same(run(Tracker(network), frames, boxes[0]), run(Tracker(network), frames, boxes[0]))


def test_two_interleaved_sessions_equal_each_alone(network) -> None:
    (a, a_boxes), (b, b_boxes) = scene(5, 15), scene(6, 15, (160, 70))
    alone = run(Tracker(network), a, a_boxes[0]), run(Tracker(network), b, b_boxes[0])
    first, second = Tracker(network), Tracker(network)
    mixed: tuple[list[Result], list[Result]] = ([first.init(a[0], a_boxes[0])], [second.init(b[0], b_boxes[0])])
    for frame_a, frame_b in zip(a[1:], b[1:], strict=True):
        mixed[0].append(first.update(frame_a))
        mixed[1].append(second.update(frame_b))
    assert same(mixed[0], alone[0]) and same(mixed[1], alone[1])


def test_video_path_and_benchmark_path_give_identical_boxes(network, tmp_path: Path) -> None:
    frames, boxes = scene(7, 10)
    for index, frame in enumerate(frames):
        write_image(tmp_path / "in" / f"{index:04d}.png", frame)
    sequence = make_sequence("s", "own", frames, boxes)
    benchmark = track_sequence(Tracker(network), sequence)
    video: list[Result] = []
    track_source(
        open_source(str(tmp_path / "in")),
        lambda first: [Target(1, boxes[0])],
        lambda: Tracker(network),
        OutputSettings(tmp_path / "out", video=False),
        progress=False,
        on_frame=lambda frame, results: video.append(results[1]),
    )
    assert np.array_equal(np.stack([result.box for result in video]), benchmark.boxes)
    assert [result.score for result in video[1:]] == list(benchmark.scores[1:])


def test_frames_may_change_size(network) -> None:
    frames, boxes = scene(8, 4)
    tracker = Tracker(network)
    tracker.init(frames[0], boxes[0])
    for frame in (frames[1], frames[2][:40, :50], np.tile(frames[3], (3, 3, 1)), frames[3][:1, :1]):
        x, y, w, h = tracker.update(np.ascontiguousarray(frame)).box
        assert w > 0 and h > 0 and 0 <= x and 0 <= y and x + w <= frame.shape[1] and y + h <= frame.shape[0]


def test_temporal_context_can_be_switched_off() -> None:
    network, (frames, boxes) = small_network(calibrated=False), scene(9, 8)
    on = Tracker(network, TrackConfig(context_confidence=0.0))
    off = Tracker(network, TrackConfig(temporal=False))
    with_context, without = run(on, frames, boxes[0]), run(off, frames, boxes[0])
    assert on.state is not None and on.state.context is not None
    assert off.state is not None and off.state.context is None
    assert not same(with_context, without)
    bare = small_network(calibrated=False, temporal=False)
    assert len(run(Tracker(bare), frames, boxes[0])) == 8


def test_an_unconfident_frame_teaches_nothing() -> None:
    network, (frames, boxes) = small_network(calibrated=False), scene(10, 5)
    tracker = Tracker(network, TrackConfig(context_confidence=1.0))
    run(tracker, frames, boxes[0])
    assert tracker.state is not None and tracker.state.context is None


def test_update_before_init_and_poor_frames_are_refused(network) -> None:
    tracker = Tracker(network)
    with pytest.raises(UserError, match="call init"):
        tracker.update(np.zeros((4, 4, 3), np.uint8))
    for poor in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None):
        with pytest.raises(UserError, match="frame"):
            tracker.init(poor, (0, 0, 2, 2))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="outside"):
        tracker.init(np.zeros((4, 4, 3), np.uint8), (9, 9, 2, 2))
    assert tracker.state is None


def test_a_failed_update_leaves_the_session_as_it_was(network) -> None:
    frames, boxes = scene(11, 4)
    undisturbed = run(Tracker(network), frames, boxes[0])
    tracker = Tracker(network)
    results = [tracker.init(frames[0], boxes[0])]
    for frame in frames[1:]:
        with pytest.raises(UserError):
            tracker.update(frame[..., 0])
        results.append(tracker.update(frame))
    assert same(results, undisturbed)


def test_the_timer_hears_of_crop_and_network(network) -> None:
    frames, boxes = scene(12, 3)
    timer = StageTimer()
    run(Tracker(network, timer=timer), frames, boxes[0])
    assert set(timer.seconds) == {"crop", "network"}


def test_the_window_peaks_at_the_centre() -> None:
    window = hann_window(7, 0.6)
    assert window.argmax() == 24 and window.max() == 1 and window.min() >= 0.4
    assert torch.equal(hann_window(5, 0.0), torch.ones(5, 5))
