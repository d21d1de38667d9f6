"""Archives for the servers, and results that the servers would refuse."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eval_trees import moving_boxes, write_boxes, write_frames

from vil_tracker.cli import main
from vil_tracker.data.readers.otb import OTB
from vil_tracker.errors import UserError
from vil_tracker.evaluation.benchmarks import Benchmark, get_benchmark, load_sequences
from vil_tracker.evaluation.results import ResultStore, Trajectory
from vil_tracker.evaluation.submission import write_submission

FRAMES = 3


@pytest.fixture(scope="module")
def got10k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("got10k")
    for number in range(1, 181):
        folder = root / "test" / f"GOT-10k_Test_{number:06d}"
        write_frames(folder, range(1, FRAMES + 1), "{:08d}.jpg")
        write_boxes(folder / "groundtruth.txt", moving_boxes(1))
    return root


def test_got10k_archive(got10k: Path, tmp_path: Path) -> None:
    archive = tmp_path / "submission.zip"
    arguments = ["evaluate", "--benchmark", "got10k_test", "--data-root", str(got10k), "--output", str(tmp_path / "o")]
    assert main(["-q", *arguments, "--tracker", "still", "--submission", str(archive), "--no-html"]) == 0
    with zipfile.ZipFile(archive) as stream:
        names = stream.namelist()
        assert len(names) == 2 * 180
        assert {
            "GOT-10k_Test_000180/GOT-10k_Test_000180_001.txt",
            "GOT-10k_Test_000001/GOT-10k_Test_000001_time.txt",
        } < {*names}
        boxes = stream.read("GOT-10k_Test_000007/GOT-10k_Test_000007_001.txt").decode().splitlines()
        times = stream.read("GOT-10k_Test_000007/GOT-10k_Test_000007_time.txt").decode().splitlines()
    assert boxes == ["4.0000,5.0000,12.0000,9.0000"] * FRAMES and len(times) == FRAMES


@pytest.fixture(scope="module")
def finished(got10k: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, list, ResultStore]:
    """A complete run; tests put back what they change."""
    benchmark = get_benchmark("got10k_test")
    sequences = load_sequences(benchmark, got10k)
    store = ResultStore(tmp_path_factory.mktemp("results"), "got10k")
    for sequence in sequences:
        store.save(sequence.name, Trajectory(moving_boxes(FRAMES), np.full(FRAMES, 0.01)))
    return benchmark, sequences, store


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("_001.txt", "4,5,12,9\n4,5,12,9\n", "2 lines of 4 numbers, expected 3 lines of 4"),
        ("_001.txt", "4 5 12 9\n4 5 12 9\n4 5 12 9\n", ":1: '4 5 12 9' is not numbers separated by commas"),
        ("_001.txt", "4,5,12,9\n4,5,12\n4,5,12,9\n", ":2: 3 numbers where line 1 has 4"),
        ("_001.txt", "4,5,12,9\n4,5,nan,9\n4,5,12,9\n", ":2: not finite"),
        ("_001.txt", "4,5,12,9\n4,5,12,9\n4,5,0,9\n", ":3: a box without area"),
        ("_001.txt", "9,5,12,9\n4,5,12,9\n4,5,12,9\n", "the first box is not the given one"),
        ("_time.txt", "0.1\n0.1\n", "2 lines of 1 times, expected 3 of 1"),
        ("_time.txt", None, "is missing"),
    ],
)
def test_refused_results_are_found_before_writing(
    finished, tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    benchmark, sequences, store = finished
    path = store.folder / "GOT-10k_Test_000042" / f"GOT-10k_Test_000042{file}"
    whole = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="submission not written") as caught:
        write_submission(tmp_path / "out.zip", benchmark, sequences, store)
    path.write_text(whole)
    assert message in str(caught.value) and "GOT-10k_Test_000042" in str(caught.value)
    assert not (tmp_path / "out.zip").exists()


def test_an_incomplete_set_is_refused(finished, tmp_path: Path) -> None:
    benchmark, sequences, store = finished
    with pytest.raises(UserError, match="1 of the 180 sequences are missing, such as GOT-10k_Test_000003"):
        write_submission(tmp_path / "o.zip", benchmark, sequences[:2] + sequences[3:], store)


def test_trackingnet_archive_is_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("abc_0", "def_1"):
        write_frames(tmp_path / "TEST" / "frames" / name, range(FRAMES), "{}.jpg")
        write_boxes(tmp_path / "TEST" / "anno" / f"{name}.txt", moving_boxes(1))
    benchmark = get_benchmark("trackingnet")
    sequences = load_sequences(benchmark, tmp_path, ("all",))
    store = ResultStore(tmp_path / "results")
    for sequence in sequences:
        store.save(sequence.name, Trajectory(moving_boxes(FRAMES), np.full(FRAMES, 0.01)))
    with pytest.raises(UserError, match="2 sequences, but the server expects 511"):
        write_submission(tmp_path / "out.zip", benchmark, sequences, store)
    monkeypatch.setattr(benchmark.reader, "sizes", {"test": 2})
    assert write_submission(tmp_path / "out.zip", benchmark, sequences, store) == 2
    with zipfile.ZipFile(tmp_path / "out.zip") as stream:
        assert stream.namelist() == ["abc_0.txt", "def_1.txt"]


def test_other_benchmarks_have_no_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no server takes OTB-50"):
        write_submission(tmp_path / "o.zip", get_benchmark("otb50"), [], ResultStore(tmp_path))
    with pytest.raises(UserError, match="end the name in .zip"):
        write_submission(
            tmp_path / "o.tar", replace(get_benchmark("trackingnet"), reader=OTB), [], ResultStore(tmp_path)
        )
