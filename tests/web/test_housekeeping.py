"""What the page does when nobody looks: queue, stopping, sweeping, starting and ending."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import web_fakes as fakes
from web_fakes import Visitor

from vil_tracker import cli
from vil_tracker.web.limits import Limits
from vil_tracker.web.server import is_loopback, running
from vil_tracker.web.store import QuotaExceeded, Store, Video, clean_title, download_name
from vil_tracker.web.work import container_of


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.write_video(tmp_path_factory.mktemp("slow") / "slow.mp4", fakes.frames(40, 0, slow=True))


def test_one_worker_a_queue_and_the_end(clip: Path, tmp_path: Path) -> None:
    limits = Limits(workers=1, waiting=2, runs_per_visitor=2, keep_seconds=4)
    place = tmp_path / "uploads"
    place.mkdir()
    with running(fakes.load_patch_tracker, limits, place) as address:
        people = [Visitor(address) for _ in range(4)]
        videos = [person.upload(clip).json["id"] for person in people]
        assert people[0].track(videos[0]).status == 202
        people[0].wait(videos[0], ("running",))
        assert people[0].track(videos[0]).status == 400  # the same video twice
        for person, video in zip(people[1:3], videos[1:3], strict=True):
            assert person.track(video).status == 202
        assert people[2].status(videos[2])["ahead"] == 2
        full = people[3].track(videos[3])
        assert full.status == 503 and "queue is full" in full.json["error"]
        # leaving the queue; stopping in the middle leaves files up to there
        assert people[1].ask("POST", f"/api/videos/{videos[1]}/stop", {}).json["status"] == "stopped"
        while not people[0].status(videos[0])["tracked"]:
            time.sleep(0.05)
        people[0].ask("POST", f"/api/videos/{videos[0]}/stop", {})
        state = people[0].wait(videos[0])
        rows = people[0].file(videos[0], "csv").body.splitlines()[1:]
        assert state["status"] == "stopped" and 0 < len(rows) == state["tracked"] < 40
        # a run that goes on is not swept, whatever its age; afterwards everything goes
        assert people[2].wait(videos[2], ("running", "done"))
        deadline = time.monotonic() + 60
        while list(place.glob("*/*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not list(place.glob("*/*")), "files are removed after their time"
        assert people[0].ask("GET", f"/api/videos/{videos[0]}").status == 404
        assert people[0].upload(clip).status == 201  # still there when the server ends
    assert list(place.iterdir()) == []


def test_store_keeps_to_its_disk_space_and_sweeps(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "vil-tracker-demo-stale", tmp_path / "vil-tracker-demo-fresh"
    for folder in (stale, fresh):
        folder.mkdir()
        (folder / "left.mp4").write_bytes(b"x")
    os.utime(stale, (1, 1))
    store = Store(replace(Limits(), stored_bytes=1000, keep_seconds=3600), tmp_path)
    assert not stale.exists() and fresh.exists()  # of servers that were killed; others go on
    assert store.root.stat().st_mode & 0o777 == 0o700 or os.name == "nt"
    me = store.new_visitor()
    assert store.known_visitor(me) and not store.known_visitor(me + "x") and not store.known_visitor(None)
    videos = []
    for number in range(3):
        folder = store.new_folder()
        (folder / "source.mp4").write_bytes(bytes(300))
        store.reserve(folder, 300)
        videos.append(Video(folder.name, me, folder, folder / "source.mp4", f"{number}.mp4", {}))
        store.add(videos[-1])
    with pytest.raises(QuotaExceeded, match="disk space"):
        store.reserve(store.new_folder(), 300)
    videos[1].status = "running"
    now = time.time()
    assert store.sweep(now + 3500) == 0
    assert store.sweep(now + 3700) == 2
    assert [video.folder.exists() for video in videos] == [False, True, False]
    assert store.get(videos[0].id, me) is None and store.get(videos[1].id, me) is videos[1]
    assert store.get(videos[1].id, store.new_visitor()) is None
    store.reserve(store.new_folder(), 600)  # there is room again
    store.close()
    assert not store.root.exists()


def test_names_of_visitors_files(tmp_path: Path) -> None:
    cases = {
        "../../etc/passwd": "passwd",
        "C:\\video\\a b.mp4": "a b.mp4",
        "a\r\nX: y\0.mp4": "aX: y.mp4",
        "": "video",
        "..": "..",
        "x" * 500: "x" * 120,
    }
    for given, title in cases.items():
        assert clean_title(given) == title
        video = Video("id", "me", tmp_path, tmp_path / "source.mp4", clean_title(given), {})
        name = download_name(video, Path("annotated.webm"))
        assert name.isascii() and name.endswith("_tracked.webm") and not set(name) & set('/\\":\r\n \0')


def test_containers_by_their_first_bytes(tmp_path: Path) -> None:
    assert container_of(fakes.write_video(tmp_path / "a.mp4", fakes.frames(2, 0)).read_bytes()[:512]) == ".mp4"
    assert container_of(b"\x1a\x45\xdf\xa3....") == ".mkv"
    for text in (b"", b"#EXTM3U\n", b"ffconcat version 1.0\n", b"<svg", b"PK\x03\x04", b"RIFF1234WAVE", b"GIF89a"):
        assert container_of(text) is None


def test_command_line_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            ("--port", str(port)): "in use",
            ("--port", "70000"): "65535",
            ("--host", "no.such.host.invalid"): "--host",
            ("--host", "192.0.2.7", "--port", "0"): "192.0.2.7",
            ("--workers", "0"): "above 0",
            ("--keep-minutes", "nan"): "above 0",
        }
        for words, text in cases.items():
            assert cli.main(["demo", *words]) == 2
            error = capsys.readouterr().err
            assert text in error and error.count("\n") == 1, error


def test_only_this_computer_by_default() -> None:
    args = cli.build_parser("demo").parse_args(["demo"])
    assert args.host == "127.0.0.1" and is_loopback(args.host)
    assert is_loopback("localhost") and is_loopback("::1") and is_loopback("127.0.0.9")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.1.2") and not is_loopback("example.com")


def test_wrong_weights_are_told_before_the_page_is_up(tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    words = [sys.executable, "-m", "vil_tracker", "demo", "--port", "0", "--weights", str(missing)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 2 and "missing.safetensors" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
