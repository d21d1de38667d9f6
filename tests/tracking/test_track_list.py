"""Many videos from a list, on processes and on a Ray cluster: the same files, each once, whole, and not made twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from data_trees import video

from vil_tracker.cli import main
from vil_tracker.config import ModelConfig
from vil_tracker.images import write_image
from vil_tracker.models.network import build_network
from vil_tracker.models.pretrained import save_model

TINY = ModelConfig(name="t", dim=32, depth=2, stem="conv", template_size=32, search_size=64, modulation_interval=2)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of four videos of 6 frames, one of them twice, from another frame."""
    root = tmp_path_factory.mktemp("list")
    for name in "abcd":
        video(root / f"{name}.avi", 6)
    save_model(build_network(TINY), root / "t.safetensors")
    lines = [f"{name}.avi,10,8,20,16" for name in "abcd"] + ["b.avi,12,10,20,16,2"]
    (root / "list.csv").write_text("video,x,y,w,h\n" + "\n".join(lines) + "\n")
    return root


def track(root: Path, output: Path, *options: str) -> int:
    command = ["track", str(root / "list.csv"), "--weights", str(root / "t.safetensors"), "--output", str(output)]
    return main([*command, "--no-video", "--device", "cpu", *options])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(listed: Path) -> dict[str, bytes]:
    """The files of one process."""
    assert track(listed, listed / "one") == 0
    return files_of(listed / "one")


def test_each_line_has_its_results(alone: dict[str, bytes]) -> None:
    rows = {name: len(content.decode().splitlines()) - 1 for name, content in alone.items()}
    assert rows == {f"{name}/boxes.csv": 6 - 2 * (name == "b_2") for name in ("a", "b", "c", "d", "b_2")}


def test_two_processes_go_on_where_one_was_killed(listed: Path, alone: dict, tmp_path: Path, capsys) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "boxes.csv").write_text("done before")
    (tmp_path / ".a.1234.tmp").mkdir()  # left by a process that was killed
    assert track(listed, tmp_path, "--workers", "2") == 0
    assert files_of(tmp_path) == {**alone, "c/boxes.csv": b"done before"}
    assert "1 of 5 videos are done already" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_a_video_that_cannot_be_tracked_is_named_and_the_others_are_done(listed: Path, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "list.csv"
    (tmp_path / "broken").mkdir()
    for number in range(3):
        write_image(tmp_path / "broken" / f"{number}.png", np.full((48, 64, 3), 60 * number, np.uint8))
    (tmp_path / "broken" / "2.png").write_bytes(b"\x89PNG")
    lines = [f"{listed}/a.avi,10,8,20,16", f"{tmp_path}/none.avi,1,1,20,20", f"{listed}/c.avi,900,8,20,16"]
    bad.write_text("\n".join([*lines, f"{tmp_path}/broken,10,8,20,16"]))
    options = ["--weights", str(listed / "t.safetensors"), "--no-video", "--device", "cpu"]
    assert main(["track", str(bad), "--output", str(tmp_path / "out"), *options]) == 1
    printed = capsys.readouterr().err
    assert "none.avi" in printed and "c.avi" in printed and "2.png" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "broken.incomplete"]
    assert len((tmp_path / "out" / "broken.incomplete" / "boxes.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.parametrize("text", ["", "a.avi,1,2,3\n", "a.avi,1,2,x,4\n"])
def test_a_list_that_is_none_names_the_line(tmp_path: Path, text: str, capsys) -> None:
    (tmp_path / "list.csv").write_text(text)
    assert main(["track", str(tmp_path / "list.csv"), "--no-video"]) == 2
    assert ("list.csv:1" if text else "lists no video") in capsys.readouterr().err


@pytest.mark.soak
def test_a_ray_cluster_of_two_nodes_gives_the_same_files_although_a_worker_is_killed(
    listed: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    from ray.cluster_utils import Cluster

    here = Path(__file__).resolve()
    monkeypatch.setenv("PYTHONPATH", f"{here.parents[2]}:{here.parent}")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        killed: list[int] = []
        killer = threading.Thread(target=kill_a_worker, args=(tmp_path, killed))
        killer.start()
        assert track(listed, tmp_path / "out", "--engine", "ray", "--address", cluster.address) == 0
        killer.join(60)
    finally:
        cluster.shutdown()
    assert killed and files_of(tmp_path / "out") == alone and not list((tmp_path / "out").glob(".*"))


def kill_a_worker(folder: Path, killed: list[int]) -> None:
    """Kill the first process that has a half-written video open."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for half in folder.glob("out/.*.tmp"):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    opened = [os.readlink(link) for link in (process / "fd").iterdir()]
                except OSError:
                    continue
                if int(process.name) != os.getpid() and any(str(half) in path for path in opened):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
        time.sleep(0.001)
