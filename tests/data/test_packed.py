"""A packed data set is the same data set: the same index, the same pictures, in an archive that tar reads."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import data_trees as trees
import numpy as np
import pytest

from vil_tracker.cli import main
from vil_tracker.data.dataset import open_dataset
from vil_tracker.errors import UserError
from vil_tracker.images import read_image
from vil_tracker.packed import ARCHIVE, pack_tree


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """LaSOT, GOT-10k, TrackingNet and COCO, each picture of another grey."""
    root = tmp_path / "plain"
    trees.lasot(root / "LaSOT", "bear-1", occluded="0,0,1,0")
    trees.got10k(root / "GOT-10k", "GOT-10k_Train_000001")
    trees.trackingnet(root / "TrackingNet", "TRAIN_3", "abc", 12)
    trees.coco(root / "COCO")
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(trees.jpeg(8 * number))
    return root


@pytest.fixture
def packed(plain: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    target = plain.parent / "packed"
    assert main(["data", "pack", str(plain), str(target)]) == 0
    assert "22 pictures in 4 archives" in capsys.readouterr().out
    return target


def test_every_reader_reads_the_packed_data_set_as_the_plain_one(plain: Path, packed: Path) -> None:
    assert not list(packed.rglob("*.jpg"))
    for name in ("lasot", "got10k", "trackingnet", "coco"):
        one, other = (open_dataset(name, data_root=root, cache_dir=root / "cache") for root in (plain, packed))
        assert one.names == other.names and len(one)
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.boxes, b.boxes, equal_nan=True) and np.array_equal(a.visible, b.visible)
            there = [i for i in range(len(a)) if name != "coco" or a.visible[i]]  # one of COCO's pictures is missing
            assert all(np.array_equal(a.frames[i], b.frames[i]) for i in there)
            assert len({a.frames[i].mean() for i in there}) == len(there)  # so a mix-up would show


def test_the_archive_is_a_tar_of_the_files_as_they_were(plain: Path, packed: Path) -> None:
    folder = Path("TrackingNet/TRAIN_3/frames/abc")
    with tarfile.open(packed / folder / ARCHIVE) as archive:
        inside = {m.name: archive.extractfile(m).read() for m in archive if not m.name.startswith(".")}
    assert inside == {path.name: path.read_bytes() for path in (plain / folder).iterdir()}


def test_an_interrupted_copy_goes_on(plain: Path, packed: Path) -> None:
    kept, lost = packed / "LaSOT/bear/bear-1/img" / ARCHIVE, packed / "GOT-10k/train/GOT-10k_Train_000001" / ARCHIVE
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert main(["data", "pack", str(plain), str(packed)]) == 0
    assert lost.is_file() and kept.stat().st_mtime_ns == before


def test_faults_name_the_archive(packed: Path, tmp_path: Path) -> None:
    folder = packed / "LaSOT/bear/bear-1/img"
    with pytest.raises(UserError, match="00000099.jpg"):
        read_image(folder / "00000099.jpg")
    os.truncate(folder / ARCHIVE, 2000)
    with pytest.raises(UserError, match="cut off"):
        read_image(folder / "00000004.jpg")
    (tmp_path / ARCHIVE).write_bytes(b"no tar")
    with pytest.raises(UserError, match="vil-tracker data pack"):
        read_image(tmp_path / "1.jpg")
    with pytest.raises(UserError, match="outside"):
        pack_tree(packed, packed / "again", frozenset({".jpg"}))
