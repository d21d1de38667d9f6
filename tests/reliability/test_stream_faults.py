"""Streams that misbehave in ways that a camera or a network does: the run ends in time, and nothing piles up."""

from __future__ import annotations

import contextlib
import csv
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from faulty_files import picture

from vil_tracker import cli
from vil_tracker.errors import UserError
from vil_tracker.io.live import LiveSource
from vil_tracker.io.source import Frame
from vil_tracker.io.threads import prefetch
from vil_tracker.runtime import StageTimer

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
TIMEOUT = 1.0
SLACK = 6.0  # seconds that a stop may take beyond the timeout on a busy machine


def part(image: np.ndarray) -> bytes:
    data = cv2.imencode(".jpg", image)[1].tobytes()
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"


@contextmanager
def server(play, connections: int = 1) -> Iterator[str]:
    """Listens on 127.0.0.1 and plays ``play(connection, number)`` to that many clients; then refuses."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):  # the client may go away
            connection.settimeout(20)
            connection.recv(4096)
            play(connection, number)

    def serve() -> None:
        with contextlib.suppress(OSError), listener:
            for number in range(connections):
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection, number), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/stream.mjpg"
    finally:
        listener.close()


def images(count: int, width: int = 96, height: int = 64) -> list[bytes]:
    return [part(np.roll(picture(1, width, height), 2 * number, axis=1)) for number in range(count)]


def send(connection: socket.socket, parts: list[bytes], pause: float = 0.02) -> None:
    for data in parts:
        connection.sendall(data)
        time.sleep(pause)


def test_a_server_that_never_answers() -> None:
    with server(lambda connection, _: time.sleep(30)) as address:
        begin = time.monotonic()
        with pytest.raises(UserError, match="cannot be opened"):
            LiveSource(address, timeout=TIMEOUT)
        assert time.monotonic() - begin < TIMEOUT + SLACK


def test_a_stream_that_stalls_and_comes_back() -> None:
    def play(connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        send(connection, images(15))
        if number == 0:
            time.sleep(20)

    with server(play, 2) as address:
        source = LiveSource(address, timeout=4.0)
        begin, seen = time.monotonic(), 0
        for frame in source:
            seen += 1
            assert frame.image.shape == (64, 96, 3)
        source.close()
        assert source.reconnections >= 1 and source.received > 15 and seen <= source.received
        assert time.monotonic() - begin < 2 * 4.0 + SLACK


def test_noise_instead_of_pictures_ends() -> None:
    def play(connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        send(connection, images(5))
        noise = np.random.default_rng(number).bytes(1 << 16)
        for _ in range(200):
            connection.sendall(noise)
            time.sleep(0.005)

    with server(play) as address:
        source = LiveSource(address, timeout=TIMEOUT)
        begin = time.monotonic()
        for frame in source:
            assert frame.image.ndim == 3 and frame.image.size <= 96 * 64 * 3
        source.close()
        assert time.monotonic() - begin < 1.0 + TIMEOUT + 2 * SLACK


def test_nothing_piles_up_behind_a_reader_that_is_too_slow() -> None:
    """Of 150 frames that arrive while nobody reads, one is kept; the others are counted."""

    def play(connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        send(connection, images(150), 0.005)

    with server(play) as address:
        source = LiveSource(address, timeout=5.0)
        frames = iter(source)
        next(frames)
        deadline = time.monotonic() + 60
        while source.received < 150 and not source._ended and time.monotonic() < deadline:
            time.sleep(0.05)
        arrived = source.received
        rest = list(frames)
        source.close()
        assert arrived >= 50
        assert len(rest) <= 1 + source.received - arrived  # the newest, and what came while they were read
        assert source.dropped == source.received - 1 - len(rest)
        assert not any(isinstance(value, list) for value in vars(source).values())


def test_decoding_ahead_is_bounded() -> None:
    made = 0

    def endless() -> Iterator[Frame]:
        nonlocal made
        while True:
            made += 1
            yield Frame(made, 0.0, np.zeros((4, 4, 3), np.uint8))

    frames = prefetch(endless(), StageTimer())
    next(frames)
    time.sleep(0.5)
    assert made <= 8
    frames.close()  # type: ignore[attr-defined]
    after = made
    time.sleep(0.3)
    assert made <= after + 1


def test_a_track_through_changing_sizes_and_a_cut_in_mid_frame(
    files: Path, tmp_path: Path, command_line, capfd
) -> None:
    """The whole command: the connection drops in the middle of a picture, comes back in another size, and ends."""

    def play(connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        sizes = [(96, 64), (160, 120), (64, 96), (320, 40)]
        send(connection, images(25, *sizes[number]), 0.03)
        connection.sendall(images(1, *sizes[number])[0][:400])

    with server(play, 4) as address:
        words = ["track", address, "--box", "8,4,20,10", "--weights", str(files / "tiny.safetensors"), "-q"]
        words += ["--device", "cpu", "--no-video", "--stream-timeout", "3", "-o", str(tmp_path / "out")]
        begin = time.monotonic()
        assert cli.main(words) == 0
        assert time.monotonic() - begin < 60
    with open(tmp_path / "out" / "boxes.csv", newline="") as stream:
        rows = [{key: float(value) for key, value in row.items() if key != "state"} for row in csv.DictReader(stream)]
    assert len(rows) >= 4
    assert all(np.isfinite(list(row.values())).all() and row["w"] > 0 and row["h"] > 0 for row in rows)
    assert all(row["x"] >= 0 and row["x"] + row["w"] <= 320.01 and row["y"] + row["h"] <= 120.01 for row in rows)
    assert capfd.readouterr().err.count("\n") == 0
