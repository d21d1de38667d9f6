"""The cached index: used while nothing changed, made again when something did, and never trusted blindly."""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import data_trees as trees
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vil_tracker.cli import main
from vil_tracker.data import index as index_module
from vil_tracker.data.dataset import IndexedFrames, SequenceDataset, open_dataset, open_folder
from vil_tracker.data.index import decode_names, encode_names
from vil_tracker.data.readers.lasot import LaSOT
from vil_tracker.data.root import find_all
from vil_tracker.errors import UserError
from vil_tracker.runtime import cache_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("airplane-2", "bear-1", "zebra-1"):
        trees.lasot(tmp_path / "LaSOT", name)
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sequences whose annotation is read, in order."""
    seen: list[str] = []
    original = LaSOT.read_sequence

    def counting(self, folder, candidate):
        seen.append(candidate.name)
        return original(self, folder, candidate)

    monkeypatch.setattr(LaSOT, "read_sequence", counting)
    return seen


def opened(data: Path) -> SequenceDataset:
    return open_dataset("lasot", "train", data_root=data, cache_dir=data / "cache")


def later(path: Path) -> None:
    """Move a modification time on, as a change some time later would."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def test_second_start_reads_nothing_and_stats_no_frame(data: Path, reads: list[str], monkeypatch) -> None:
    first = opened(data)
    assert sorted(reads) == ["airplane-2", "bear-1", "zebra-1"]
    reads.clear()
    stats: list[str] = []
    original = os.stat

    def watching(path, *args, **kwargs):
        stats.append(str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(index_module.os, "stat", watching)
    second = opened(data)
    assert reads == [] and not any(path.endswith(".jpg") for path in stats)
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.boxes, b.boxes)
        assert a.frames.paths == b.frames.paths  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["new sequence", "removed frame", "edited boxes", "new labels", "removed sequence"])
def test_a_change_makes_a_new_index(data: Path, reads: list[str], change: str) -> None:
    before = opened(data)
    lasot = data / "LaSOT"
    if change == "new sequence":
        trees.lasot(lasot, "zebra-2")
        later(lasot / "zebra")
    elif change == "removed frame":
        (lasot / "bear" / "bear-1" / "img" / "00000003.jpg").unlink()
        later(lasot / "bear" / "bear-1" / "img")
    elif change == "edited boxes":
        trees.text(lasot / "bear" / "bear-1" / "groundtruth.txt", trees.boxes(4, start=5))
    elif change == "new labels":
        trees.text(lasot / "bear" / "bear-1" / "out_of_view.txt", "1,0,0,0\n")
    else:
        (lasot / "zebra" / "zebra-1").rename(data / "elsewhere")
        later(lasot / "zebra")
    reads.clear()
    after = opened(data)
    assert reads
    if change == "new sequence":
        assert after.names == [*before.names, "zebra-2"]
    elif change == "edited boxes":
        assert after.named("bear-1").boxes[0, 0] == 5
    elif change == "removed sequence":
        assert after.names == ["airplane-2", "bear-1"]
    else:
        assert after.named("bear-1").visible.sum() == 3


def test_of_several_processes_one_scans(data: Path, reads: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:  # the lock is on the file, so threads wait as processes do
        found = list(pool.map(lambda _: opened(data), range(4)))
    assert sorted(reads) == ["airplane-2", "bear-1", "zebra-1"]
    assert all(dataset.names == found[0].names for dataset in found)


def test_a_trusted_index_is_opened_without_a_look_at_any_sequence(data: Path, reads: list[str], monkeypatch) -> None:
    opened(data)
    reads.clear()
    stats: list[str] = []
    original = os.stat

    def watching(path, *args, **kwargs):
        stats.append(str(path))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as watched:
        watched.setattr(index_module.os, "stat", watching)
        opened(data)
    assert max(Counter(path for path in stats if "bear-1" in path).values()) == 1  # no path is asked about twice
    stats.clear()
    trees.text(data / "LaSOT" / "bear" / "bear-1" / "groundtruth.txt", trees.boxes(4, start=5))
    with monkeypatch.context() as watched:
        watched.setattr(index_module.os, "stat", watching)
        trusting = open_dataset("lasot", "train", data_root=data, cache_dir=data / "cache", trust=True)
        assert trusting.named("bear-1").boxes[0, 0] == 1
    assert reads == [] and not any("bear-1" in path for path in stats)
    assert opened(data).named("bear-1").boxes[0, 0] == 5  # without trust the change is found


def test_data_sets_are_found_without_a_look_into_sequences_of_others(tmp_path: Path, monkeypatch) -> None:
    """TNL2K's and VastTrack's layouts also begin with train/."""
    for number in range(1, 61):
        trees.got10k(tmp_path / "GOT-10k", f"GOT-10k_Train_{number:06d}", 1)
    trees.trackingnet(tmp_path / "TrackingNet", "TRAIN_0", "a", 1)
    trees.coco(tmp_path / "COCO")
    looked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(str(path)) or scandir(path))
    found = {name for name, folders in find_all(tmp_path).items() if folders}
    assert found == {"got10k", "trackingnet", "coco"}
    assert sum("GOT-10k_Train" in path for path in looked) <= 10


def test_the_same_data_under_another_mount_point_is_not_scanned_again(data: Path, reads: list[str]) -> None:
    first = opened(data)
    reads.clear()
    moved = data / "mount" / "data"
    moved.mkdir(parents=True)
    (data / "LaSOT").rename(moved / "LaSOT")
    second = open_dataset("lasot", "train", data_root=moved, cache_dir=data / "cache")
    assert reads == [] and second.names == first.names and second[0].frames[0].shape[2] == 3


def test_data_index_builds_ahead(data: Path, reads: list[str], capsys) -> None:
    words = ["data", "index", "--data-root", str(data), "--cache-dir", str(data / "cache")]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"lasot:train  3 sequences, 12 frames  {data / 'LaSOT'}")
    assert main([*words, "lasot:train"]) == 0
    reads.clear()
    opened(data)
    assert reads == []
    assert main([*words, "lasto"]) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', None])
def test_damaged_cache_is_made_again(data: Path, reads: list[str], damage: bytes | None) -> None:
    opened(data)
    if damage is None:
        next((data / "cache").glob("*.rows")).write_bytes(b"short")
    else:
        next((data / "cache").glob("*.json")).write_bytes(damage)
    reads.clear()
    assert opened(data)[0].boxes.shape == (4, 4) and reads


def test_cache_that_cannot_be_written_is_done_without(data: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("vil_tracker"), "propagate", True)  # the command line turns it off
    caplog.set_level(logging.WARNING, "vil_tracker")
    (data / "cache").write_text("a file")
    assert opened(data)[1].boxes[3].tolist() == [4, 2, 5, 4]
    assert "VIL_CACHE" in caplog.text


def test_cache_folder_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VIL_CACHE", raising=False)
    if os.name == "posix":
        assert cache_folder() == tmp_path / "vil-tracker"
    monkeypatch.setenv("VIL_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere") and cache_folder("x") == Path("x")


def test_dataset_is_a_sequence_and_goes_to_other_processes(data: Path) -> None:
    dataset = opened(data)
    assert len(dataset) == 3 and [s.name for s in dataset[1:]] == ["bear-1", "zebra-1"]
    assert dataset[-1].name == "zebra-1"
    with pytest.raises(IndexError):
        dataset[3]
    with pytest.raises(UserError, match="no sequence 'cat-1'"):
        dataset.named("cat-1")
    unread = len(pickle.dumps(opened(data)))
    dataset[0]  # maps the row file
    packed = pickle.dumps(dataset)
    assert len(packed) < unread + 200  # the rows are mapped again there, not sent
    np.testing.assert_array_equal(pickle.loads(packed)[2].boxes, dataset[2].boxes)


def test_writing_into_a_sequence_does_not_reach_the_index(data: Path) -> None:
    dataset = opened(data)
    dataset[0].boxes[:] = -1
    assert dataset[0].boxes[0, 0] == 1


def test_links_to_data_elsewhere_are_followed(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "mine").symlink_to(data / "LaSOT", target_is_directory=True)
    assert len(open_dataset("lasot", data_root=root, cache_dir=data / "cache")) == 3


def test_missing_and_double_data_sets(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no GOT-10k below .*vil-tracker doctor"):
        open_dataset("got10k", data_root=data)
    trees.lasot(data / "copy", "airplane-2")
    with pytest.raises(UserError, match="more than once, in .*LaSOT and .*copy|more than once, in .*copy and .*LaSOT"):
        opened(data)
    monkeypatch.delenv("VIL_DATA", raising=False)
    with pytest.raises(UserError, match="--data-root DIR or set VIL_DATA"):
        open_dataset("lasot")
    with pytest.raises(UserError, match="nowhere .*is not a folder"):
        open_dataset("lasot", data_root=data / "nowhere")


names = st.one_of(
    st.builds(lambda p, n, w, s: f"{p}{n:0{w}d}{s}", st.sampled_from(["", "img", "a-1_"]), st.integers(0, 120),
              st.integers(1, 5), st.sampled_from([".jpg", ".png", "i.jpg"])),
    st.sampled_from(["x.jpg", "frame.png"]),
)  # fmt: skip


@given(st.lists(names, max_size=30))
def test_frame_names_survive_the_index(listed: list[str]) -> None:
    runs = encode_names(listed)
    assert list(decode_names(runs)) == listed
    frames = IndexedFrames(Path("f"), tuple(runs))
    assert len(frames) == len(listed)
    assert [frames.path(i).name for i in range(len(listed))] == listed
    with pytest.raises(IndexError):
        frames.path(len(listed))


def test_consecutive_frames_are_one_run() -> None:
    assert encode_names(f"{i:08d}.jpg" for i in range(1, 2501)) == [("", 8, ".jpg", 1, 2500)]
    assert len(encode_names(f"{i}.jpg" for i in range(1200))) == 1


def test_shared_dev_data(shared: Path, tmp_path: Path) -> None:
    sequences = open_folder(shared / "data" / "dev" / "davis20", cache_dir=tmp_path)
    videos = open_folder(shared / "data" / "dev" / "uav7", cache_dir=tmp_path)
    assert (len(sequences), int(sequences.lengths.sum())) == (20, 1376)
    assert (len(videos), int(videos.lengths.sum())) == (7, 2242)
    assert sequences[0].frames[0].ndim == 3
