"""Tracks as drafts for annotation tools: CVAT (video 1.1) and Label Studio."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from vil_tracker.boxes import clip_box, convert
from vil_tracker.errors import writing
from vil_tracker.io.source import Frame
from vil_tracker.results import Result

LABEL = "target"


class _TracksApart:
    """A text file in which a target's boxes follow one another: each target's part waits in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._file: IO[str] = open(path, "w", encoding="utf-8", newline="\n")
        self._parts: dict[int, IO[str]] = {}
        self._size = (0, 0)
        self._count, self._time = 0, 0.0  # frames up to the last one, and its time

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        with writing(self.path):
            height, width = frame.image.shape[:2]
            self._size = (width, height)
            self._count, self._time = frame.number + 1, frame.time
            for number, result in results.items():
                part = self._parts.get(number)
                if part is None:
                    part = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self.path.parent)
                    self._parts[number] = part
                else:
                    part.write(self._between)
                part.write(self._box(frame, result, clip_box(result.box, width, height)))

    _between = ""

    def _box(self, frame: Frame, result: Result, box: np.ndarray) -> str:
        raise NotImplementedError

    def _head(self) -> str:
        raise NotImplementedError

    def _around(self, number: int) -> tuple[str, str]:
        """What stands before and behind a target's boxes."""
        raise NotImplementedError

    def _tail(self) -> str:
        raise NotImplementedError

    def finish(self) -> None:
        with writing(self.path):
            self._file.write(self._head())
            for position, (number, part) in enumerate(sorted(self._parts.items())):
                before, behind = self._around(number)
                self._file.write((self._between if position else "") + before)
                part.seek(0)
                shutil.copyfileobj(part, self._file)
                part.close()
                self._file.write(behind)
            self._file.write(self._tail())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        for stream in (self._file, *self._parts.values()):
            try:
                stream.close()
            except OSError:
                pass  # what is left in the buffer does not fit on the disk; the file goes away anyhow


class CvatTracks(_TracksApart):
    """CVAT for video 1.1: a track per target, every box a key frame, ``outside`` while the target is lost."""

    def _box(self, frame: Frame, result: Result, box: np.ndarray) -> str:
        names = zip(("xtl", "ytl", "xbr", "ybr"), convert(box, "xywh", "xyxy"), strict=True)
        corners = " ".join(f'{name}="{value:.2f}"' for name, value in names)
        outside = int(result.state == "lost")
        return (
            f'    <box frame="{frame.number}" outside="{outside}" occluded="0" keyframe="1" {corners} z_order="0">'
            "</box>\n"
        )

    def _head(self) -> str:
        width, height = self._size
        return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <size>{self._count}</size>
      <mode>interpolation</mode>
      <start_frame>0</start_frame>
      <stop_frame>{max(self._count - 1, 0)}</stop_frame>
      <labels><label><name>{LABEL}</name><type>rectangle</type><attributes></attributes></label></labels>
      <original_size><width>{width}</width><height>{height}</height></original_size>
    </task>
  </meta>
"""

    def _around(self, number: int) -> tuple[str, str]:
        return f'  <track id="{number - 1}" label="{LABEL}" source="auto">\n', "  </track>\n"

    def _tail(self) -> str:
        return "</annotations>\n"


class LabelStudioTracks(_TracksApart):
    """Label Studio, one task with a prediction: a ``videorectangle`` per target in percent of the frame.

    Frames count from 1. A lost target is disabled until it is found again. ``data.video`` is to be replaced by the
    address under which Label Studio finds the video.
    """

    _between = ",\n"

    def _box(self, frame: Frame, result: Result, box: np.ndarray) -> str:
        width, height = self._size
        x, y, w, h = (round(100 * float(v) / s, 4) for v, s in zip(box, (width, height) * 2, strict=True))
        place = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
        shown = {"frame": frame.number + 1, "time": round(frame.time, 4), "enabled": result.state != "lost"}
        return json.dumps(shown | place)

    def _head(self) -> str:
        return '[{"data": {"video": "video"}, "predictions": [{"model_version": "vil-tracker", "result": [\n'

    def _around(self, number: int) -> tuple[str, str]:
        entry = {"id": f"target-{number}", "type": "videorectangle", "from_name": "box", "to_name": "video"}
        value = json.dumps({"labels": [LABEL], "framesCount": self._count, "duration": round(self._time, 4)})
        return json.dumps(entry)[:-1] + f', "value": {value[:-1]}, "sequence": [\n', "\n]}}"

    def _tail(self) -> str:
        return "\n]}]}]\n"
