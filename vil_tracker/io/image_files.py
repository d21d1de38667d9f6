"""Folders and globs of pictures as sources: which files, in which order, under which names."""

from __future__ import annotations

import functools
import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vil_tracker.errors import UserError
from vil_tracker.images import IMAGE_EXTENSIONS, Range, ValueRange, natural_key, read_image, sample_pictures
from vil_tracker.io.source import Frame, Source, Start, beyond_the_end

log = logging.getLogger(__name__)

IMAGE_FPS = 25.0  # pictures carry no rate; --fps replaces it


class ImageSource(Source):
    """Image files, one per frame; a frame's name is the file's, with as much of its folder as tells them apart.

    At least one path; the rest is :func:`vil_tracker.io.files.open_source`'s.
    """

    def __init__(
        self, paths: tuple[Path, ...], name: str, *, start: Start, stride: int, fps: float, value_range: Range | None
    ) -> None:
        self.name, self.fps = name, fps
        first = start.index(fps)
        if first >= len(paths):
            raise beyond_the_end(name, first, len(paths))
        self._paths, self._numbers = paths, range(first, len(paths), stride)
        self._common = os.path.commonpath([path.parent for path in paths])
        self._values = ValueRange(value_range, functools.partial(sample_pictures, paths), name)
        self.total = len(self._numbers)

    def __iter__(self) -> Iterator[Frame]:
        for number in self._numbers:
            path = self._paths[number]
            name = Path(os.path.relpath(path, self._common or ".")).as_posix()
            yield Frame(number, number / self.fps, read_image(path, self._values), name)


def images_in(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder; of its only subfolder with pictures, such as ``img`` or ``color``, if it has none.
    UserError where there are none, several subfolders have some, or one is a link to nowhere.
    """
    try:
        paths = _only_images(folder.iterdir())
        if paths:
            return paths
        below = {
            child: found for child in sorted(folder.iterdir()) if child.is_dir() and (found := images_in_one(child))
        }
    except OSError as error:
        raise UserError(f"cannot read folder {folder}: {error.strerror}") from error
    if len(below) == 1:
        (child, paths), *_ = below.items()
        log.warning("%s itself holds no pictures: those in its folder %s are taken", folder, child.name)
        return paths
    if below:
        names = ", ".join(child.name for child in list(below)[:5])
        raise UserError(
            f"{folder} holds no images, its folders {names} do: give one, or '{folder}/*/*' for all in turn"
        )
    raise UserError(
        f"folder {folder} holds no images ({', '.join(sorted(IMAGE_EXTENSIONS))}): give the folder that has the frames "
        "in it"
    )


def images_in_one(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder; none where it cannot be read."""
    try:
        return _only_images(folder.iterdir())
    except OSError:
        return ()


def images_matching(pattern: str) -> tuple[Path, ...]:
    """The pictures that a glob names, in the natural order of folders and names; UserError where there are none."""
    paths = _only_images(Path(p) for p in glob.iglob(_literal_folders(pattern), recursive=True))
    if not paths:
        raise UserError(f"no image matches {pattern}: check the pattern, and put it in quotes")
    return paths


def _literal_folders(pattern: str) -> str:
    """A glob in which the folders at its beginning that exist are meant as they are written: ``[2024] trip/*.png``."""
    parts = Path(pattern).parts
    count = 0
    while count < len(parts) - 1 and Path(*parts[: count + 1]).is_dir():
        count += 1
    return os.path.join(glob.escape(str(Path(*parts[:count]))), *parts[count:]) if count else pattern


def _only_images(paths: Iterator[Path]) -> tuple[Path, ...]:
    images = []
    for path in paths:
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith("."):
            if path.is_file():
                images.append(path)
            elif path.is_symlink() and not path.exists():
                raise UserError(f"{path} is a link to {os.readlink(path)}, which is not there: restore or remove it")
    images.sort(key=lambda path: ([natural_key(part.lower()) for part in path.parts], str(path)))
    _warn_of_gaps(images)
    return tuple(images)


def _warn_of_gaps(paths: Sequence[Path]) -> None:
    """Say where a picture seems to be missing: the numbers in the names go up by the same step but for a few."""
    found = [re.fullmatch(r"(.*?)(\d+)\D*", path.name) for path in paths]
    keys = [(path.parent, match[1]) if match else None for path, match in zip(paths, found, strict=True)]
    steps = [
        int(match[2]) - int(before[2]) if before and match and keys[i] == keys[i + 1] else 0
        for i, (before, match) in enumerate(zip(found, found[1:], strict=False))
    ]
    if not steps:
        return
    usual, times = Counter(steps).most_common(1)[0]
    gaps = [i for i, step in enumerate(steps) if step > usual > 0]
    if gaps and times > len(steps) / 2:
        log.warning(
            "a picture is missing between %s and %s%s; frames count those that are there",
            *(paths[gaps[0]], paths[gaps[0] + 1].name),
            f", and in {len(gaps) - 1} more places" if gaps[1:] else "",
        )
