"""The data sets that the project can read: one small reader each, in a registry by name."""

from __future__ import annotations

import difflib

from vil_tracker.data.readers.base import Reader
from vil_tracker.data.readers.coco import COCO, StillsFolder
from vil_tracker.data.readers.dtb70 import DTB70
from vil_tracker.data.readers.got10k import GOT10k
from vil_tracker.data.readers.got10k_like import GOT10kLike
from vil_tracker.data.readers.lasot import LaSOT, LaSOTExtension
from vil_tracker.data.readers.nfs import NfS
from vil_tracker.data.readers.otb import OTB
from vil_tracker.data.readers.otb_like import FramesBesideBoxes, OTBLike
from vil_tracker.data.readers.tnl2k import TNL2K
from vil_tracker.data.readers.trackingnet import TrackingNet
from vil_tracker.data.readers.uav import UAV20L, UAV123
from vil_tracker.data.readers.vasttrack import VastTrack
from vil_tracker.data.readers.video_folder import VideoFolder
from vil_tracker.data.readers.video_folder import video_sequence as video_sequence
from vil_tracker.errors import UserError

#: Data sets with an official layout, found below the data root.
READERS: dict[str, Reader] = {
    r.name: r for r in (LaSOT(), LaSOTExtension(), GOT10k(), TrackingNet(), COCO(), TNL2K(), VastTrack())
}
#: Further ones that are only evaluated on.
BENCHMARK_READERS: dict[str, Reader] = {r.name: r for r in (OTB(), UAV123(), UAV20L(), NfS(), DTB70())}
#: Layouts of one's own folders, in the order in which they are tried.
FOLDER_READERS: dict[str, Reader] = {
    r.name: r for r in (OTBLike(), GOT10kLike(), FramesBesideBoxes(), VideoFolder(), StillsFolder())
}


def unknown_data_set(name: str, *others: str) -> str:
    """The complaint about a name that is neither one of :data:`READERS` nor of ``others``; the nearest one is named."""
    known = (*others, *READERS)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}, or folder:PATH"
    return f"unknown data set {name!r}: {hint}"


def get_reader(name: str) -> Reader:
    """The reader of a data set with an official layout; UserError on an unknown name."""
    if name not in READERS:
        raise UserError(unknown_data_set(name))
    return READERS[name]
