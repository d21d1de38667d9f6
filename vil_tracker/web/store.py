"""Visitors, their videos, and the files on the disk.

A visitor is known by a random token that the server signs and the browser keeps in a cookie. A video is found through
its own random id and the visitor who brought it; no part of a path ever comes from a request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vil_tracker.errors import writing
from vil_tracker.web.limits import Limits
from vil_tracker.web.work import FIRST_FRAME, PREVIEW

_PREFIX = "vil-tracker-demo-"
_STALE_SECONDS = 900.0  # a running server touches its folder every minute

MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".webm": "video/webm",
    ".mp4": "video/mp4",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".json": "application/json",
    ".xml": "application/xml",
    ".zip": "application/zip",
    ".jsonl": "application/x-ndjson",
}


class QuotaExceeded(Exception):
    """The server has no room for more; the message is for the visitor."""

    status = 503


@dataclass(eq=False)
class Video:
    """One video of one visitor, and its latest run. The fields of the run change under ``lock``."""

    id: str  # random; names its folder
    visitor: str  # who brought it
    folder: Path  # holds everything about it
    path: Path  # the uploaded file
    title: str  # the name that it came with, for display only
    info: dict[str, Any]  # width, height, fps and frames as vil_tracker.web.work.probe found them
    draft: list[dict[str, Any]] = field(default_factory=list)  # targets as drawn last; see vil_tracker.web.targets
    edits: int = 0  # how often the draft was changed
    touched: float = field(default_factory=time.time)  # latest of upload, change of the draft, and end of a run
    status: str = "ready"  # or "waiting", "running", "done", "stopped", "failed"
    run: int = 0  # number of the run
    targets: list[dict[str, Any]] = field(default_factory=list)  # of the run
    rows: list[list[Any]] = field(default_factory=list)  # [frame, target, score, state, x, y, w, h, seconds] so far
    tracked: int = 0  # frames tracked so far
    started: float = 0.0
    result: dict[str, Any] | None = None  # what vil_tracker.web.work.run_track returned
    error: str = ""  # why the run failed
    removed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def busy(self) -> bool:
        return self.status in ("waiting", "running")

    @property
    def run_folder(self) -> Path:
        return self.folder / f"run{self.run}"

    def earlier_runs(self) -> list[Path]:
        """The folders that runs before this one left, the latest first."""
        found = [path for path in self.folder.glob("run*") if path != self.run_folder]
        return sorted(found, key=lambda path: -int(path.name[3:]))

    def save_draft(self, targets: list[dict[str, Any]]) -> None:
        with self.lock:
            self.draft, self.edits, self.touched = targets, self.edits + 1, time.time()

    def file(self, role: str) -> Path | None:
        """The file of a role: first, preview, video, or a format of boxes; None where there is none (yet)."""
        with self.lock:
            fixed = {"first": FIRST_FRAME, "preview": PREVIEW}.get(role)
            name = (self.result or {}).get("files", {}).get(role)
            path = self.folder / fixed if fixed else self.run_folder / name if name else None
        return path if path is not None and path.is_file() else None

    def snapshot(self, after: int = 0) -> dict[str, Any]:
        """What the page shows; of the rows those from ``after`` on."""
        with self.lock:
            own = ("id", "title", "draft", "edits", "status", "run", "targets", "tracked", "error")
            result = {"seconds": None, "limited": False, "note": "", "files": {}, **(self.result or {})}
            elapsed = time.monotonic() - self.started if self.status == "running" else result["seconds"] or 0.0
            return {
                **{name: getattr(self, name) for name in own},
                **self.info,
                **{name: result[name] for name in ("seconds", "limited", "note", "files")},
                "speed": round(self.tracked / elapsed, 2) if elapsed > 0.2 else None,
                "rows": self.rows[after:],
                "next": len(self.rows),
            }


def clean_title(name: str) -> str:
    """The last part of a file name, without control characters, of bounded length."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in last if c.isprintable()).strip()[:120] or "video"


def download_name(video: Video, path: Path) -> str:
    """A file name that any system takes."""
    stem = re.sub(r"[^\w.-]+", "_", Path(video.title).stem, flags=re.ASCII).strip("._")[:60] or "video"
    return f"{stem}_tracked{path.suffix}" if path.suffix in (".webm", ".mp4") else f"{stem}_{path.name}"


class Store:
    """All videos, in one private folder that goes away with the server; UserError where the folder cannot be made."""

    def __init__(self, limits: Limits, parent: Path | None = None) -> None:
        self._limits = limits
        base = parent or Path(tempfile.gettempdir())
        _remove_stale(base)
        with writing(base):
            self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # readable by this user alone
        self._secret = secrets.token_bytes(32)
        self._videos: dict[str, Video] = {}
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def new_visitor(self) -> str:
        name = secrets.token_urlsafe(24)
        return f"{name}.{self._sign(name)}"

    def known_visitor(self, token: str | None) -> bool:
        name, _, signature = (token or "").partition(".")
        return hmac.compare_digest(signature.encode(), self._sign(name).encode())

    def _sign(self, name: str) -> str:
        return hmac.new(self._secret, name.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def new_folder(self) -> Path:
        """A folder for a video to come, named by its id."""
        folder = self.root / secrets.token_urlsafe(24)
        with writing(folder):
            folder.mkdir(mode=0o700)
        with self._lock:
            self._sizes[folder.name] = 0
        return folder

    def reserve(self, folder: Path, size: int) -> None:
        """Account for ``size`` more bytes in a folder; QuotaExceeded where there is no room for them."""
        with self._lock:
            if sum(self._sizes.values()) + size > self._limits.stored_bytes:
                raise QuotaExceeded("the server's disk space is used up by others: try again later")
            self._sizes[folder.name] = self._sizes.get(folder.name, 0) + size

    def recount(self, video: Video) -> None:
        size = sum(path.stat().st_size for path in video.folder.rglob("*") if path.is_file())
        with self._lock:
            if video.id in self._sizes:
                self._sizes[video.id] = size

    def add(self, video: Video) -> None:
        with self._lock:
            self._videos[video.id] = video

    def get(self, video_id: str, visitor: str) -> Video | None:
        with self._lock:
            video = self._videos.get(video_id)
        return video if video is not None and hmac.compare_digest(video.visitor, visitor) else None

    def of(self, visitor: str) -> list[Video]:
        with self._lock:
            mine = [video for video in self._videos.values() if hmac.compare_digest(video.visitor, visitor)]
        return sorted(mine, key=lambda video: -video.touched)

    def remove(self, video: Video) -> None:
        with self._lock:
            self._videos.pop(video.id, None)
        video.removed = True
        self.remove_folder(video.folder)

    def remove_folder(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with self._lock:
            self._sizes.pop(folder.name, None)

    def sweep(self, now: float | None = None) -> int:
        """Delete what is too old, except runs that wait or go on; returns how many videos went."""
        now = time.time() if now is None else now
        os.utime(self.root)
        with self._lock:
            videos = list(self._videos.values())
        old = [video for video in videos if not video.busy and now - video.touched >= self._limits.keep_seconds]
        for video in old:
            self.remove(video)
        return len(old)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def _remove_stale(base: Path) -> None:
    """Delete the folders of servers that were killed before they could do so themselves."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if own and folder.is_dir() and not folder.is_symlink() and time.time() - status.st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # another server was quicker
