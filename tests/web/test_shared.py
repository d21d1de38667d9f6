"""The page when it is shared: the token, its names, clients that are slow on purpose, a disk that fills up."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import web_fakes as fakes
from web_fakes import Visitor

from vil_tracker.web.limits import Limits
from vil_tracker.web.server import running
from vil_tracker.web.work import run_track

TOKEN = "a-token-of-the-test"


def get(address: str, path: str, headers: dict[str, str], source: str | None = None) -> http.client.HTTPResponse:
    place = urlsplit(address)
    connection = http.client.HTTPConnection(
        "127.0.0.1", place.port, timeout=20, source_address=(source, 0) if source else None
    )
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_token_names_and_slow_clients(tmp_path: Path, clip: Path) -> None:
    limits = Limits(head_seconds=4, heads_per_address=16, stall_seconds=3, uploads_per_address=4)
    with running(
        fakes.load_patch_tracker, limits, tmp_path, host="0.0.0.0", token=TOKEN, allow_hosts=["tracker.example"]
    ) as address:
        names = {"evil.example": 400, "tracker.example": 401, "192.168.7.7:80": 401, "[::1]:8000": 401, "": 400}
        for name, status in names.items():
            assert get(address, "/", {"Host": name}).status == status, name
        for path in ("/?token=wrong", "/api/limits", "/app.js", f"/api/limits?token={TOKEN}", "/?token="):
            assert get(address, path, {}).status == 401
        entered = get(address, f"/?token={TOKEN}", {})
        assert entered.status == 303 and entered.headers["location"] == "/"
        key = entered.headers["set-cookie"].split(";")[0]
        page = get(address, "/", {"Cookie": key})
        assert page.status == 200
        me = Visitor(address, f"{key}; {page.headers['set-cookie'].split(';')[0]}")
        video = me.run(clip)
        assert video["status"] == "done"
        for number in ("9" * 5000, "-1", "x"):
            assert me.ask("GET", f"/api/videos/{video['id']}?after={number}").status == 400
            assert get(address, "/api/limits", {"Cookie": key, "X": "1"}).status == 200

        with contextlib.ExitStack() as stack:
            port = urlsplit(address).port or 0
            half = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
            for connection in half:
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0")
            head = (
                f"POST /api/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {me.cookie}\r\nX-ViL-Tracker: 1\r\n"
                "Content-Length: 100000\r\n\r\n"
            ).encode()
            slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(8)]
            for connection in slow:
                connection.sendall(head + clip.read_bytes()[:600])
            begin = time.monotonic()
            for source in (None, "127.0.0.2"):
                assert get(address, "/", {"Cookie": key}, source).status == 200
            answered = time.monotonic() - begin
            ninth = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=("127.0.0.2", 0))
            ninth.request("POST", "/api/videos", clip.read_bytes(), {"Cookie": me.cookie or "", "X-ViL-Tracker": "1"})
            assert ninth.getresponse().status == 201
            uploaded = time.monotonic() - begin
            print(f"page after {answered:.2f} s, upload after {uploaded:.2f} s")
            assert answered < 2
            answer = b""
            with contextlib.suppress(OSError):
                for _ in range(60):  # a byte now and then keeps nobody's slot
                    time.sleep(0.2)
                    slow[0].sendall(b"x")
                    slow[0].settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        answer = slow[0].recv(1000)
                        break
            assert b" 408 " in answer.split(b"\r\n")[0]
            half[-1].settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert half[-1].recv(10) == b""  # closed by the server


def test_a_full_disk_keeps_the_boxes(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vil_tracker.io.box_writers import BOX_FORMATS
    from vil_tracker.io.pictures import AnnotatedVideo

    plain = AnnotatedVideo.write
    written: list[int] = []

    def write(self: AnnotatedVideo, frame: Any, results: Any) -> None:
        written.append(frame.number)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, frame, results)

    def run(folder: str) -> dict[str, Any]:
        make: Callable[[], Any] = fakes.PatchTracker
        return run_track(
            clip, tmp_path / folder, fakes.targets(), make, Limits(), lambda rows: None, lambda: False, tmp_path
        )

    whole = run("whole")
    assert set(whole["files"]) == {"video", *BOX_FORMATS} and not whole["note"]
    written.clear()
    monkeypatch.setattr(AnnotatedVideo, "write", write)
    result = run("full")
    assert (
        set(result["files"]) == set(whole["files"]) - {"video"}
        and "disk became full" in result["note"]
        and result["stopped"]
    )
    boxes = (tmp_path / "full" / "boxes.csv").read_text()
    assert result["frames"] >= 20 and boxes.count("\n") == result["frames"] + 1
    assert (tmp_path / "whole" / "boxes.csv").read_text().startswith(boxes)


def test_the_servers_own_process_needs_no_torch() -> None:
    code = (
        "import sys, vil_tracker.web.app, vil_tracker.web.guard\n"
        "from vil_tracker.web.targets import check_targets; from vil_tracker.web.limits import Limits\n"
        "info, targets = {'width': 90, 'height': 60, 'frames': 9}, [{'name': 'a', 'boxes': [[0, 1, 2, 30, 40]]}]\n"
        "assert check_targets(targets, info, Limits()) == targets\n"
        "assert not {'torch', 'torchvision', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
