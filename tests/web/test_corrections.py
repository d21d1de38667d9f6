"""Corrections on the page: any frame can be seen, and a run goes on from a box with what was right before kept."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import web_fakes as fakes
from web_fakes import Visitor

from vil_tracker import cli
from vil_tracker.errors import UserError
from vil_tracker.results import Result, TrackerLike
from vil_tracker.tracking.cli import track
from vil_tracker.videos import VideoReader
from vil_tracker.web.frames import FrameService
from vil_tracker.web.limits import Limits
from vil_tracker.web.requests import RequestError
from vil_tracker.web.store import QuotaExceeded, Video
from vil_tracker.web.work import FrameReader, run_track

OTHER = [60.0, 10.0, 30.0, 20.0]


class CountingTracker(fakes.PatchTracker):
    """Keeps its templates over corrections, as the real one does, and counts the frames it is asked for."""

    updates_of_all = 0

    def init(self, frame: np.ndarray, box: np.ndarray) -> Result:
        self.templates: list[np.ndarray] = []
        return self.correct(frame, box)

    def correct(self, frame: np.ndarray, box: np.ndarray) -> Result:
        result = super().init(frame, box)
        self.templates.append(self.template)
        return result

    def update(self, frame: np.ndarray) -> Result:
        type(self).updates_of_all += 1
        number = self.updates % len(self.templates)
        self.template = self.templates[number]
        return super().update(frame)


def load_counting_tracker() -> Callable[[], TrackerLike]:
    return CountingTracker


def target(*boxes: list[float]) -> dict[str, Any]:
    return {"name": "", "boxes": list(boxes)}


def of_command_line(video: Path, words: list[str], folder: Path) -> str:
    args: argparse.Namespace = cli.build_parser("track").parse_args(
        ["track", str(video), "--no-video", "--output", str(folder), *words]
    )
    args.quiet = True
    assert track(args, load_counting_tracker) == 0
    return (folder / "boxes.csv").read_text()


def text(frame: int, box: list[float], number: int = 1) -> str:
    return f"{number}@{frame}:{','.join(map(str, box))}"


def test_what_was_right_is_kept(clip: Path, tmp_path: Path) -> None:
    """Each run takes over all it can from the one before, and gives what the command line gives."""
    first, later = [0, *fakes.BOX], [30, 80.0, 40.0, 24.0, 24.0]
    box, other = (",".join(map(str, given)) for given in (fakes.BOX, OTHER))
    earlier = tmp_path / "none"
    cases: list[tuple[list[dict[str, Any]], list[str], int]] = [  # targets, words, frames that are searched
        ([target(first)], [], 49),
        ([target(first, later)], ["--correct", text(30, later[1:])], 20),  # frame 30 itself and those after it
        ([target(first, later), target([0, *OTHER])], ["--correct", text(30, later[1:]), "--box", other], 49),
        ([target(first, [20, *OTHER], later), target([0, *OTHER])], [], 30),
        ([target(first), target([0, *OTHER])], ["--box", other], 49),  # a correction is taken back
        ([target(first), target([0, *OTHER])], ["--box", other], 0),
    ]
    for number, (targets, words, searched) in enumerate(cases):
        folder = tmp_path / f"run{number}"
        CountingTracker.updates_of_all = 0
        result = run_track(clip, folder, targets, CountingTracker, Limits(), lambda rows: None, lambda: False, earlier)
        assert CountingTracker.updates_of_all == searched, number
        assert result["frames"] == 50
        if words or number == 0:
            expected = of_command_line(clip, ["--box", box, *words], tmp_path / f"line{number}")
            assert (folder / "boxes.csv").read_text() == expected
        earlier = folder


def test_stop_redraw_and_go_on(clip: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    targets = [target([0, *fakes.BOX]), target([10, *OTHER])]
    whole = of_command_line_with_late_target(clip, tmp_path)

    def run(name: str, stop_at: int, earlier: str) -> dict[str, Any]:
        seen.clear()
        CountingTracker.updates_of_all = 0
        return run_track(
            clip,
            tmp_path / name,
            targets,
            CountingTracker,
            Limits(frames=stop_at),
            seen.extend,
            lambda: False,
            tmp_path / earlier,
        )

    assert run("part", 25, "none")["limited"]
    assert [row[:2] for row in seen][:12] == [[frame, 1] for frame in range(10)] + [[10, 1], [10, 2]]
    assert seen[0][4:] == [*fakes.BOX, 0.0] and seen[-1][8] == 24 / 25
    run("whole", 100, "part")
    assert CountingTracker.updates_of_all == 49 + 39  # of a stopped run nothing but the boxes is known: all again
    assert (tmp_path / "whole" / "boxes.csv").read_text() == whole
    targets[0]["boxes"].append([25, 70, 40, 24, 24])
    run("corrected", 100, "part")
    assert CountingTracker.updates_of_all == 25 + 39  # but for a target with a box there
    rows = (tmp_path / "corrected" / "boxes.csv").read_text().splitlines()
    assert rows[:36] == whole.splitlines()[:36] and rows != whole.splitlines()


def of_command_line_with_late_target(clip: Path, folder: Path) -> str:
    boxes = "\n".join(",".join(map(str, row)) for row in ([0, 1, *fakes.BOX], [10, 2, *OTHER]))
    (folder / "table.csv").write_text(f"frame,id,x,y,w,h\n{boxes}\n")
    return of_command_line(clip, ["--boxes", str(folder / "table.csv")], folder / "line")


def test_any_frame_can_be_seen(server: tuple[str, Path], clip: Path) -> None:
    expected = list(VideoReader(clip))
    frames = FrameReader(Limits())
    for number in (0, 1, 49, 47, 3, 20, 19, 49):
        assert (frames.read(clip, number) == expected[number]).all()
    with pytest.raises(UserError, match="no frame 50"):
        frames.read(clip, 50)
    assert (frames.read(clip, 2) == expected[2]).all()
    frames.close()

    me, other = Visitor(server[0]), Visitor(server[0])
    video = me.upload(clip).json["id"]
    answer = me.ask("GET", f"/api/videos/{video}/frames/33")
    picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert answer.headers["content-type"] == "image/jpeg" and np.abs(picture.astype(int) - expected[33]).mean() < 4
    assert me.ask("GET", f"/api/videos/{video}/frames/50").status == 400
    for frame in ("-1", "120", "9" * 15, "x"):
        assert me.ask("GET", f"/api/videos/{video}/frames/{frame}").status == 400
    for click in (
        {},
        {"frame": 1},
        {"frame": 120, "point": [1, 1]},
        {"frame": 1, "point": [161, 1]},
        {"frame": 1.0, "point": [1, 1]},
    ):
        assert me.ask("POST", f"/api/videos/{video}/propose", click).status == 400
    assert other.ask("GET", f"/api/videos/{video}/frames/3").status == 404


def test_no_video_stays_open(clip: Path) -> None:
    requests: list[Any] = []

    class Process:
        def call(self, request: Any, timeout: float) -> Any:
            requests.append(request)

    async def visit() -> None:
        service = FrameService(Process(), Limits())  # type: ignore[arg-type]
        video = Video("id", "me", clip.parent, clip, "clip.mp4", {})
        await service.rest()
        await service.ask(video, 3)
        await service.rest()
        await service.rest()
        with pytest.raises(RequestError, match="that many"):
            await service.ask(video, 9000)
        service._visitors += ["me"] * 8
        with pytest.raises(QuotaExceeded):
            await service.ask(video, 3)

    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has an event loop in this thread
        pool.submit(asyncio.run, visit()).result()
    assert requests == [{"path": str(clip), "frame": 3}, {"rest": True}]


def test_a_draft_is_kept(server: tuple[str, Path], clip: Path) -> None:
    me = Visitor(server[0])
    video = me.upload(clip).json["id"]
    before = me.status(video)
    draft = [{"name": "ball \u200b\n", "boxes": [[30, *OTHER], [7, *fakes.BOX]]}]
    assert me.ask("PUT", f"/api/videos/{video}/draft", {"targets": draft}).json == {"edits": before["edits"] + 1}
    assert me.status(video)["draft"] == [{"name": "ball", "boxes": [[7, *fakes.BOX], [30, *OTHER]]}]
    assert me.ask("POST", f"/api/videos/{video}/track", {"targets": me.status(video)["draft"]}).status == 202
    state = me.wait(video)
    assert state["rows"][0][:2] == [7, 1] and state["tracked"] == 43 and state["targets"] == state["draft"]
    assert state["rows"][23] == [30, 1, 1.0, "tracking", *OTHER, 1.2]
