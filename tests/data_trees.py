"""Miniature data sets in the official layouts, for the tests of the readers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 24, 16


def jpeg(value: int = 0, grey: bool = False) -> bytes:
    """A small JPEG of one grey level; with ``grey`` it has one channel."""
    shape = (HEIGHT, WIDTH) if grey else (HEIGHT, WIDTH, 3)
    return cv2.imencode(".jpg", np.full(shape, value, np.uint8))[1].tobytes()


_PICTURE = jpeg()


def frames(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(_PICTURE)


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def boxes(count: int, separator: str = ",", start: int = 1) -> str:
    """``count`` lines of boxes; line i starts with i."""
    return "".join(separator.join(map(str, (i, 2, 5, 4))) + "\n" for i in range(start, start + count))


def lasot(root: Path, name: str, count: int = 4, occluded: str = "", unseen: str = "") -> Path:
    sequence = root / name.rpartition("-")[0] / name
    frames(sequence / "img", (f"{i:08d}.jpg" for i in range(1, count + 1)))
    text(sequence / "groundtruth.txt", boxes(count))
    text(sequence / "full_occlusion.txt", occluded or ",".join("0" * count))
    text(sequence / "out_of_view.txt", unseen or ",".join("0" * count) + "\n")
    return sequence


def got10k(root: Path, name: str, count: int = 4, truth: str = "") -> Path:
    part = name.split("_")[1].lower()
    sequence = root / part / name
    frames(sequence, (f"{i:08d}.jpg" for i in range(1, count + 1)))
    text(sequence / "groundtruth.txt", truth or boxes(count))
    if part != "test":
        text(sequence / "absence.label", "0\n" * count)
        text(sequence / "cover.label", "8\n" * count)
        text(sequence / "cut_by_image.label", "0\n" * count)
    return sequence


def trackingnet(root: Path, chunk: str, name: str, count: int = 12, truth: str = "") -> None:
    frames(root / chunk / "frames" / name, (f"{i}.jpg" for i in range(count)))
    text(root / chunk / "anno" / f"{name}.txt", truth or boxes(count))


def coco(root: Path) -> None:
    frames(root / "train2017", ("000000000009.jpg", "000000000025.jpg"))
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in (9, 25, 30, 31)]
    objects = [
        {"id": 1, "image_id": 9, "bbox": [1, 2, 5, 6], "iscrowd": 0, "category_id": 1},
        {"id": 2, "image_id": 25, "bbox": [3, 4, 7, 8], "iscrowd": 0, "category_id": 1},
        {"id": 3, "image_id": 9, "bbox": [0, 0, 0, 6], "iscrowd": 0, "category_id": 1},
        {"id": 4, "image_id": 9, "bbox": [0, 0, 20, 10], "iscrowd": 1, "category_id": 1},
        {"id": 5, "image_id": 30, "bbox": [2, 2, 4, 4], "iscrowd": 0, "category_id": 1},  # its picture is missing
    ]
    text(root / "annotations" / "instances_train2017.json", json.dumps({"images": images, "annotations": objects}))


def vasttrack(root: Path, name: str, count: int = 3, truth: str = "") -> None:
    sequence = root / "unisot_train_final_backup" / name.rpartition("-")[0] / name
    frames(sequence / "imgs", (f"{i:05d}.jpg" for i in range(1, count + 1)))
    text(sequence / "Groundtruth.txt", truth or boxes(count))


def tnl2k(root: Path, part: str, name: str, pictures: tuple[str, ...] = ("a2.png", "a10.png"), truth: str = "") -> None:
    frames(root / part / name / "imgs", pictures)
    text(root / part / name / "groundtruth.txt", truth or boxes(len(pictures)))
    text(root / part / name / "language.txt", "the thing")


def otb(root: Path, name: str, count: int = 3, truth: str = "", truth_name: str = "groundtruth_rect.txt") -> None:
    frames(root / name / "img", (f"{i:04d}.jpg" for i in range(1, count + 1)))
    text(root / name / truth_name, truth or boxes(count))


def video(path: Path, count: int = 5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for i in range(count):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()
