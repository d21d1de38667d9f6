"""Errors that a user can mend, and writes that never leave half a file behind."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any


class UserError(Exception):
    """Bad input or a bad environment. The message is one line: what, where and how to mend it.

    The command line prints it to stderr without a traceback and exits with status 2.
    """


def require_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, such as ``"matplotlib"``, that an extra of pyproject.toml installs.

    ``purpose`` ends the sentence "... is needed to" of the UserError where it is missing, with the command that
    installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} is needed to {purpose} ({error}): install it with  pip install 'vil-tracker[{extra}]'"
        ) from error


def library_advice(error: BaseException) -> str | None:
    """What to do where a package's shared library cannot be loaded; None if that is not what ``error`` says."""
    text = str(error)
    if isinstance(error, ModuleNotFoundError) or not re.search(r"\.so\b|\.dylib|DLL load failed", text):
        return None
    if re.search(r"libGL|libEGL|libgthread|libglib|libSM|libICE|libX|libxcb", text):  # what OpenCV's windows need
        return (
            "install the system's library (apt install libgl1 libglib2.0-0), or OpenCV without windows "
            "(pip uninstall opencv-python; pip install opencv-python-headless)"
        )
    return "install that library with the system's package manager, or install the package again"


def mistaken_for(data: bytes) -> str | None:
    """What stands in a file's place after a download that went wrong, from its first bytes; None if nothing known."""
    head = data[:200].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself (git lfs pull)"
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not the file that it offers"
    return None


def reason(error: BaseException) -> str:
    """Why something could not be read, in a few words without the path, which our own messages name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """A text file as people have it, UTF-8 or UTF-16 with its mark; UserError about ``what`` cannot be read."""
    try:
        data = Path(path).read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what} {os.fspath(path)} ({reason(error)}): check the path") from error


_WRITE_FAULTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a file of that name stands where a folder is needed: choose another path",
    errno.EISDIR: "the path is a folder: give a file name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EFBIG: "the file is larger than the system allows: choose another folder, or raise the limit (ulimit -f)",
    errno.ENOENT: "nothing can be made there: choose another folder",
    errno.ENXIO: "nothing can be made there: choose another folder",
    errno.EINVAL: "the system takes no such name there: choose another one",
    errno.EOPNOTSUPP: "nothing can be made there: choose another folder",
    errno.ESTALE: "the network drive has gone: connect it again or choose another folder",
    errno.ENOTCONN: "the network drive has gone: connect it again or choose another folder",
    errno.EMFILE: "too many files are open: close some, or raise the limit (ulimit -n)",
    errno.EIO: "the disk does not work: choose another one",
}


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals to write ``path`` into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        advice = _WRITE_FAULTS.get(error.errno or 0)
        if advice is None:
            raise
        raise UserError(f"cannot write {os.fspath(path)}: {advice}") from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file so that ``path`` holds either the old content or the whole new one, whatever happens.

    The content goes to a temporary file in the same folder, is flushed to the disk and then renamed. On an exception
    the temporary file is removed and ``path`` stays as it was. Missing parent folders are made. UserError where the
    disk is full or the place cannot be written.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            text = "b" not in mode
            with os.fdopen(handle, mode, encoding="utf-8" if text else None, newline="" if text else None) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; a result file follows the user's umask
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write lines of text with :func:`atomic_write`."""
    with atomic_write(path, "w") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def write_json(path: str | os.PathLike[str], content: Any, **options: Any) -> None:
    """Write JSON with :func:`atomic_write`; ``options`` are those of :func:`json.dumps`."""
    write_lines(path, [json.dumps(content, **{"indent": 2, **options})])


def check_folder(path: str | os.PathLike[str]) -> None:
    """Find out, without making anything, that files can be written to a folder, which need not exist yet; UserError if
    a file stands in the way, or the place is read-only.
    """
    folder = Path(path)
    with writing(folder):
        place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise UserError(f"{place} is a file, but a folder is needed there: choose another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {folder}: choose a folder that you may write to")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder with its parents and return it; UserError where that cannot be, as a file stands in the way."""
    folder = Path(path)
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, but a folder is needed there: choose another path")
        folder.mkdir(parents=True, exist_ok=True)
    return folder
