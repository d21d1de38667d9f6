"""Folders of pictures as one file each: an ordinary tar whose first member says where the others begin.

A folder F is packed as ``F/frames.tar``; every reader of F finds the pictures in it. One picture is one read at a known
place, so that a data set of 14 million frames is some 30,000 files and any tool unpacks it again.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from vil_tracker.errors import UserError, atomic_write, reason, writing

ARCHIVE, TABLE = "frames.tar", ".offsets"
BLOCK = 512  # tar's: a header is one, and members are filled up to whole ones
_OPEN_ARCHIVES = 128  # kept open per process, with tables of up to a few megabytes


def write_archive(folder: Path, names: Iterable[str], target: Path) -> None:
    """Pack the named files of ``folder``, in this order, into the archive ``target``; UserError where one cannot be
    read, has a name longer than 99 bytes, or the place cannot be written.
    """
    names = list(names)
    sizes = []
    for name in names:
        if len(os.fsencode(name)) > 99:
            raise UserError(f"{folder / name}: the name is too long for an archive: rename the pictures")
        try:
            sizes.append((folder / name).stat().st_size)
        except OSError as error:
            raise UserError(f"cannot read {folder / name} ({reason(error)}): unpack the sequence again") from error
    listed = "\n".join(names).encode()
    places = np.zeros((len(names), 2), "<i8")
    at = BLOCK + _whole_blocks(8 + places.nbytes + len(listed))
    for row, size in enumerate(sizes):
        places[row] = at + BLOCK, size
        at += BLOCK + _whole_blocks(size)
    table = len(names).to_bytes(8, "little") + places.tobytes() + listed
    with atomic_write(target) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, TABLE, len(table), BytesIO(table))
        for name, size in zip(names, sizes, strict=True):
            with (folder / name).open("rb") as picture:
                _add(archive, name, size, picture)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _add(archive: tarfile.TarFile, name: str, size: int, stream: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, stream)  # type: ignore[arg-type]


class Archive:
    """An open archive: where each picture lies, first byte and length, by name in its order."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - stays open while the cache below holds it
        header = self.file.read(BLOCK)
        if header[: len(TABLE) + 1] != TABLE.encode() + b"\0":
            raise ValueError("its first member is not the table")
        table = self.file.read(int(header[124:135], 8))
        count = int.from_bytes(table[:8], "little")
        places = np.frombuffer(table, "<i8", 2 * count, 8).reshape(-1, 2).tolist()
        names = table[8 + 16 * count :].decode().split("\n") if count else []
        self.places = {name: (begin, size) for name, (begin, size) in zip(names, places, strict=True)}
        if hasattr(os, "posix_fadvise"):  # pictures are asked for in any order: read no more than one
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def read(self, name: str) -> bytes:
        """One picture, or less of it where the archive was cut off; processes and threads may share the file."""
        begin, size = self.places[name]
        return os.pread(self.file.fileno(), size, begin)


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _archive(folder: str) -> Archive:
    path = f"{folder}/{ARCHIVE}"
    try:
        return Archive(path)
    except ValueError as error:
        raise UserError(f"{path} is no archive of pictures ({error}): make it with vil-tracker data pack") from error


def packed_names(folder: Path) -> list[str]:
    """The pictures in a folder's archive, in its order, none where it has no archive; UserError where it is damaged."""
    try:
        return list(_archive(os.fspath(folder)).places)
    except OSError:
        return []


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, or of the picture of that name in its folder's archive; OSError where neither is there,
    UserError where the archive is damaged.
    """
    folder, name = os.path.split(os.fspath(path))
    if folder not in _packed:
        try:
            with open(path, "rb") as stream:
                return stream.read()
        except FileNotFoundError as missing:
            try:
                _archive(folder)
            except OSError:
                raise missing from None
            _packed.add(folder)
    archive = _archive(folder)
    if name not in archive.places:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    content = archive.read(name)
    if len(content) != archive.places[name][1]:
        raise UserError(f"{folder}/{ARCHIVE} ends before {name}: it was cut off, pack it again")
    return content


_packed: set[str] = set()  # folders whose pictures are in their archive: no look for the single file


def pack_tree(source: Path, target: Path, endings: frozenset[str], workers: int = 8) -> tuple[int, int]:
    """Copy a data set to ``target``: each folder's pictures as one archive, all other files as they are.

    What is in ``target`` already is left alone, so that an interrupted copy goes on where it stopped. ``endings`` are
    those of pictures in lower case, with their dots. Returns the number of pictures and of archives. UserError where a
    file cannot be read or written, or one folder lies inside the other.
    """
    source, target = source.resolve(), target.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise UserError(f"cannot pack {source} into {target}: choose a folder outside it")

    def pack(where: str, names: list[str]) -> int:
        folder = Path(where)
        inside = target / folder.relative_to(source)
        pictures = sorted(name for name in names if os.path.splitext(name)[1].lower() in endings)
        with writing(inside):
            inside.mkdir(parents=True, exist_ok=True)
            for name in set(names) - set(pictures):
                if not (inside / name).exists():
                    half = inside / f".{name}.tmp"
                    shutil.copy2(folder / name, half)
                    half.replace(inside / name)
        if pictures and not (inside / ARCHIVE).exists():
            write_archive(folder, pictures, inside / ARCHIVE)
        return len(pictures)

    with ThreadPoolExecutor(workers) as pool:
        counts = list(pool.map(lambda entry: pack(entry[0], entry[2]), os.walk(source, followlinks=True)))
    return sum(counts), sum(count > 0 for count in counts)
