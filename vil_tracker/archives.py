"""Unpacking archives from strangers: nothing leaves its folder, nothing grows without bound, nothing half-done stays.

Zip and tar archives (plain, gzip, bzip2, xz) are read once, front to back, into a hidden folder; only when the last
byte has been checked do the files move to their place. Links, devices and pipes are refused: no data set needs them,
and through a link an archive could write anywhere.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from vil_tracker.errors import UserError, make_folder, writing

_CHUNK = 1 << 20
_MAX_DEPTH = 32
_MAX_HEADER = 1 << 20  # bytes of a tar extension header, which is held in memory
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"^[A-Za-z]:")
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


@dataclass(frozen=True)
class Limits:
    """How far an archive may expand.

    Attributes:
        total_bytes: of all files together.
        ratio: expanded bytes per byte of the archive. Pictures hardly compress and box files shrink twentyfold; the
            formats allow a thousandfold and more, which is what decompression bombs use.
        free_bytes: expansion that is allowed whatever the ratio.
        entries: files and folders.
    """

    total_bytes: int = 500 * 10**9
    ratio: float = 100.0
    free_bytes: int = 64 * 2**20
    entries: int = 5_000_000


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked: the folder, and how many files and bytes."""

    folder: Path
    files: int
    size: int


class _Readable(Protocol):
    def read(self, size: int = ...) -> bytes: ...


class _Budget:
    """Counts what comes out of an archive and stops it at the limits."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._archive, self._limits = archive, limits
        self._bytes = self._entries = 0
        self._allowed = max(limits.ratio * archive.stat().st_size, limits.free_bytes)

    def entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise UserError(
                f"{self._archive} has over {self._limits.entries} entries: get it from its authors, or do not use it"
            )

    def expect(self, count: int) -> None:
        """``count`` bytes are about to come: refuse before they do."""
        self._check(self._bytes + count)

    def spend(self, count: int) -> None:
        """``count`` bytes came."""
        self._bytes += count
        self._check(self._bytes)

    def _check(self, size: int) -> None:
        if size > self._limits.total_bytes:
            gigabytes = self._limits.total_bytes / 1e9
            raise UserError(f"{self._archive} expands to over {gigabytes:g} GB: give --max-gb if that is right")
        if size > self._allowed:
            raise UserError(
                f"{self._archive} expands over {self._limits.ratio:g} times its size, as only decompression bombs do: "
                "get it from its authors"
            )


class _Counted:
    """A decompressed tar stream whose bytes, headers included, are counted."""

    def __init__(self, stream: _Readable, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int = _CHUNK) -> bytes:
        data = self._stream.read(min(size, _CHUNK))
        self._budget.spend(len(data))
        return data


class _Member(tarfile.TarInfo):
    """A tar header. A damaged one is an error wherever it stands (tarfile takes it for the end of the archive), and an
    extension header (long names, attributes) of any size is not taken into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        try:
            member = cast(_Member, super().frombuf(buf, encoding, errors))
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # a block of zeros is the true end
                raise
            raise tarfile.ReadError(str(error)) from error
        if member.type in _EXTENSIONS and member.size > _MAX_HEADER:
            raise tarfile.ReadError(f"an entry's header takes {member.size} bytes")
        return member


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str], limits: Limits | None = None) -> Unpacked:
    """Unpack an archive into a folder, all or nothing.

    Files are added to what the folder holds already, as the parts of a data set need; none is replaced. Modification
    times, owners and permissions of the archive are not taken over.

    Args:
        archive: .zip or .tar, the latter also compressed by gzip, bzip2 or xz; recognised by its content.
        folder: made where it does not exist.
        limits: on the expansion.

    Raises:
        UserError: no such file, not an archive, damaged or encrypted, an entry that would leave the folder or is a
            link or a device, too large, or a file that is there already. The folder is then as it was.
    """
    source, target = Path(archive), Path(folder)
    if not source.is_file():
        raise UserError(f"archive {source} does not exist: check the path")
    if not os.access(source, os.R_OK):
        raise UserError(f"archive {source} may not be read: check its permissions")
    budget = _Budget(source, limits or Limits())
    with writing(target):
        made = [place for place in (target, *target.parents) if not place.exists()]
    make_folder(target)
    try:
        with writing(target):
            staging = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target))
            try:
                files, size = _extract(source, staging, budget)
                _merge(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise
    return Unpacked(target, files, size)


def _extract(source: Path, staging: Path, budget: _Budget) -> tuple[int, int]:
    """Write every file of the archive below ``staging``; returns their number and bytes."""
    try:
        entries = _zip_entries(source, budget) if zipfile.is_zipfile(source) else _tar_entries(source, budget)
        files = size = 0
        for name, stream in entries:
            place = staging.joinpath(*_safe_parts(source, name))
            try:
                if stream is None:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "xb") as out:
                    while chunk := stream.read(_CHUNK):
                        out.write(chunk)
                        size += len(chunk)
            except (FileExistsError, NotADirectoryError) as error:
                raise UserError(
                    f"{source} holds {_shown(name)} twice: get it from its authors, or do not use it"
                ) from error
            files += 1
    except (*_DAMAGE, OSError) as error:
        # gzip and bzip2 raise an OSError without a number for bad content, seeking to a place that cannot be EINVAL
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"archive {source} is damaged ({reason}): download it again") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or compressed by a method that Python lacks
        raise UserError(f"archive {source} cannot be unpacked ({error}): unpack it with another program") from error
    if not files:
        raise UserError(f"archive {source} holds no file: download it again")
    return files, size


def _zip_entries(source: Path, budget: _Budget) -> Iterator[tuple[str, _Readable | None]]:
    with zipfile.ZipFile(source) as archive:
        listing = archive.infolist()
        budget.expect(sum(info.file_size for info in listing))
        for info in listing:
            budget.entry()
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _no_plain_file(source, info.filename)
            if info.is_dir():
                yield info.filename, None
                continue
            with archive.open(info) as stream:
                yield info.filename, _Counted(stream, budget)


def _tar_entries(source: Path, budget: _Budget) -> Iterator[tuple[str, _Readable | None]]:
    with _decompressed(source) as stream:
        counted = _Counted(stream, budget)
        try:
            archive = tarfile.open(fileobj=cast(Any, counted), mode="r|", tarinfo=_Member)
        except tarfile.ReadError as error:
            raise UserError(f"{source} is no zip or tar archive, or a damaged one: download it again") from error
        with archive:
            for member in archive:
                budget.entry()
                if member.isdir():
                    yield member.name, None
                elif member.isreg() and not member.issparse():
                    budget.expect(member.size)
                    content = archive.extractfile(member)
                    assert content is not None  # only links and devices have none
                    yield member.name, content
                else:
                    raise _no_plain_file(source, member.name)
                cast(Any, archive).members.clear()  # a stream is never gone back in: do not keep every header


def _decompressed(source: Path) -> IO[bytes]:
    with open(source, "rb") as raw:
        head = raw.read(6)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    opener = next((opener for magic, opener in openers.items() if head.startswith(magic)), open)
    return cast(IO[bytes], opener(source, "rb"))


def _safe_parts(source: Path, name: str) -> tuple[str, ...]:
    """The parts of an entry's name, or a UserError if it could name anything outside the folder."""
    text = name.replace("\\", "/")  # archives written on Windows, and those that hope nobody looks
    path = PurePosixPath(text)
    if path.is_absolute() or _DRIVE.match(text) or ".." in path.parts:
        raise UserError(f"{source} would write outside its folder ({_shown(name)}): do not use this archive")
    if not path.parts or _CONTROL.search(text) or len(path.parts) > _MAX_DEPTH:
        raise UserError(f"{source} holds a name that no file should have ({_shown(name)}): do not use it")
    return path.parts


def _no_plain_file(source: Path, name: str) -> UserError:
    return UserError(f"{source} holds a link or a device ({_shown(name)}), which no data set needs: do not use it")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _merge(staging: Path, target: Path) -> None:
    """Move what was unpacked into place; nothing moves if anything is in the way."""
    moves: list[tuple[Path, Path]] = []
    _plan(staging, target, moves)
    for made, place in moves:
        made.rename(place)


def _plan(staging: Path, target: Path, moves: list[tuple[Path, Path]]) -> None:
    for made in sorted(staging.iterdir()):
        place = target / made.name
        if not os.path.lexists(place):
            moves.append((made, place))
        elif place.is_symlink() or made.is_file() or place.is_file():
            raise UserError(f"{place} is there already: remove it, or unpack into another folder")
        else:
            _plan(made, place, moves)
