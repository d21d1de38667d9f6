"""Readers of the official layouts, on miniature trees with the oddities that the real ones have."""

from __future__ import annotations

import json
from pathlib import Path

import data_trees as trees
import numpy as np
import pytest

from vil_tracker.data.dataset import SequenceDataset, open_dataset
from vil_tracker.data.readers import READERS, get_reader
from vil_tracker.data.readers.got10k import train_names
from vil_tracker.errors import UserError


@pytest.fixture
def opened(tmp_path: Path):
    def open_it(name: str, split: str = "train") -> SequenceDataset:
        return open_dataset(name, split, data_root=tmp_path / "data", cache_dir=tmp_path / "cache")

    return open_it


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_lasot_splits_labels_and_order(data: Path, opened) -> None:
    root = data / "tracking" / "any name"
    trees.lasot(root, "airplane-2", 4, occluded="0,1,0,0", unseen="0,0,0,1\n")
    trees.lasot(root, "airplane-10")
    trees.lasot(root, "airplane-1", 6)  # belongs to the test split
    trees.frames(root / "airplane" / "airplane-99" / "img", ["00000001.jpg"])  # belongs to none
    train = opened("lasot")
    assert train.names == ["airplane-10", "airplane-2"]  # the official list's order
    assert opened("lasot", "test").names == ["airplane-1"]
    assert len(train.missing) == 1118
    sequence = train.named("airplane-2")
    assert sequence.dataset == "lasot" and len(sequence) == len(sequence.frames) == 4
    np.testing.assert_array_equal(sequence.boxes, [[i, 2, 5, 4] for i in (1, 2, 3, 4)])
    assert sequence.boxes.dtype == np.float64
    np.testing.assert_array_equal(sequence.absent, [False, True, False, True])
    np.testing.assert_array_equal(sequence.visible, [True, False, True, False])
    np.testing.assert_array_equal(sequence.cover, [1, 0, 1, 0])
    assert sequence.cut is None
    assert sequence.frames[3].shape == (trees.HEIGHT, trees.WIDTH, 3)
    np.testing.assert_array_equal(train.visible_counts, [4, 2])
    np.testing.assert_array_equal(train.lengths, [4, 4])


def test_lasot_missing_frame_keeps_boxes_with_their_pictures(data: Path, opened) -> None:
    sequence = trees.lasot(data, "bear-1", 5)
    (sequence / "img" / "00000002.jpg").unlink()
    (sequence / "img" / "00000005.jpg").unlink()
    (sequence / "img" / "00000004.jpg").write_bytes(trees.jpeg(200))
    read = opened("lasot")[0]
    np.testing.assert_array_equal(read.visible, [True, False, True, True, False])
    assert abs(int(read.frames[3].mean()) - 200) < 3
    with pytest.raises(UserError, match="00000002.jpg"):
        read.frames[1]


def test_lasot_more_frames_than_boxes_ends_with_the_boxes(data: Path, opened) -> None:
    sequence = trees.lasot(data, "monkey-1", 3)
    trees.frames(sequence / "img", ["00000004.jpg", "00000005.jpg"])
    assert len(opened("lasot")[0].frames) == 3


def test_lasot_ext_beside_and_inside_lasot(data: Path, opened) -> None:
    trees.lasot(data / "LaSOT", "airplane-2")
    trees.lasot(data / "LaSOT", "wingsuit-10", 3)
    trees.lasot(data / "LaSOT", "atv-1", 2)
    extension = opened("lasot_ext", "test")
    assert extension.names == ["atv-1", "wingsuit-10"] and len(extension.missing) == 148
    with pytest.raises(UserError, match="no split 'train'.*test"):
        opened("lasot_ext", "train")


def test_label_file_of_wrong_length_or_content(data: Path, opened) -> None:
    sequence = trees.lasot(data, "bear-1", 4, occluded="0,0,0")
    with pytest.raises(UserError, match=r"full_occlusion\.txt has 3 values, but the sequence has 4 frames"):
        opened("lasot")
    (sequence / "full_occlusion.txt").write_text("0,0\n0,7\n")
    with pytest.raises(UserError, match=r"full_occlusion\.txt:2: .*'7'"):
        opened("lasot")
    (sequence / "full_occlusion.txt").write_text("0,0\n0,1\n")  # mended in place: noticed
    assert opened("lasot")[0].absent.tolist() == [False, False, False, True]


def test_got10k_labels(data: Path, opened) -> None:
    sequence = trees.got10k(data / "GOT-10k", "GOT-10k_Train_000002", 4)
    trees.got10k(data / "GOT-10k", "GOT-10k_Train_000001", 2)
    trees.text(sequence / "absence.label", "0\n0\n1\n0\n")
    trees.text(sequence / "cover.label", "8\n4\n0\n0\n")
    trees.text(sequence / "cut_by_image.label", "0\n1\n0\n0\n\n")
    read = opened("got10k")[1]
    np.testing.assert_array_equal(read.cover, [1, 0.5, 0, 0])
    np.testing.assert_array_equal(read.absent, [False, False, True, False])
    np.testing.assert_array_equal(read.visible, [True, True, False, False])
    assert read.cut is not None
    np.testing.assert_array_equal(read.cut, [False, True, False, False])


def test_got10k_test_split_has_one_box(data: Path, opened) -> None:
    trees.got10k(data / "GOT-10k", "GOT-10k_Test_000003", 5, truth="1.5,2,3,4\n\n")
    read = opened("got10k", "test")[0]
    assert len(read) == 5 and read.boxes[0].tolist() == [1.5, 2, 3, 4]
    assert np.isnan(read.boxes[1:]).all() and read.visible.tolist() == [True] + [False] * 4


def test_got10k_vot_splits() -> None:
    train, val, allowed = (train_names(split) for split in ("vot_train", "vot_val", "vot_allowed"))
    assert (len(train), len(val), len(allowed)) == (7086, 1249, 8335)
    assert not set(train) & set(val)
    # From the published lists: positions 3784, 8998, 1631 train, 1349, 5878 validate, 4 and 13 stand in neither,
    # and GOT-10k_Train_000004 and 000013 are forbidden.
    assert {"GOT-10k_Train_003785", "GOT-10k_Train_008999", "GOT-10k_Train_001632"} <= set(train)
    assert {"GOT-10k_Train_001350", "GOT-10k_Train_005879"} <= set(val)
    assert not {"GOT-10k_Train_000005", "GOT-10k_Train_000014"} & (set(train) | set(val))
    assert not {"GOT-10k_Train_000004", "GOT-10k_Train_000013"} & set(allowed)


def test_trackingnet_chunks_and_unpadded_numbers(data: Path, opened) -> None:
    trees.trackingnet(data / "TN", "TRAIN_0", "abc_0", 12)
    trees.trackingnet(data / "TN", "TRAIN_11", "xyz_1", 3)
    trees.trackingnet(data / "TN", "TEST", "t_0", 11, truth="3,3,4,4")
    (data / "TN" / "TRAIN_0" / "frames" / "abc_0" / "10.jpg").write_bytes(trees.jpeg(180))
    train = opened("trackingnet")
    assert train.names == ["abc_0", "xyz_1"] and len(train.missing) == 10
    assert abs(int(train[0].frames[10].mean()) - 180) < 3  # 10.jpg comes after 9.jpg
    assert opened("trackingnet", "train_11").names == ["xyz_1"]
    test = opened("trackingnet", "test")[0]
    assert len(test) == 11 and np.isfinite(test.boxes).all(1).sum() == 1
    with pytest.raises(UserError, match="TRAIN_3"):
        opened("trackingnet", "train_3")


def test_coco_objects_are_sequences_of_one_frame(data: Path, opened) -> None:
    trees.coco(data / "coco")
    stills = opened("coco")
    assert stills.stills and stills.names == ["000000000009/1", "000000000009/2", "000000000025/1", "000000000030/1"]
    assert stills.visible_counts.tolist() == [1, 0, 1, 0]  # empty box; missing picture
    assert stills[2].boxes.tolist() == [[3, 4, 7, 8]] and stills[2].frames[0].shape[2] == 3
    assert not stills[1].visible[0]


def test_coco_pictures_in_an_images_folder(data: Path, opened) -> None:
    trees.coco(data / "coco")
    (data / "coco" / "images").mkdir()
    (data / "coco" / "train2017").rename(data / "coco" / "images" / "train2017")
    assert opened("coco")[0].frames[0].shape == (trees.HEIGHT, trees.WIDTH, 3)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not valid JSON"),
        ("[]", "lacks the lists"),
        ({"images": [], "annotations": [{"image_id": 1}]}, r"annotations\[0\] has no 'bbox'"),
        ({"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2]}]}, r"annotations\[0\]\.bbox is \[1, 2\]"),
        (
            {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]},
            r"images\[0\] has no 'file_name'",
        ),
    ],
)
def test_coco_errors_name_the_entry(data: Path, opened, content, message: str) -> None:
    trees.coco(data / "coco")
    raw = content if isinstance(content, str) else json.dumps(content)
    trees.text(data / "coco" / "annotations" / "instances_train2017.json", raw)
    with pytest.raises(UserError, match=message):
        opened("coco")


def test_vasttrack_zero_boxes_are_absent(data: Path, opened) -> None:
    trees.vasttrack(data / "VastTrack", "Air Hockey-3", truth="1,2,3,4\n0,0,0,0\n5,6,7,8\n")
    read = opened("vasttrack")[0]
    assert read.name == "Air Hockey-3"
    assert read.absent.tolist() == [False, True, False] == (~read.visible).tolist()
    with pytest.raises(UserError, match="unisot_final_test"):
        opened("vasttrack", "test")


def test_tnl2k_one_and_two_levels(data: Path, opened) -> None:
    trees.tnl2k(data / "TNL2K", "TNL2K_train_subset", "B_done", truth="1,2,3,4\n0,0,0,0\n")
    trees.tnl2k(data / "TNL2K", "TNL2K_train_subset/p9", "A_done")
    train = opened("tnl2k")
    assert train.names == ["A_done", "B_done"]
    assert [path.name for path in train[0].frames.paths] == ["a2.png", "a10.png"]  # type: ignore[attr-defined]
    assert train[1].absent.tolist() == [False, True]


def test_every_reader_finds_its_own_tree_and_no_other(tmp_path: Path) -> None:
    build = {
        "lasot": lambda root: trees.lasot(root, "airplane-2"),
        "lasot_ext": lambda root: trees.lasot(root, "atv-1"),
        "got10k": lambda root: trees.got10k(root, "GOT-10k_Val_000001"),
        "trackingnet": lambda root: trees.trackingnet(root, "TEST", "t_0"),
        "coco": trees.coco,
        "tnl2k": lambda root: trees.tnl2k(root, "test", "B_done"),
        "vasttrack": lambda root: trees.vasttrack(root, "Zither-1"),
    }
    assert set(build) == set(READERS)
    for name, make in build.items():
        make(tmp_path / name)
        assert [other for other, reader in READERS.items() if reader.matches(tmp_path / name)] == [name]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown data set 'lasott': did you mean lasot"):
        get_reader("lasott")
