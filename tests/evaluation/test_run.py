"""The runner: resuming, failures, several processes and several ranks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_trees import make_folder_benchmark, moving_boxes, write_boxes

from vil_tracker.cli import main
from vil_tracker.config import ModelConfig
from vil_tracker.data.sequence import make_sequence
from vil_tracker.evaluation.benchmarks import get_benchmark, load_sequences
from vil_tracker.evaluation.results import ResultStore, read_result
from vil_tracker.evaluation.run import track_sequence
from vil_tracker.evaluation.trackers import StillTracker, parse_tracker
from vil_tracker.models.network import build_network
from vil_tracker.models.pretrained import save_model

LENGTHS = {"a": 12, "b": 7, "c": 5, "d": 3}
NAMES = ("Drift", "Slow", "Fails", "Threads")
DRIFT, SLOW, FAILS, THREADS = (f"python:helper_trackers:{name}" for name in NAMES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder_benchmark(tmp_path / "data", LENGTHS)


def command(data: Path, output: Path, tracker: str, *rest: str) -> list[str]:
    head = ["--quiet", "evaluate", "--benchmark", "folder", "--data-root", str(data), "--output", str(output)]
    return [*head, "--tracker", tracker, "--no-html", *rest]


def report_of(output: Path) -> dict:
    """A report without what differs between two runs: speed."""

    def without_speed(value):
        if isinstance(value, dict):
            return {key: without_speed(entry) for key, entry in value.items() if key != "fps"}
        return value

    return without_speed(json.loads((output / "report.json").read_text()))


def environment(**extra: str) -> dict[str, str]:
    here = Path(__file__).resolve()
    path = os.pathsep.join([str(here.parents[2]), str(here.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **extra}


def start(arguments: list[str], **extra: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "vil_tracker", *arguments]
    return subprocess.Popen(words, env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_still_tracker_through_a_sequence(data: Path) -> None:
    sequence = load_sequences(get_benchmark("folder"), data)[0]
    result = track_sequence(StillTracker(), sequence)
    np.testing.assert_array_equal(result.boxes, np.repeat(moving_boxes(1), 12, axis=0))
    assert result.scores is None and result.seconds is not None and (result.seconds >= 0).all()


def test_scores_and_states_are_kept_beside_the_boxes(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path / "out", DRIFT)) == 0
    folder = tmp_path / "out" / "results" / "Drift"
    (run,) = ResultStore(folder).load("a", 12)
    np.testing.assert_allclose(run.boxes, moving_boxes(12))
    assert run.scores[0] == 1 and run.scores[5] == pytest.approx(1 / 1.5, abs=1e-6)
    assert run.states[-1] == "lost" and len(run.states) == 12
    report = report_of(tmp_path / "out")
    assert report["overall"]["op50"] == 1.0 and report["overall"]["precision"] == 1.0
    assert report["confidence"]["frames"] == sum(LENGTHS.values()) - len(LENGTHS)


def test_sequences_begin_again_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the first frame from a share of the length on that shows the target; once each, and with 25 frames to go."""
    data, output = make_folder_benchmark(tmp_path / "data", {"a": 60, "b": 20}), tmp_path / "out"
    boxes = moving_boxes(60, 0.5)
    boxes[30:33] = np.nan
    write_boxes(data / "a" / "groundtruth_rect.txt", boxes)
    assert main(command(data, output, SLOW, "--benchmark", "Folder", "--starts", "0", "0.5", "0.55", "0.9")) == 0
    folder = output / "results" / "Slow"
    assert sorted(path.stem for path in folder.glob("*.txt")) == ["a", "a@33", "b"]
    (run,) = ResultStore(folder).load("a@33", 27)
    np.testing.assert_allclose(run.boxes[0], boxes[33])
    assert "begun at 0, 0.5, 0.55, 0.9 of its length" in capsys.readouterr().out

    frames = [np.full((2, 2, 3), number, np.uint8) for number in range(60)]
    later = make_sequence("a", "folder", frames, boxes).from_frame(33)
    assert len(later.frames) == len(later) == 27 and later.frames[26][0, 0, 0] == 59
    with pytest.raises(IndexError):
        later.frames[27]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--starts", "1"], "from 0 up to"),
        (["--starts", "0.5"], "long enough"),
        (["--starts", "0", "--benchmark", "otb50"], "--benchmark folder"),
    ],
)
def test_starts_that_cannot_be(data: Path, tmp_path: Path, capsys, words: list[str], said: str) -> None:
    assert main([*command(data, tmp_path / "out", SLOW), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_kill_in_the_middle_changes_nothing(data: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(data, whole, SLOW)) == 0
    process = start(command(data, broken, SLOW), SLOW_SECONDS="0.15")
    first = broken / "results" / "Slow" / "a.txt"
    while process.poll() is None and not first.exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = sorted(path.name for path in (broken / "results" / "Slow").glob("*.txt"))
    assert "a.txt" in done and len(done) < 4 and not (broken / "report.json").exists()
    kept = first.stat().st_mtime_ns
    assert main(command(data, broken, SLOW)) == 0
    assert first.stat().st_mtime_ns == kept
    assert report_of(broken) == report_of(whole)


def test_a_half_written_result_is_redone(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path / "out", DRIFT)) == 0
    path = tmp_path / "out" / "results" / "Drift" / "b.txt"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert main(command(data, tmp_path / "out", DRIFT)) == 0
    assert path.read_text() == whole


def test_results_of_other_weights_are_not_mixed(data: Path, tmp_path: Path, capsys) -> None:
    store = ResultStore(tmp_path / "out" / "results" / "Drift")
    store.claim({**parse_tracker(DRIFT).identity(), "benchmark": "otb2013"})
    assert main(command(data, tmp_path / "out", DRIFT)) == 2
    assert "another run (different benchmark)" in capsys.readouterr().err


def test_precisions_are_trackers_of_their_own(data: Path, tmp_path: Path, capsys) -> None:
    """The given dtype reaches the network, and results of another one are neither overwritten nor taken for its."""
    torch.manual_seed(0)
    weights, output = tmp_path / "toy.safetensors", tmp_path / "out"
    sizes = {"template_size": 32, "search_size": 64, "modulation_interval": 2, "head_channels": 16}
    save_model(build_network(ModelConfig(name="toy", dim=32, depth=2, **sizes)), weights)
    words = command(data, output, "vil", "--weights", str(weights), "--device", "cpu")
    assert main([*words, "--dtype", "float32", "bfloat16", "int8"]) == 0
    report = report_of(output)
    assert list(report["trackers"]) == ["vil", "vil-bfloat16", "vil-int8"]
    assert all(report["trackers"][name]["overall"]["auc"] >= 0 for name in report["trackers"])
    boxes = {}
    for name, dtype in (("vil", "float32"), ("vil-bfloat16", "bfloat16"), ("vil-int8", "int8")):
        folder = output / "results" / name
        assert json.loads((folder / "run.json").read_text())["dtype"] == dtype
        boxes[name] = (folder / "a.txt").read_text()
    assert len(set(boxes.values())) == 3  # rounded differently, so computed differently
    (output / "results" / "vil-int8").rename(output / "results" / "other")
    (output / "results" / "vil-bfloat16").rename(output / "results" / "vil-int8")
    assert main([*words, "--dtype", "int8"]) == 2
    assert "another run (different dtype, tracker)" in capsys.readouterr().err


def test_a_failure_stops_the_run_and_keeps_what_is_done(data: Path, tmp_path: Path, capsys) -> None:
    assert main(command(data, tmp_path / "out", FAILS)) == 2
    error = capsys.readouterr().err
    assert "Fails failed on a: RuntimeError: the tracker broke down" in error
    assert "Traceback" in (tmp_path / "out" / "results" / "Fails" / "failures" / "a.txt").read_text()
    assert not (tmp_path / "out" / "report.json").exists()


def test_keep_going_lists_failures_and_refuses_the_score(
    data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    assert main(command(data, output, FAILS, "--keep-going")) == 1
    printed = capsys.readouterr().out
    assert "failed: Fails on a" in printed and "no overall score" in printed
    report = report_of(output)
    assert report["overall"] is None and report["missing"] == ["a"] and set(report["sequences"]) == {"b", "c", "d"}
    assert [entry["sequence"] for entry in report["failures"]] == ["a"]
    monkeypatch.setenv("FAIL_UNLESS", str(output))
    assert main(command(data, output, FAILS)) == 0  # the cause is mended: only the open sequence is run
    assert report_of(output)["complete"]


def test_worker_processes_give_the_same_report(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    assert main(command(data, tmp_path / "one", DRIFT)) == 0
    assert main(command(data, tmp_path / "two", DRIFT, "--workers", "2")) == 0
    assert report_of(tmp_path / "one") == report_of(tmp_path / "two")


@pytest.mark.soak
def test_a_ray_cluster_gives_the_same_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    assert main(command(data, tmp_path / "one", DRIFT)) == 0
    assert main(command(data, tmp_path / "ray", DRIFT, "--engine", "ray")) == 0
    assert report_of(tmp_path / "one") == report_of(tmp_path / "ray")
    for name in LENGTHS:
        one, ray = (tmp_path / engine / "results" / "Drift" for engine in ("one", "ray"))
        for file in (f"{name}.txt", f"scores/{name}.txt"):
            assert (one / file).read_bytes() == (ray / file).read_bytes()


def test_threads_do_not_depend_on_the_number_of_processes(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for workers in ("1", "2"):
            assert main(command(data, tmp_path / workers, THREADS, "--workers", workers)) == 0
        assert torch.get_num_threads() == 2  # the caller's setting is back
    finally:
        torch.set_num_threads(before)
    one, two = (tmp_path / workers / "results" / "Threads" for workers in ("1", "2"))
    for name in LENGTHS:
        assert (one / f"{name}.txt").read_bytes() == (two / f"{name}.txt").read_bytes()
        assert (one / "scores" / f"{name}.txt").read_bytes() == (two / "scores" / f"{name}.txt").read_bytes()
    assert (one / "a.txt").read_text().splitlines()[1].startswith("5.0")  # one thread, one pixel


def test_ranks_share_the_sequences(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path / "one", DRIFT)) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = [word for word in command(data, tmp_path / "two", DRIFT) if word != "--quiet"]
    ranks = [
        start(
            arguments, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert "Drift [2/2]" in outputs[0][1] and "Drift [2/2]" in outputs[1][1]
    assert "written" in outputs[0][0] and outputs[1][0] == ""
    assert report_of(tmp_path / "one") == report_of(tmp_path / "two")


def test_trackers_that_are_not_deterministic_repeat_on_got10k_only() -> None:
    assert get_benchmark("got10k").repetitions == 3 and get_benchmark("lasot").repetitions == 1
    assert not parse_tracker("opencv:MIL").deterministic and parse_tracker("opencv:nano").deterministic


def test_repetitions_in_the_layout_of_got10k(tmp_path: Path) -> None:
    from vil_tracker.evaluation.results import Trajectory

    store = ResultStore(tmp_path, "got10k")
    for repetition in (1, 2, 3):
        boxes = moving_boxes(4, step=repetition)
        store.save("S", Trajectory(boxes, np.full(4, 0.1 * repetition)), repetition)
    assert sorted(path.name for path in (tmp_path / "S").iterdir()) == [
        "S_001.txt",
        "S_002.txt",
        "S_003.txt",
        "S_time.txt",
    ]
    runs = store.load("S", 4)
    assert [run.seconds[0] for run in runs] == pytest.approx([0.1, 0.2, 0.3])
    np.testing.assert_allclose(runs[2].boxes, read_result(tmp_path / "S" / "S_003.txt", 4))
    assert store.is_complete("S", 4, 3) and not store.is_complete("S", 5, 3)
