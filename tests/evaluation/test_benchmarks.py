"""Layouts and lists of the benchmarks on miniature trees with their oddities."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from eval_trees import make_folder_benchmark, moving_boxes, write_boxes, write_frames

from vil_tracker.cli import main
from vil_tracker.errors import UserError
from vil_tracker.evaluation.benchmarks import BENCHMARK_NAMES, get_benchmark, load_sequences, load_truth
from vil_tracker.evaluation.results import ResultStore
from vil_tracker.evaluation.scoring import score_tracker


def load(name: str, root: Path, *wanted: str):
    return {s.name: s for s in load_sequences(get_benchmark(name), root, wanted or None)}


def test_official_sizes() -> None:
    expected = {"lasot": 280, "lasot_ext": 150, "got10k_val": 180, "got10k_test": 180, "trackingnet": 511}
    expected |= {"otb2013": 51, "otb50": 50, "otb100": 100, "uav123": 123, "uav20l": 20, "nfs30": 100, "nfs240": 100}
    expected |= {"tnl2k": 700, "vasttrack": 3500, "dtb70": 70, "folder": None}
    assert {name: get_benchmark(name).size for name in BENCHMARK_NAMES} == expected
    for name in BENCHMARK_NAMES:
        names = get_benchmark(name).names
        assert names is None or len(set(names)) == expected[name]
    with pytest.raises(UserError, match="unknown benchmark 'lasso'"):
        get_benchmark("lasso")


def test_otb_frame_ranges_and_second_targets(tmp_path: Path) -> None:
    write_frames(tmp_path / "David" / "img", range(1, 772))
    write_boxes(tmp_path / "David" / "groundtruth_rect.txt", moving_boxes(471), "\t")
    write_frames(tmp_path / "Tiger1" / "img", range(1, 355))
    write_boxes(tmp_path / "Tiger1" / "groundtruth_rect.txt", moving_boxes(354))
    write_frames(tmp_path / "BlurCar3" / "img", range(3, 360))
    write_boxes(tmp_path / "BlurCar3" / "groundtruth_rect.txt", moving_boxes(357))
    write_frames(tmp_path / "Jogging" / "img", range(1, 308))
    for target in (1, 2):
        write_boxes(tmp_path / "Jogging" / f"groundtruth_rect.{target}.txt", moving_boxes(307) + target)
    found = load("otb100", tmp_path, "David", "Tiger1", "BlurCar3", "jogging_1", "Jogging.2")
    assert sorted(found) == ["BlurCar3", "David", "Jogging-1", "Jogging-2", "Tiger1"]
    assert [found["David"].frames.paths[i].name for i in (0, -1)] == ["0300.jpg", "0770.jpg"]
    assert found["David"].boxes[0, 0] == 4
    assert [found["Tiger1"].frames.paths[i].name for i in (0, -1)] == ["0006.jpg", "0354.jpg"]
    assert found["Tiger1"].boxes[0, 0] == 4 + 5  # its box file starts at frame 1
    assert found["BlurCar3"].frames.paths[0].name == "0003.jpg"
    assert found["Jogging-2"].boxes[0, 0] - found["Jogging-1"].boxes[0, 0] == 1
    assert "Fast Motion" in found["BlurCar3"].attributes


def test_missing_sequences_are_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "David" / "img", range(1, 3))
    write_frames(tmp_path / "Deer" / "img", range(1, 3))
    with pytest.raises(UserError, match="49 of 51 sequences are missing .*Basketball, Bolt, Boy"):
        load("otb2013", tmp_path)
    with pytest.raises(UserError, match="no sequence Dear; there are David, Deer"):
        load("otb2013", tmp_path, "David", "Dear")


def test_uav123_sub_sequences_and_gaps(tmp_path: Path) -> None:
    write_frames(tmp_path / "data_seq" / "UAV123" / "bird1", range(1, 1480), "{:06d}.jpg")
    boxes = moving_boxes(1477 - 775 + 1, step=0.01)
    boxes[5] = np.nan
    write_boxes(tmp_path / "anno" / "UAV123" / "bird1_2.txt", boxes)
    (tmp_path / "anno" / "UAV123" / "att").mkdir()
    (tmp_path / "anno" / "UAV123" / "att" / "bird1_2.txt").write_text("1,0,0,1,0,0,0,0,0,0,0,1\n")
    (bird,) = load("uav123", tmp_path, "bird1_2").values()
    assert bird.frames.paths[0].name == "000775.jpg" and len(bird.frames) == 703
    assert np.isnan(bird.boxes[5]).all() and not bird.visible[5]
    assert bird.attributes == ("Scale Variation", "Fast Motion", "Similar Object")


def test_nfs_original_annotation_at_both_rates(tmp_path: Path) -> None:
    lines = [f'0 {4 + i} 5 {16 + i} 14 {i} {int(i == 8)} 0 0 "ball"\n' for i in range(33)]
    for rate, count in (("30", 5), ("240", 33)):
        write_frames(tmp_path / "bee" / rate / "bee", range(1, count + 1), "{:05d}.jpg")
        (tmp_path / "bee" / rate / "bee.txt").write_text("".join(lines))
    slow, fast = load("nfs30", tmp_path, "bee")["bee"], load("nfs240", tmp_path, "bee")["bee"]
    assert slow.boxes.tolist() == [[4 + 8 * i, 5, 12, 9] for i in range(5)]
    assert slow.absent.tolist() == [False, True, False, False, False]
    assert len(fast.boxes) == 33 and fast.absent.sum() == 1


def test_nfs_converted_layout(tmp_path: Path) -> None:
    write_frames(tmp_path / "sequences" / "bee", range(1, 6), "{:05d}.jpg")
    write_boxes(tmp_path / "anno" / "nfs_bee.txt", moving_boxes(5), "\t")
    assert len(load("nfs30", tmp_path, "bee")["bee"].boxes) == 5


def test_lasot_flags_and_dtb70_and_tests_without_truth(tmp_path: Path) -> None:
    bird = tmp_path / "LaSOT" / "bird" / "bird-2"
    write_frames(bird / "img", range(1, 5), "{:08d}.jpg")
    write_boxes(bird / "groundtruth.txt", moving_boxes(4))
    (bird / "full_occlusion.txt").write_text("0,0,1,0\n")
    (bird / "out_of_view.txt").write_text("0,0,0,1\n")
    assert load("lasot", tmp_path, "bird-2")["bird-2"].absent.tolist() == [False, False, True, True]
    with pytest.raises(UserError, match="279 of 280 sequences are missing"):
        load("lasot", tmp_path)

    make_folder_benchmark(tmp_path / "DTB70", {"Animal1": 4, "Gull1": 3})
    assert sorted(load("dtb70", tmp_path / "DTB70", "all")) == ["Animal1", "Gull1"]
    with pytest.raises(UserError, match="DTB70 has 70 sequences, but 2 were found"):
        load("dtb70", tmp_path / "DTB70")

    test = tmp_path / "GOT" / "test" / "GOT-10k_Test_000001"
    write_frames(test, range(1, 7), "{:08d}.jpg")
    write_boxes(test / "groundtruth.txt", moving_boxes(1))
    (got,) = load("got10k_test", tmp_path / "GOT", "all").values()
    assert got.boxes.shape == (6, 4) and np.isnan(got.boxes[1:]).all()


def test_tnl2k_follows_the_toolkits_absent_flags(tmp_path: Path) -> None:
    sequence = tmp_path / "TNL2K" / "TNL2K_test_subset" / "Arrow_1"
    write_frames(sequence / "imgs", range(1, 5))
    boxes = moving_boxes(4)
    boxes[2] = 0
    write_boxes(sequence / "groundtruth.txt", boxes)
    (sequence / "language.txt").write_text("an arrow")
    assert load("tnl2k", tmp_path, "all")["Arrow_1"].absent.tolist() == [False, False, True, False]
    flags = tmp_path / "TNL2K" / "annos" / "absent" / "Arrow_1.txt"
    flags.parent.mkdir(parents=True)
    flags.write_text("0\n1\n0\n0\n")
    found = load("tnl2k", tmp_path, "all")["Arrow_1"]
    assert found.absent.tolist() == [False, True, False, False] and not found.visible[2]
    flags.write_text("0\n1\n")
    with pytest.raises(UserError, match=r"Arrow_1.txt has 2 values, but the sequence has 4 frames"):
        load("tnl2k", tmp_path, "all")


@pytest.mark.parametrize("flags", [False, True])
def test_vasttrack_is_scored_as_its_toolkit_does(tmp_path: Path, flags: bool) -> None:
    """LaSOT's rules: an absent frame fails, one whose box is empty fails in success and passes in precision."""
    root = tmp_path / "data" / "VastTrack"
    sequence = root / "unisot_final_test" / "Air Hockey" / "Air Hockey-1"
    write_frames(sequence / "imgs", range(1, 5), "{:05d}.jpg")
    boxes = moving_boxes(4)
    boxes[3] = 0
    write_boxes(sequence / "Groundtruth.txt", boxes)
    if flags:
        (root / "absent").mkdir()
        (root / "absent" / "Air Hockey-1.txt").write_text("0\n0\n1\n0\n")
    write_boxes(tmp_path / "results" / "Air Hockey-1.txt", moving_boxes(4))
    words = ["--quiet", "evaluate", "--benchmark", "vasttrack", "--data-root", str(root), "--sequences", "all"]
    words += ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "out"), "--no-html"]
    assert main(words) == 0
    overall = json.loads((tmp_path / "out" / "report.json").read_text())["sequences"]["Air Hockey-1"]
    perfect = 2 if flags else 3
    assert overall["auc"] == pytest.approx(perfect / 4 * 20 / 21)  # no overlap is above the threshold of 1
    assert overall["precision"] == 3 / 4


def test_a_result_that_is_a_line_too_long_is_cut_as_lasots_toolkit_does(tmp_path: Path, caplog) -> None:
    write_boxes(tmp_path / "gt" / "monkey-17.txt", moving_boxes(4))
    write_boxes(tmp_path / "results" / "monkey-17.txt", moving_boxes(5))
    (sequence,) = load_truth(get_benchmark("lasot"), tmp_path / "gt", ("all",))
    with caplog.at_level(logging.WARNING, "vil_tracker"):
        scores = score_tracker("x", get_benchmark("lasot"), [sequence], ResultStore(tmp_path / "results"), ["official"])
    assert "5 boxes for 4 frames" in caplog.text
    assert scores.main is not None and scores.main.overall is not None and scores.main.overall.ao == 1.0
    sequence = load_truth(get_benchmark("folder"), tmp_path / "gt")[0]
    with pytest.raises(UserError, match="5 boxes, but the sequence has 4 frames"):
        score_tracker("x", get_benchmark("folder"), [sequence], ResultStore(tmp_path / "results"), ["official"])


def write_video(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for _ in range(count):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()


def test_any_folder_and_a_folder_of_folders(tmp_path: Path) -> None:
    make_folder_benchmark(tmp_path / "own" / "frames", {"a": 4, "b": 3})
    write_frames(tmp_path / "own" / "flat" / "c", range(5))
    write_boxes(tmp_path / "own" / "flat" / "c" / "groundtruth.txt", moving_boxes(5))
    write_frames(tmp_path / "own" / "flat" / "d", range(6))
    write_boxes(tmp_path / "own" / "flat" / "d" / "groundtruth_rect.txt", moving_boxes(6), " ")
    for name in ("a", "e"):
        write_video(tmp_path / "own" / "videos" / f"{name}.avi", 4)
        write_boxes(tmp_path / "own" / "videos" / f"{name}.txt", moving_boxes(4))
    found = load("folder", tmp_path / "own")
    assert {name: s.dataset for name, s in found.items()} == {
        "frames_a": "frames",
        "b": "frames",
        "c": "flat",
        "d": "flat",
        "videos_a": "videos",
        "e": "videos",
    }
    assert found["e"].frames[3].shape == (48, 64, 3)
    assert sorted(load("folder", tmp_path / "own" / "videos")) == ["a", "e"]
    with pytest.raises(UserError, match="no sequences"):
        load("folder", tmp_path)


def test_truth_folder(tmp_path: Path) -> None:
    for name in ("bird-2", "zebra-10", "unrelated"):
        write_boxes(tmp_path / f"{name}.txt", moving_boxes(4))
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "bird-2.txt").write_text("0\n0\n1\n0\n")
    sequences = load_truth(get_benchmark("lasot"), tmp_path, ("all",))
    assert [s.name for s in sequences] == ["bird-2", "zebra-10"]
    assert sequences[0].absent.tolist() == [False, False, True, False]
    with pytest.raises(UserError, match="278 of 280"):
        load_truth(get_benchmark("lasot"), tmp_path)
    write_boxes(tmp_path / "bird-2.txt", np.array([[1.0, 2, 3, 4], [np.nan] * 4, [1, 2, 3, 4], [1, 2, 3, 4]]))
    with pytest.raises(UserError, match="bird-2: line 2 of its boxes is NaN"):
        load_truth(get_benchmark("lasot"), tmp_path, ("all",))


def test_dev_data(shared: Path) -> None:
    dev = shared / "data" / "dev"
    found = load("folder", dev)
    assert len(found) == 27 and {s.dataset for s in found.values()} == {"davis20", "uav7"}
    assert sum(len(s.boxes) for s in found.values()) == 1376 + 2242
