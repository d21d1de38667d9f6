"""What one visitor may ask of the server, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of the web page.

    Attributes:
        upload_bytes: size of one video file.
        frames: length of one video; one whose header lies is stopped there.
        pixels: width × height of a frame.
        targets: targets per run.
        boxes: boxes of one target: the first, and corrections.
        uploads: uploads received at the same time; others wait for their turn.
        workers: videos tracked at the same time, each in a process of its own.
        waiting: runs in the queue.
        runs_per_visitor: runs of one visitor that wait or go on.
        stored_bytes: all files on the disk.
        keep_seconds: age at which files are removed.
        uploads_per_address: of them, from one address.
        heads_per_address: connections of one address whose request is incomplete; the oldest makes room.
        head_seconds: time for the head of a request.
        stall_seconds: silence after which an upload is given up, and time after which it must have its rate.
        upload_rate: bytes per second that an upload must bring on average.
        upload_seconds: time for one upload.
        probe_seconds: time to open a video and decode its first frame.
        run_seconds: time for one run.
    """

    upload_bytes: int = 512 * MIB
    frames: int = 9_000
    pixels: int = 4096 * 2304
    targets: int = 4
    boxes: int = 64
    uploads: int = 16
    uploads_per_address: int = 4
    heads_per_address: int = 32
    head_seconds: float = 10.0
    workers: int = 1
    waiting: int = 16
    runs_per_visitor: int = 2
    stored_bytes: int = 8192 * MIB
    keep_seconds: float = 3600.0
    stall_seconds: float = 30.0
    upload_rate: float = 32 * 1024
    upload_seconds: float = 1800.0
    probe_seconds: float = 30.0
    run_seconds: float = 3600.0
