"""Box files: what stands in them, and that none takes the place of another."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from vil_tracker.io.box_writers import CocoBoxes, CvatTracks, LabelStudioTracks, YoloBoxes
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


def test_cvat_tracks_are_outside_while_lost(tmp_path: Path) -> None:
    output = CvatTracks(tmp_path / "a.xml")
    for number in range(4):
        states = {1: result(number, "lost" if number == 2 else "tracking")}
        if number >= 2:
            states[3] = result(number)
        output.write(frame(number), states)
    output.finish()
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert root.findtext("version") == "1.1" and root.findtext("meta/task/original_size/width") == "96"
    assert root.findtext("meta/task/size") == "4" and root.findtext("meta/task/labels/label/name") == "target"
    first, second = root.findall("track")
    assert (first.get("id"), second.get("id"), first.get("label")) == ("0", "2", "target")
    assert [(box.get("frame"), box.get("outside")) for box in first] == [("0", "0"), ("1", "0"), ("2", "1"), ("3", "0")]
    assert [box.get("frame") for box in second] == ["2", "3"]
    corners = [float(second[0].get(name) or "nan") for name in ("xtl", "ytl", "xbr", "ybr")]
    assert corners == [12, 4, 32, 14] and second[0].get("keyframe") == "1"


def test_label_studio_regions_are_disabled_while_lost(tmp_path: Path) -> None:
    output = LabelStudioTracks(tmp_path / "a.json")
    for number in range(3):
        output.write(frame(number), {1: result(number, "lost" if number == 1 else "tracking"), 2: result(number)})
    output.finish()
    (task,) = json.loads((tmp_path / "a.json").read_text())
    regions = task["predictions"][0]["result"]
    assert [region["id"] for region in regions] == ["target-1", "target-2"]
    value = regions[0]["value"]
    assert value["labels"] == ["target"] and value["framesCount"] == 3
    assert [(key["frame"], key["enabled"]) for key in value["sequence"]] == [(1, True), (2, False), (3, True)]
    place = value["sequence"][2]
    assert [place[key] for key in ("x", "y", "width", "height")] == [12.5, 6.25, 20.8333, 15.625]
    assert place["time"] == 0.08


def test_formats_without_a_frame_are_whole_files(tmp_path: Path) -> None:
    for kind in (CvatTracks, LabelStudioTracks):
        kind(tmp_path / kind.__name__).finish()
    ElementTree.parse(tmp_path / "CvatTracks")
    assert json.loads((tmp_path / "LabelStudioTracks").read_text())[0]["predictions"][0]["result"] == []
