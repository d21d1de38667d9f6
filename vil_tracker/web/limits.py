"""What one visitor may ask of the server, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of the web page."""

    upload_bytes: int = 512 * MIB  # size of one video file
    frames: int = 9_000  # length of one video; one whose header lies is stopped there
    pixels: int = 4096 * 2304  # width × height of a frame
    targets: int = 4  # per run
    boxes: int = 64  # of one target: the first, and corrections
    uploads: int = 16  # received at the same time; others wait for their turn
    uploads_per_address: int = 4
    heads_per_address: int = 32  # connections whose request is incomplete; the oldest makes room
    head_seconds: float = 10.0  # time for the head of a request
    workers: int = 1  # videos tracked at the same time, each in a process of its own
    waiting: int = 16  # runs in the queue
    runs_per_visitor: int = 2  # that wait or go on
    stored_bytes: int = 8192 * MIB  # all files on the disk
    keep_seconds: float = 3600.0  # age at which files are removed
    stall_seconds: float = 30.0  # silence after which an upload is given up, and time after which it must have its rate
    upload_rate: float = 32 * 1024  # bytes per second that an upload must bring on average
    upload_seconds: float = 1800.0  # time for one upload
    probe_seconds: float = 30.0  # time to open a video and decode its first frame
    run_seconds: float = 3600.0  # time for one run
