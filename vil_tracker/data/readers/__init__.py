"""The data sets that the project can read: one small reader each, in a registry by name."""

from __future__ import annotations

import difflib

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader
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
from vil_tracker.data.readers.video_folder import VideoFolder, video_sequence
from vil_tracker.errors import UserError


def _by_name(*readers: Reader) -> dict[str, Reader]:
    return {reader.name: reader for reader in readers}


#: Data sets with an official layout, found below the data root.
READERS = _by_name(LaSOT(), LaSOTExtension(), GOT10k(), TrackingNet(), COCO(), TNL2K(), VastTrack())
#: Further ones that are only evaluated on.
BENCHMARK_READERS = _by_name(OTB(), UAV123(), UAV20L(), NfS(), DTB70())
#: Layouts of one's own folders, in the order in which they are tried.
FOLDER_READERS = _by_name(OTBLike(), GOT10kLike(), FramesBesideBoxes(), VideoFolder(), StillsFolder())


def get_reader(name: str) -> Reader:
    """The reader of a data set with an official layout.

    Raises:
        UserError: unknown name; the nearest one is named.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name, READERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(READERS)}, or folder:PATH"
        raise UserError(f"unknown data set {name!r}: {hint}")
    return READERS[name]


__all__ = [
    "BENCHMARK_READERS",
    "FOLDER_READERS",
    "READERS",
    "Candidate",
    "Item",
    "Listing",
    "Reader",
    "get_reader",
    "video_sequence",
]
