"""Folders of one's own: sequences, videos and pictures, and box files as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import data_trees as trees
import numpy as np
import pytest

from vil_tracker.data.dataset import SequenceDataset, open_dataset, open_folder
from vil_tracker.data.readers import video_sequence
from vil_tracker.data.readers.video_folder import VideoFolder
from vil_tracker.errors import UserError


@pytest.fixture
def opened(tmp_path: Path):
    def open_it(folder: Path) -> SequenceDataset:
        return open_folder(folder, cache_dir=tmp_path / "cache")

    return open_it


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", ";", ",\t"])
@pytest.mark.parametrize("ending", ["", "\n\n", "\r\n"])
def test_separators_and_empty_last_lines(tmp_path: Path, opened, separator: str, ending: str) -> None:
    trees.otb(tmp_path / "own", "a", 3, truth=trees.boxes(3, separator) + ending)
    assert opened(tmp_path / "own")[0].boxes.tolist() == [[i, 2, 5, 4] for i in (1, 2, 3)]


def test_mixed_separators_as_in_blurcar1(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 2, truth="1\t2\t5\t4\n2 2 5 4\n")
    assert opened(tmp_path / "own")[0].boxes[1].tolist() == [2, 2, 5, 4]


def test_nan_zero_and_negative_boxes_are_not_visible(tmp_path: Path, opened) -> None:
    truth = "1,2,5,4\nNaN,NaN,NaN,NaN\n0,0,0,0\n5,5,-1,4\n2,2,5,4\n"
    trees.otb(tmp_path / "own", "a", 5, truth=truth)
    sequence = opened(tmp_path / "own")[0]
    assert sequence.visible.tolist() == [True, False, False, False, True]
    assert np.isnan(sequence.boxes[1]).all()


@pytest.mark.parametrize("line, found", [("1,2,3", "'1,2,3'"), ("1,2,3,x", "'1,2,3,x'"), ("1,2,3,inf", "'1,2,3,inf'")])
def test_broken_line_is_named(tmp_path: Path, opened, line: str, found: str) -> None:
    trees.otb(tmp_path / "own", "a", 3, truth=f"1,2,5,4\n{line}\n1,2,5,4\n")
    with pytest.raises(UserError, match=rf"groundtruth_rect\.txt:2: .*{found}"):
        opened(tmp_path / "own")


def test_uneven_lines_with_the_right_total_are_noticed(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 2, truth="1,2,3\n4,5,6,7,8\n")
    with pytest.raises(UserError, match=r"groundtruth_rect\.txt:1"):
        opened(tmp_path / "own")


def test_first_problem_is_shown_and_the_others_are_counted(tmp_path: Path, opened) -> None:
    for name in "abc":
        trees.otb(tmp_path / "own", name, 1, truth="1,2\n")
    with pytest.raises(UserError, match=r"/a/.*\(and 2 more"):
        opened(tmp_path / "own")


def test_fewer_boxes_than_frames_leaves_the_rest_unannotated(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 5, truth=trees.boxes(2))
    sequence = opened(tmp_path / "own")[0]
    assert len(sequence) == 5 and np.isfinite(sequence.boxes).all(1).tolist() == [True, True, False, False, False]


def test_missing_frame_is_found_by_its_number(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 5)
    (tmp_path / "own" / "a" / "img" / "0003.jpg").unlink()
    sequence = opened(tmp_path / "own")[0]
    assert sequence.visible.tolist() == [True, True, False, True, True]
    assert sequence.frames[4].shape[2] == 3


@pytest.mark.parametrize("gone, exists", [("0001", "0111"), ("0004", "1110")])
def test_missing_first_or_last_frame(tmp_path: Path, opened, gone: str, exists: str) -> None:
    trees.otb(tmp_path / "own", "a", 4)
    (tmp_path / "own" / "a" / "img" / f"{gone}.jpg").unlink()
    assert "".join(map(str, opened(tmp_path / "own")[0].visible.astype(int))) == exists


def test_more_boxes_than_frames_without_numbers_is_an_error(tmp_path: Path, opened) -> None:
    trees.frames(tmp_path / "own" / "a" / "img", ["x.jpg", "y.jpg"])
    trees.text(tmp_path / "own" / "a" / "groundtruth.txt", trees.boxes(3))
    with pytest.raises(UserError, match=r"groundtruth\.txt has 3 boxes, but there are 2 frames"):
        opened(tmp_path / "own")


def test_empty_box_file_and_folder_without_pictures(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 1, truth="\n")
    with pytest.raises(UserError, match=r"groundtruth_rect\.txt is empty"):
        opened(tmp_path / "own")
    trees.text(tmp_path / "own" / "a" / "groundtruth_rect.txt", "1,2,3,4")
    (tmp_path / "own" / "a" / "img" / "0001.jpg").unlink()
    with pytest.raises(UserError, match="no pictures"):
        opened(tmp_path / "own")


def test_one_channel_jpeg_becomes_rgb(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 1)
    (tmp_path / "own" / "a" / "img" / "0001.jpg").write_bytes(trees.jpeg(90, grey=True))
    frame = opened(tmp_path / "own")[0].frames[0]
    assert frame.shape == (trees.HEIGHT, trees.WIDTH, 3) and abs(int(frame.mean()) - 90) < 3


def test_frames_are_rgb(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 1)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "own" / "a" / "img" / "0001.jpg"), red)
    assert opened(tmp_path / "own")[0].frames[0][4, 4, 0] > 200


def test_other_files_among_the_frames_are_ignored(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "a", 2)
    for name in ("Thumbs.db", ".hidden.jpg", "._0001.jpg"):
        (tmp_path / "own" / "a" / "img" / name).write_bytes(b"x")
    assert len(opened(tmp_path / "own")[0].frames) == 2


def test_two_targets_in_one_folder_and_a_single_sequence_folder(tmp_path: Path, opened) -> None:
    trees.otb(tmp_path / "own", "Jogging", 2, truth_name="groundtruth_rect.1.txt")
    trees.text(tmp_path / "own" / "Jogging" / "groundtruth_rect.2.txt", trees.boxes(2, start=7))
    assert opened(tmp_path / "own").names == ["Jogging-1", "Jogging-2"]
    assert opened(tmp_path / "own" / "Jogging")[1].boxes[0, 0] == 7


def test_got10k_like_folder_with_a_list(tmp_path: Path, opened) -> None:
    for name in ("b", "a", "c"):
        trees.frames(tmp_path / "own" / name, ["00000001.jpg", "00000002.jpg"])
        trees.text(tmp_path / "own" / name / "groundtruth.txt", trees.boxes(2))
    assert opened(tmp_path / "own").names == ["a", "b", "c"]
    trees.text(tmp_path / "own" / "list.txt", "c\nb\nlost\n")
    dataset = opened(tmp_path / "own")
    assert dataset.names == ["c", "b"] and dataset.missing == ("lost",)


def test_videos_with_box_files(tmp_path: Path, opened) -> None:
    trees.video(tmp_path / "own" / "clip.avi", 5)
    trees.video(tmp_path / "own" / "unlabelled.avi", 2)
    trees.text(tmp_path / "own" / "clip.txt", trees.boxes(4))
    dataset = opened(tmp_path / "own")
    assert dataset.names == ["clip"] and dataset.lengths.tolist() == [5]
    sequence = dataset[0]
    assert abs(int(sequence.frames[3].mean()) - 120) < 6 and abs(int(sequence.frames[1].mean()) - 40) < 6
    assert np.isnan(sequence.boxes[4]).all()
    alone = video_sequence(tmp_path / "own" / "clip.avi", tmp_path / "own" / "clip.txt")
    np.testing.assert_array_equal(alone.boxes, sequence.boxes)
    trees.text(tmp_path / "own" / "clip.txt", trees.boxes(6))
    with pytest.raises(UserError, match=r"clip\.txt has 6 boxes, but clip\.avi has 5 frames"):
        opened(tmp_path / "own")


def test_pictures(tmp_path: Path, opened) -> None:
    own = tmp_path / "own"
    trees.frames(own / "images", ["p.jpg"])
    objects = [
        {"id": 1, "image_id": 4, "bbox": [1, 1, 5, 5], "mask_file": "p_1.png"},  # of use to synthetic samples alone
        {"id": 2, "image_id": 4, "bbox": [2, 2, 5, 5]},
    ]
    content = {"images": [{"id": 4, "file_name": "p.jpg"}], "annotations": objects}
    trees.text(own / "annotations.json", json.dumps(content))
    stills = opened(own)
    assert stills.stills and stills.names == ["p/1", "p/2"]
    np.testing.assert_array_equal(stills[1].boxes, [[2, 2, 5, 5]])


def test_folder_name_is_relative_to_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.otb(tmp_path / "data" / "mine", "a")
    monkeypatch.setenv("VIL_DATA", str(tmp_path / "data"))
    assert open_dataset("folder:mine", cache_dir=tmp_path / "cache").names == ["a"]
    assert open_dataset(f"folder:{tmp_path}/data/mine", cache_dir=tmp_path / "cache").names == ["a"]
    with pytest.raises(UserError, match="not a folder"):
        open_dataset("folder:yours", cache_dir=tmp_path / "cache")


def test_unrecognised_folder(tmp_path: Path, opened) -> None:
    trees.frames(tmp_path / "pictures", ["1.jpg"])
    with pytest.raises(UserError, match="none of the known layouts"):
        opened(tmp_path / "pictures")


def test_videos_of_any_ending_are_sequences(tmp_path: Path) -> None:
    """No video with a box file beside it is passed over without a word."""
    endings = [
        "mp4",
        "MTS",
        "m2ts",
        "3gp",
        "GIF",
        "ts",
        "webm",
        "MOV",
        "mkv",
        "vob",
        "mxf",
        "ogv",
        "h264",
        "f4v",
        "3g2",
    ]
    for number, ending in enumerate(endings):
        (tmp_path / f"v{number}.{ending}").touch()
        (tmp_path / f"v{number}.txt").write_text("1,2,3,4\n")
    found = VideoFolder().list_sequences(tmp_path, "all").candidates
    assert [candidate.name for candidate in found] == [f"v{number}" for number in range(len(endings))]
