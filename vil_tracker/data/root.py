"""One data root: every data set lies somewhere below it and is found by its layout.

There is no file of paths to fill in. The root comes from ``--data-root`` or the environment variable VIL_DATA; folder
names do not matter, links are followed, and a data set may lie up to two folders deep (``ROOT/tracking/LaSOT``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from vil_tracker.data.readers import FOLDER_READERS, READERS, Reader, get_reader
from vil_tracker.data.readers.base import Place, subfolders
from vil_tracker.errors import UserError

VARIABLE = "VIL_DATA"
DEPTH = 2
_BREADTH = 2000  # directory entries looked at per folder: a folder of frames must not hold up the search


def data_root(choice: Place | None = None) -> Path:
    """The data root: ``choice`` (the option ``--data-root``), else VIL_DATA.

    Raises:
        UserError: neither is given, or the folder does not exist.
    """
    text = os.fspath(choice) if choice else os.environ.get(VARIABLE, "")
    if not text:
        raise UserError(f"where is the data? give --data-root DIR or set {VARIABLE} (vil-tracker doctor shows layouts)")
    root = Path(text).expanduser()
    if not root.is_dir():
        source = "--data-root" if choice else VARIABLE
        raise UserError(f"data root {root} ({source}) is not a folder: check the path")
    return root


def search_folders(root: Path) -> Iterator[tuple[Path, list[Reader]]]:
    """Folders that may hold a data set, nearest to the root first, and the readers of :data:`READERS` that recognise
    them. A recognised folder is not searched further.
    """
    level = [root]
    for depth in range(DEPTH + 1):
        open_ends = []
        for folder in level:
            readers = [reader for reader in READERS.values() if reader.matches(folder)]
            yield folder, readers
            if not readers:
                open_ends.append(folder)
        if depth < DEPTH:
            level = [child for folder in open_ends for child in subfolders(folder, limit=_BREADTH)]


def find_all(root: Path) -> dict[str, list[Path]]:
    """Where below ``root`` each data set of :data:`READERS` lies; usually one folder each."""
    found: dict[str, list[Path]] = {name: [] for name in READERS}
    for folder, readers in search_folders(root):
        for reader in readers:
            found[reader.name].append(folder)
    return found


def find_dataset(reader: Reader, root: Path, places: Mapping[str, list[Path]] | None = None) -> Path:
    """The folder of one data set below ``root``, of the ``places`` that :func:`find_all` found where they are given.

    Raises:
        UserError: it is not there (the message says what the layout must look like), or it is there twice.
    """
    matches = (places or find_all(root))[reader.name]
    if not matches:
        raise UserError(
            f"no {reader.title} below {root}: vil-tracker doctor --data-root {root} shows the layout that is expected"
        )
    if len(matches) > 1:
        names = " and ".join(map(str, matches[:3]))
        raise UserError(f"{reader.title} is there more than once, in {names}: give one of them as --data-root")
    return matches[0]


def find_reader(name: str, choice: Place | None, places: Mapping[str, list[Path]] | None = None) -> tuple[Reader, Path]:
    """The reader and the folder that a data set's name stands for: a name of :data:`READERS`, or ``folder:PATH`` for
    one's own data. A relative PATH is looked for below the data root and, where there is none, below the current
    folder.

    Raises:
        UserError: unknown name, no data root, data set not found or not recognised.
    """
    if not name.startswith("folder:"):
        reader = get_reader(name)
        return reader, find_dataset(reader, data_root(choice), places)
    path = Path(name.removeprefix("folder:")).expanduser()
    if not path.is_absolute() and (choice or os.environ.get(VARIABLE)):
        path = data_root(choice) / path
    return folder_reader(path), path


def folder_reader(path: Path) -> Reader:
    """The reader for a folder of one's own.

    Raises:
        UserError: it is no folder, or no layout fits; the message names the layouts.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: check the path")
    for reader in (*FOLDER_READERS.values(), *READERS.values()):
        if reader.matches(path):
            return reader
    kinds = "; ".join(reader.title for reader in FOLDER_READERS.values())
    raise UserError(f"{path} has none of the known layouts ({kinds}): see docs/howto/own_data.md")
