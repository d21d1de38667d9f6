"""What lies below a data root: the data sets that were recognised, how complete they are, and what is wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vil_tracker.data.index import load_index
from vil_tracker.data.readers import BENCHMARK_READERS, FOLDER_READERS, READERS, Reader
from vil_tracker.data.readers.base import Place
from vil_tracker.data.root import search_folders
from vil_tracker.errors import UserError


@dataclass(frozen=True)
class SplitReport:
    """One split of one data set; what only a scan finds is None or empty without.

    Attributes:
        found: sequences (pictures, for stills) on the disk.
        official: how many there should be, None where there is no such number.
        missing: names on the official list that are not on the disk.
        frames, missing_frames: annotated frames, and those whose file is not there.
        problems: sequences that cannot be used and why.
        note: why the split could not be listed, "" if it could.
    """

    split: str
    found: int
    official: int | None
    missing: tuple[str, ...] = ()
    frames: int | None = None
    missing_frames: int | None = None
    problems: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class DataSetReport:
    """One data set in one folder."""

    name: str
    title: str
    folder: Path
    splits: tuple[SplitReport, ...]


#: Readers of everything with an official layout, training sets first.
OFFICIAL_READERS = (*READERS.values(), *BENCHMARK_READERS.values())


def survey(root: Path, scan: bool = False, cache_dir: Place | None = None) -> list[DataSetReport]:
    """Look for data sets below ``root``; with ``scan`` also read every annotation (through the index cached in
    ``cache_dir``), which finds broken files and missing frames.
    """
    reports: list[DataSetReport] = []
    for folder, _ in search_folders(root):
        official = [reader for reader in OFFICIAL_READERS if reader.matches(folder)]
        if not official and any(report.folder in folder.parents for report in reports):
            continue  # a part of a data set that was already reported (GOT-10k's train)
        own = [reader for reader in FOLDER_READERS.values() if reader.matches(folder)]
        for reader in official or own[:1]:
            splits = reader.sizes or (reader.splits if official else reader.splits[:1])
            name = reader.name if official else f"folder:{Path(os.path.relpath(folder, root)).as_posix()}"
            found = tuple(_split_report(reader, folder, split, scan, cache_dir) for split in splits)
            reports.append(DataSetReport(name, reader.title, folder, found))
    return reports


def _split_report(reader: Reader, folder: Path, split: str, scan: bool, cache_dir: Place | None) -> SplitReport:
    official = reader.sizes.get(split)
    try:
        found, missing = reader.count(folder, split)
    except UserError as error:
        return SplitReport(split, 0, official, note=str(error))
    if not scan or not found or split.startswith("vot_"):  # the vot splits are parts of train
        return SplitReport(split, found, official, missing)
    try:
        index = load_index(reader, folder, split, cache_dir)
    except UserError as error:
        return SplitReport(split, found, official, missing, problems=(str(error),))
    return SplitReport(split, found, official, missing, int(index.starts[-1]), index.missing_frames, index.problems)
