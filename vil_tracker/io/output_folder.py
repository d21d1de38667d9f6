"""The folder of a run's files, which grow there under names with ``.partial`` and lose it when they are complete.

So an error leaves the files of an earlier run as they were, an interrupted run leaves files that are complete up to
that frame, and a killed one leaves what it had where a person looks for it: ``boxes.csv.partial`` and
``annotated.partial.webm``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from vil_tracker.errors import UserError, make_folder, writing

log = logging.getLogger(__name__)

_LOCK = ".vil-tracker.lock"
_MEDIA = r"(annotated|target-\d+)\.(webm|mp4)|(strip|contact-sheet|scores)\.png"
_BOXES = r"boxes\.(csv|jsonl|mot\.txt|coco\.json|cvat\.xml|label-studio\.json)"
_OUTPUT = re.compile(f"{_BOXES}|labels|{_MEDIA}")
_PARTIAL = re.compile(rf"({_BOXES}|labels)\.partial|(annotated|target-\d+|strip|contact-sheet|scores)\.partial\.\w+")


def partial_name(name: str) -> str:
    """What a file or folder of a run is called until it is complete; pictures and videos keep their ending."""
    if re.fullmatch(_MEDIA, name):
        stem, dot, suffix = name.rpartition(".")
        return f"{stem}.partial{dot}{suffix}"
    return f"{name}.partial"


class OutputFolder:
    """The place of a run's files, for this run alone until it is published or discarded.

    Args:
        path: the folder; made where it does not exist, and removed again by :meth:`discard`. Where it holds files of
            another run, or another run writes to it, it is the first of ``path-2``, ``path-3`` … that does not.
        overwrite: take the place of another run's files in ``path``, once this run's are complete.
        reads: files that this run reads, which are not to be removed as a killed run's leftovers.
        labels: this run writes a folder ``labels``; without, one that is there alone is taken for a person's own.

    Raises:
        UserError: it cannot be written, or ``overwrite`` and another run writes to it now.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, reads: Sequence[Path] = (), labels: bool = True
    ) -> None:
        self._overwrite, self._reads, self._labels = overwrite, {file.absolute() for file in reads}, labels
        wanted = Path(path)
        for self.path in _numbered(wanted):
            with writing(self.path):
                self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
                if self._take():
                    break
            if overwrite:
                raise UserError(f"another run writes to {self.path} now: wait for it, or choose another --output")
        if self.path != wanted:
            log.warning("%s holds another run: the files go to %s (--overwrite replaces that run)", wanted, self.path)

    def _take(self) -> bool:
        """Make the folder this run's own; False where it is another's."""
        make_folder(self.path)
        try:
            names = {child.name for child in self.path.iterdir()}
            leftovers = [self.path / name for name in sorted(names) if _PARTIAL.fullmatch(name)]
            former = {name for name in names if _OUTPUT.fullmatch(name)}
            if not self._overwrite and former and (self._labels or former != {"labels"}):
                return False
            if not self._overwrite and self._reads & {leftover.absolute() for leftover in leftovers}:
                return False
            self._lock = FileLock(self.path / _LOCK)
            try:
                with contextlib.suppress(NotImplementedError):  # a file system without locks
                    self._lock.acquire(timeout=0)
            except Timeout:
                return False
            for leftover in leftovers:
                _remove(leftover)
        except OSError:
            self._remove_made()
            raise
        return True

    def publish(self) -> list[Path]:
        """Give the files their names, in place of another run's, and return the paths."""
        with writing(self.path):
            made = [child for child in sorted(self.path.iterdir()) if _PARTIAL.fullmatch(child.name)]
            former = [child for child in self.path.iterdir() if _OUTPUT.fullmatch(child.name)]
            for child in former:
                if self._labels or len(former) > 1 or child.name != "labels":
                    _remove(child)
            final = [child.replace(child.with_name(child.name.replace(".partial", "", 1))) for child in made]
        self._release()
        return sorted(final, key=lambda file: (re.fullmatch(_MEDIA, file.name) is not None, file.name))

    def discard(self) -> None:
        """Remove everything that was begun; an earlier run's files stay."""
        with contextlib.suppress(OSError):
            for child in self.path.iterdir():
                if _PARTIAL.fullmatch(child.name):
                    _remove(child)
        self._release()
        self._remove_made()

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)  # before it is let go of, so that nobody else has it
        self._lock.release()

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # somebody else put a file there meanwhile, or it was never made
                return


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    named = path if path.name not in ("", "..") else path.resolve()
    for number in range(2, 10_000):
        yield named.with_name(f"{named.name}-{number}")
    raise UserError(f"{path} and 9998 folders beside it hold other runs: choose another --output")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
