"""DTB70 (Li, Yeung: AAAI 2017): 70 videos from drones."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.otb_like import OTBLike


class DTB70(OTBLike):
    """DTB70 as unpacked from its archive. Its sequences are those with a box file; there is no list besides them."""

    name = "dtb70"
    title = "DTB70"
    url = "https://github.com/flyers/drone-tracking"
    splits = ("test",)
    sizes: ClassVar[dict[str, int]] = {"test": 70}
    layout = """\
DTB70/                          (any name)
  Animal1/
    groundtruth_rect.txt        x,y,w,h per line
    img/00001.jpg …
  Animal2/ …"""

    def matches(self, folder: Path) -> bool:
        return any((folder / name / "img").is_dir() for name in ("Animal1", "Surfing06", "Gull1", "ChasingDrones"))
