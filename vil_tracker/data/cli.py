"""``vil-tracker data``: chores around data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from vil_tracker.errors import UserError

EPILOG = """\
examples:
  vil-tracker data unpack train_data.zip --data-root /data/tracking --into GOT-10k
  vil-tracker data unpack my_videos.tar.gz --data-root ~/data

An archive is unpacked completely or not at all, and only into its folder. Files that are there already are never
replaced; parts of one data set go --into the same folder, one after another.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``data`` to the command line."""
    parser = subparsers.add_parser(
        "data",
        help="unpack a data set's archives",
        description="Unpack a data set's archives below the data root, safely.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("action", choices=("unpack",), help="what to do")
    parser.add_argument("archive", metavar="ARCHIVE", help=".zip, .tar, .tar.gz, .tar.bz2 or .tar.xz")
    parser.add_argument("--data-root", metavar="DIR", help="folder below which the data sets lie (default: VIL_DATA)")
    parser.add_argument("--into", metavar="NAME", help="folder below it (default: the archive's name)")
    parser.add_argument(
        "--max-gb", type=float, default=500.0, metavar="N", help="largest size of the unpacked files (default 500)"
    )


def run(args: argparse.Namespace) -> int:
    """Unpack, and say what was found; returns 0."""
    from vil_tracker.archives import Limits, unpack
    from vil_tracker.data.root import data_root

    if not 0 < args.max_gb < 1e9:
        raise UserError(f"--max-gb {args.max_gb:g} is out of range: give gigabytes, such as 500")
    root = data_root(args.data_root)
    name = args.into or Path(args.archive).name.split(".")[0] or "unpacked"
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"--into {name} leaves the data root {root}: give a folder's name")
    unpacked = unpack(args.archive, folder, Limits(total_bytes=int(args.max_gb * 1e9)))
    if not getattr(args, "quiet", False):
        print(f"unpacked {unpacked.files} files, {unpacked.size / 1e6:.1f} MB, into {unpacked.folder}")
        print(_recognised(folder, root))
    return 0


def _recognised(folder: Path, root: Path) -> str:
    from vil_tracker.data.readers import FOLDER_READERS, READERS
    from vil_tracker.data.readers.base import subfolders

    for place in (folder, *subfolders(folder, limit=100)):
        for reader in (*READERS.values(), *FOLDER_READERS.values()):
            if reader.matches(place):
                return f"recognised: {reader.title} in {place}"
    return f"no known layout yet: vil-tracker doctor --data-root {root} --layouts shows what is expected"
