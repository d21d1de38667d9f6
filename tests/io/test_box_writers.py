"""Box files: what stands in them, and that none takes the place of another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vil_tracker.io.box_writers import CocoBoxes, YoloBoxes
from vil_tracker.io.source import Frame
from vil_tracker.results import Result

IMAGE = np.zeros((64, 96, 3), np.uint8)
NAMES = ["part1/0.png", "part2/0.png", "part2/0.jpg", "1.png"]


def frame(number: int, name: str | None = None) -> Frame:
    return Frame(number, number / 25, IMAGE, name)


def result(number: int, state: str = "tracking") -> Result:
    return Result(np.array([10.0 + number, 4.0, 20.0, 10.0]), 0.5, state)


def write(output, frames: list[Frame]) -> None:
    for item in frames:
        output.write(item, {1: result(item.number)})
    output.finish()


def test_pictures_of_equal_stems_keep_their_labels(tmp_path: Path) -> None:
    frames = [frame(number, name) for number, name in enumerate(NAMES)]
    write(YoloBoxes(tmp_path / "labels"), frames)
    found = {str(p.relative_to(tmp_path / "labels")): p.read_text() for p in (tmp_path / "labels").rglob("*.txt")}
    assert sorted(found) == ["1.txt", "part1/0.txt", "part2/0.jpg.txt", "part2/0.txt"]
    for number, name in enumerate(["part1/0.txt", "part2/0.txt", "part2/0.jpg.txt", "1.txt"]):
        assert round(float(found[name].split()[1]) * 96, 3) == 20 + number
    write(CocoBoxes(tmp_path / "boxes.json"), frames)
    assert [image["file_name"] for image in json.loads((tmp_path / "boxes.json").read_text())["images"]] == NAMES
