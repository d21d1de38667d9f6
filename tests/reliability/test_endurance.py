"""Long runs: memory and open files stay where they were after warming up, and answers what they were at first.

The figures go to the test's output.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_files import picture, tiny_network

from vil_tracker import cli
from vil_tracker.config import TrackConfig
from vil_tracker.io.box_writers import BOX_FORMATS
from vil_tracker.io.source import Frame, Source
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.results import Result
from vil_tracker.tracking.confidence_model import CONFIDENCE_FEATURES, ConfidenceModel
from vil_tracker.tracking.run import OutputSettings, track_source
from vil_tracker.tracking.select import targets_from_boxes
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.videos import VideoReader

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

LIMIT = 20.0  # MB
BOX = np.array([8.0, 4.0, 20.0, 10.0])


def resident() -> float:
    """Resident memory in MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class Gauge:
    """Takes memory, files and threads at intervals; the first reading is after warming up."""

    def __init__(self, count: int) -> None:
        self._from, self._every = count // 5, max(2, count // 10) // 2 * 2
        self.readings: list[tuple[float, int, int]] = []

    def record(self, number: int) -> None:
        if number >= self._from and number % self._every == 0:
            self.readings.append((resident(), open_files(), threading.active_count()))

    def check(self, what: str) -> None:
        memory, files, threads = (np.array(column) for column in zip(*self.readings, strict=True))
        growth = float(memory.max() - memory[0])
        print(f"{what}: {growth:+.1f} MB, open files {files.min()} to {files.max()}, {len(memory)} readings")
        assert growth <= LIMIT
        assert files.max() - files.min() <= 1 and threads.max() - threads.min() <= 1


def calibrated_network() -> ViLTrackerNet:
    """A tiny network whose score follows the map's peak, so that every state, lost included, is passed through."""
    network = tiny_network()
    output = np.zeros(len(CONFIDENCE_FEATURES) + 2)
    output[CONFIDENCE_FEATURES.index("colours")], output[-1] = 12.0, -4.0
    count = len(CONFIDENCE_FEATURES)
    network.calibration = ConfidenceModel(np.zeros(count), np.ones(count), np.zeros((1, count + 1)), output).to_json()
    return network


def black(number: int) -> bool:
    return number % 300 > 260


def frame(number: int) -> np.ndarray:
    """A scene that moves; every 300 frames the picture goes black for a while, so that the target is lost."""
    if black(number):
        return np.zeros((64, 96, 3), np.uint8)
    return np.roll(_SCENE, (number % 7, 2 * number), axis=(0, 1))


_SCENE = picture(1)


def answer(result: Result) -> tuple[object, ...]:
    """What a result says, to be compared bit for bit."""
    return *result.box.tolist(), result.score, result.state


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_long_video(count: int) -> None:
    tracker = Tracker(calibrated_network(), TrackConfig())
    tracker.init(frame(0), BOX)
    gauge, states, first = Gauge(count), set(), []
    for number in range(1, count + 1):
        result = tracker.update(frame(number))
        states.add(result.state)
        assert np.isfinite(result.box).all()
        if black(number) and black(number - 20):
            assert result.state == "lost"
        if number <= count // 5:
            first.append(answer(result))
        gauge.record(number)
    gauge.check(f"{count} frames")
    assert {"tracking", "uncertain", "lost"} <= states
    tracker.init(frame(0), BOX)  # the same session begun again answers as it did at first
    assert [answer(tracker.update(frame(number))) for number in range(1, count // 5 + 1)] == first


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_videos_one_after_another(count: int) -> None:
    network, gauge = calibrated_network(), Gauge(count)
    first: dict[int, list[object]] = {}
    for number in range(count):
        video, tracker = number % 20, Tracker(network)
        tracker.init(frame(video), BOX)
        answers = [answer(tracker.update(frame(video + step))) for step in range(1, 4)]
        assert first.setdefault(video, answers) == answers
        gauge.record(number)
    gauge.check(f"{count} cycles of init and update")
    assert len({str(answers) for answers in first.values()}) == 20


class Endless(Source):
    """A source of so many frames, made on the spot."""

    name, fps, live = "endless", 25.0, False

    def __init__(self, count: int) -> None:
        self.total: int | None = count

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.total or 0):
            yield Frame(number, number / self.fps, frame(number))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_long_run_with_every_output(count: int, tmp_path: Path) -> None:
    network, gauge = calibrated_network(), Gauge(count)
    settings = OutputSettings(
        tmp_path / "out",
        tuple(BOX_FORMATS),
        codec="h264",
        target_clip=True,
        strip=True,
        contact_sheet=True,
        score_plot=True,
    )
    summary = track_source(
        Endless(count),
        lambda first: targets_from_boxes([BOX, BOX + 5]),
        lambda: Tracker(network),
        settings,
        progress=False,
        on_frame=lambda shown, results: gauge.record(shown.number),
    )
    assert summary.frames == count
    gauge.check(f"{count} frames, two targets, every output")
    rows = [json.loads(line) for line in (tmp_path / "out/boxes.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == [number for number in range(count) for _ in range(2)]
    assert len(list((tmp_path / "out/labels").glob("*.txt"))) == count
    with VideoReader(next((tmp_path / "out").glob("annotated*.mp4"))) as video:
        assert sum(1 for _ in video) == count
    for place, box in enumerate((BOX, BOX + 5)):  # what each of the two is by itself
        alone = Tracker(network)
        alone.init(frame(0), box)
        for row in rows[2 + place : 2 * (count // 5) : 2]:
            expected = alone.update(frame(row["frame"]))
            assert row["state"] == expected.state
            assert [row[key] for key in "xywh"] == pytest.approx(expected.box.tolist(), abs=0.01)


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_commands_in_one_process(count: int, files: Path, tmp_path: Path, command_line, capfd) -> None:
    """Opening and closing everything: video, network, outputs; every second command is refused."""
    gauge, outputs = Gauge(count), set()
    for number in range(count):
        source = files / ("clip.mp4" if number % 2 else "broken_second")
        words = ["track", str(source), "--box", "8,4,20,10", "--weights", str(files / "tiny.safetensors"), "-q"]
        words += ["--device", "cpu", "--frames", "3", "--no-video", "-o", str(tmp_path / "out")]
        assert cli.main(words) == (0 if number % 2 else 2)
        if number % 2:
            outputs.add((tmp_path / "out/boxes.csv").read_text())
        gauge.record(number)
    assert len(outputs) == 1
    capfd.readouterr()
    with capfd.disabled():
        gauge.check(f"{count} commands")
