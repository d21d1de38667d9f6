"""LaSOT_ext (Fan et al., IJCV 2021): 15 further classes × 10 sequences, for testing only."""

from __future__ import annotations

from typing import ClassVar

from vil_tracker.data.readers.lasot import LaSOT

_CLASSES = (
    "atv badminton cosplay dancingshoe footbag frisbee jianzi lantern misc opossum paddle raccoon rhino skatingshoe "
    "wingsuit"
).split()


class LaSOTExtension(LaSOT):
    """The extension subset, laid out as LaSOT; it may lie in LaSOT's own folder or beside it."""

    name = "lasot_ext"
    title = "LaSOT_ext"
    splits = ("test",)
    sizes: ClassVar[dict[str, int]] = {"test": 150}
    layout = """\
LaSOT_extension_subset/         (any name; LaSOT's own folder is fine)
  atv/
    atv-1/
      groundtruth.txt           x,y,w,h per line
      full_occlusion.txt        0 and 1, one line with commas
      out_of_view.txt           0 and 1, one line with commas
      img/00000001.jpg …
  badminton/ …"""

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(f"{group}-{number}" for group in _CLASSES for number in range(1, 11))
