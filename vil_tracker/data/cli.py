"""``vil-tracker data``: index data sets ahead of the runs that use them, or pack their pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vil_tracker.data.readers import Reader

EXAMPLE = "example: vil-tracker data index --data-root /data/tracking lasot:train got10k:train trackingnet coco"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``data`` and its example."""
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    index = actions.add_parser(
        "index",
        help="read every annotation and list every frame, once for all runs",
        description="Make or bring up to date the cached indices of data sets, and say what they hold.",
        epilog=EXAMPLE,
    )
    index.add_argument("names", nargs="*", metavar="NAME[:SPLIT]", help="data sets (default: all that are found)")
    index.add_argument("--data-root", metavar="DIR", help="folder below which the data sets lie (default: VIL_DATA)")
    index.add_argument(
        "--cache-dir", metavar="DIR", type=Path, help="where indices are kept (default: the user's cache folder)"
    )
    pack = actions.add_parser(
        "pack",
        help="copy a data set with one archive in place of each folder of pictures, for network disks",
        description="Copy a data set of any layout. Each folder's pictures become one tar, frames.tar, which is "
        "read as the folder is; other files are copied. Give the same command again to go on after a stop.",
        epilog="example: vil-tracker data pack /data/TrackingNet /network/TrackingNet",
    )
    pack.add_argument("folder", type=Path, metavar="FOLDER", help="the data set's folder")
    pack.add_argument("target", type=Path, metavar="TARGET", help="folder for the copy")


def run(args: argparse.Namespace) -> int:
    """Do what is asked for; returns 0."""
    return _pack(args) if args.action == "pack" else _index(args)


def _pack(args: argparse.Namespace) -> int:
    from vil_tracker.errors import UserError
    from vil_tracker.images import IMAGE_EXTENSIONS
    from vil_tracker.packed import pack_tree

    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder: give that of the data set")
    pictures, archives = pack_tree(args.folder, args.target, IMAGE_EXTENSIONS)
    print(f"{pictures} pictures in {archives} archives below {args.target}")
    return 0


def _index(args: argparse.Namespace) -> int:
    from vil_tracker.data.dataset import open_split
    from vil_tracker.data.readers import READERS
    from vil_tracker.data.root import data_root, find_all, find_dataset
    from vil_tracker.errors import UserError

    root = data_root(args.data_root)
    names = args.names or [name for name, folders in find_all(root).items() if folders]
    if not names:
        raise UserError(f"no data set found below {root}: vil-tracker doctor --data-root {root} shows the layouts")
    for name in names:
        wanted = [name]
        if name in READERS:  # every split that is there; those of VOT are parts of train
            reader, folder = READERS[name], find_dataset(READERS[name], root)
            splits = [split for split in reader.sizes if not split.startswith("vot_")]
            wanted = [f"{name}:{split}" for split in splits if _is_there(reader, folder, split)]
        for text in wanted:
            dataset = open_split(text, data_root=root, cache_dir=args.cache_dir)
            frames = int(dataset.lengths.sum())
            print(f"{dataset.name}:{dataset.split}  {len(dataset)} sequences, {frames} frames  {dataset.folder}")
    return 0


def _is_there(reader: Reader, folder: Path, split: str) -> bool:
    from vil_tracker.errors import UserError

    try:
        return reader.count(folder, split)[0] > 0
    except UserError:
        return False
