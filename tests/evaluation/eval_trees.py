"""Small data sets on the disk for the evaluation tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def jpeg(width: int = 64, height: int = 48) -> bytes:
    """A small grey picture."""
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), 127, np.uint8))
    assert done
    return data.tobytes()


def write_frames(folder: Path, numbers: range, pattern: str = "{:04d}.jpg", picture: bytes | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = picture or jpeg()
    for number in numbers:
        (folder / pattern.format(number)).write_bytes(data)


def write_boxes(path: Path, boxes: np.ndarray, separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(f"{value:g}" for value in row) + "\n" for row in boxes))


def moving_boxes(count: int, step: float = 1.0, size: tuple[float, float] = (12.0, 9.0)) -> np.ndarray:
    """Boxes that move right by `step` pixels a frame, from (4, 5)."""
    start = np.array([4.0, 5.0, *size])
    return start + np.arange(count)[:, None] * np.array([step, 0.0, 0.0, 0.0])


def make_folder_benchmark(root: Path, lengths: dict[str, int]) -> Path:
    """Sequences in OTB's layout with one target each."""
    for name, length in lengths.items():
        write_frames(root / name / "img", range(1, length + 1))
        write_boxes(root / name / "groundtruth_rect.txt", moving_boxes(length))
    return root
