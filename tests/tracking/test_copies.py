"""Trackers and networks copied, pickled, forked, saved in mid-video, or used under PyTorch's global switches."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from track_clips import scene, small_network

from vil_tracker import Tracker, load_model, track
from vil_tracker.config import TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.results import Result
from vil_tracker.tracking.state_bytes import state_from_bytes, state_to_bytes
from vil_tracker.tracking.tracker import update_together

FRAMES, BOXES = scene(3, 12)


@pytest.fixture(scope="module")
def network() -> ViLTrackerNet:
    return load_model("nano", "cpu")


@pytest.fixture(scope="module")
def expected(network: ViLTrackerNet) -> list[Result]:
    return follow(Tracker(network))


def follow(tracker: Tracker) -> list[Result]:
    return [tracker.init(FRAMES[0], BOXES[0]), *(tracker.update(frame) for frame in FRAMES[1:])]


def assert_same(found: list[Result], right: list[Result]) -> None:
    for mine, other in zip(found, right, strict=True):
        np.testing.assert_array_equal(mine.box, other.box)
        assert (mine.score, mine.state) == (other.score, other.state)


def by_deepcopy(tracker: Tracker) -> Tracker:
    return copy.deepcopy(tracker)


def by_pickle(tracker: Tracker) -> Tracker:
    return pickle.loads(pickle.dumps(tracker))


def by_bytes(tracker: Tracker) -> Tracker:
    other = Tracker(tracker.model)
    assert tracker.state is not None
    other.state = state_from_bytes(state_to_bytes(tracker.state), other.model)
    return other


@pytest.mark.parametrize("duplicate", [by_deepcopy, by_pickle, by_bytes])
def test_a_copy_in_mid_video_goes_on_as_the_tracker_itself(network, expected, duplicate) -> None:
    tracker = Tracker(network)
    tracker.init(FRAMES[0], BOXES[0])
    for frame in FRAMES[1:5]:
        tracker.update(frame)
    other = duplicate(tracker)
    assert_same([other.update(frame) for frame in FRAMES[5:]], expected[5:])
    assert_same([tracker.update(frame) for frame in FRAMES[5:]], expected[5:])  # and is not disturbed by its copy


@pytest.mark.parametrize("duplicate", [by_deepcopy, by_pickle, by_bytes])
def test_a_copy_of_a_tracker_that_is_in_doubt(duplicate) -> None:
    """A search under way, a candidate and a further template are copied, too."""
    tracker = Tracker(small_network(correlation=True), TrackConfig(redetect_below=1.0, redetect_after=1))
    tracker.init(FRAMES[0], BOXES[0])
    tracker.update(FRAMES[1])
    tracker.correct(FRAMES[2], BOXES[2])
    for frame in FRAMES[3:7]:
        tracker.update(frame)
    assert tracker.state is not None and tracker.state.search is not None
    other = duplicate(tracker)
    other.config = tracker.config
    assert_same([other.update(frame) for frame in FRAMES[7:]], [tracker.update(frame) for frame in FRAMES[7:]])


def test_copies_of_networks(network, expected) -> None:
    assert_same(follow(Tracker(pickle.loads(pickle.dumps(network)))), expected)
    assert_same(follow(Tracker(copy.deepcopy(network))), expected)
    reduced = copy.deepcopy(InferenceNetwork(network, "int8", kernel=False))
    assert reduced.precision == "int8" and all(layer.kernel is None for layer in reduced.sublayers)


def test_a_network_in_half_precision_computes_in_single(network, expected) -> None:
    for found, right in zip(follow(Tracker(copy.deepcopy(network).half())), expected, strict=True):
        np.testing.assert_allclose(found.box, right.box, atol=0.5)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "switch",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.autocast("cpu", dtype=torch.float16),
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.float16),
        torch.inference_mode,
    ],
    ids=["autocast", "autocast-half", "float64", "float16", "inference"],
)
def test_global_switches_change_nothing(switch, expected) -> None:
    with switch():
        assert_same(follow(Tracker(load_model("nano", "cpu"))), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_tracks_on(network, expected) -> None:
    """With several threads: without them, OpenMP has nothing to lose."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tracker = Tracker(network)
        tracker.init(FRAMES[0], BOXES[0])
        tracker.update(FRAMES[1])
        child = os.fork()
        if child == 0:
            found = tracker.update(FRAMES[2])
            os._exit(0 if np.allclose(found.box, expected[2].box, atol=0.01) else 1)
        for _ in range(300):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process hangs")
        assert status == 0
    finally:
        torch.set_num_threads(threads)


def test_bytes_that_are_no_state_are_named(network) -> None:
    tracker = Tracker(small_network())
    tracker.init(FRAMES[0], BOXES[0])
    assert tracker.state is not None
    data = state_to_bytes(tracker.state)
    other = Tracker(network).model
    with pytest.raises(UserError, match="4 sublayers of width 16, this one has"):
        state_from_bytes(data, other)
    with pytest.raises(UserError, match="this network is one with correlation, the state is not"):
        state_from_bytes(data, Tracker(small_network(correlation=True)).model)
    with pytest.raises(UserError, match="begin with b'nonsense' are no state"):
        state_from_bytes(b"nonsense", other)
    for cut in (0, 7, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(UserError, match="no state of a tracker, or a damaged one"):
            state_from_bytes(data[:cut], tracker.model)
    with pytest.raises(UserError, match="of version 'vil-tracker state 9'"):
        state_from_bytes(data.replace(b"vil-tracker state 5", b"vil-tracker state 9"), tracker.model)
    with pytest.raises(UserError, match="damaged"):
        state_from_bytes(data.replace(b"TemplateMemory", b"TemplateWemory"), tracker.model)


def test_mistakes_say_what_was_given(network) -> None:
    with pytest.raises(UserError, match="not 'nano'"):
        Tracker("nano")
    with pytest.raises(UserError, match="'10,20,30,40'"):
        Tracker(network).init(FRAMES[0], "10,20,30,40")
    with pytest.raises(UserError, match="'a'"):
        Tracker(network).init(FRAMES[0], ("a", 2, 3, 4))
    with pytest.raises(UserError, match="None"):
        Tracker(network).init(FRAMES[0], None)
    with pytest.raises(UserError, match="not 3"):
        load_model(3)
    with pytest.raises(UserError, match="not {'window': 0.3}"):
        Tracker(network, {"window": 0.3})
    with pytest.raises(UserError, match="not None"):
        track(None, BOXES[0], model=network)
    one, two = Tracker(network), Tracker(network, TrackConfig(window=0.3))
    with pytest.raises(ValueError, match="trackers 0 and 1 of 2 do not share one configuration"):
        update_together([one, two], FRAMES[0])
