"""Unpacking: what is in an archive arrives unchanged; what should not be there never arrives."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile_archives import HOSTILE, entry, tar_of, zip_of

from vil_tracker import archives, cli
from vil_tracker.archives import Limits, unpack
from vil_tracker.errors import UserError

LIMITS = Limits(entries=500, free_bytes=4 << 20)  # small, so that their tests are quick


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_archives_leave_nothing_behind(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "archives").mkdir()
    archive = make(tmp_path / "archives" / name)
    root = tmp_path / "root"
    root.mkdir()
    (root / "mine.txt").write_text("kept")
    outside = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as caught:
        unpack(archive, root / "new", LIMITS)
    assert "\n" not in str(caught.value)
    assert tree(root) == {"mine.txt": b"kept"} and set(tmp_path.iterdir()) == outside
    assert not Path("/tmp/evil.txt").exists()


def test_a_total_that_is_too_large_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [("a.bin", os.urandom(5000))])
    with pytest.raises(UserError, match="--max-gb"):
        unpack(archive, tmp_path / "new", Limits(total_bytes=4000))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_contents_arrive_unchanged(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = {f"set/v{i}/{'é' * i}frame {i}.jpg": rng.bytes(int(rng.integers(0, 3 << 16))) for i in range(4)}
    contents |= {"set/empty.txt": b"", "a" * 150 + ".txt": b"long name"}
    archive = tmp_path / f"data.{kind}"
    if kind == "zip":
        zip_of(archive, list(contents.items()))
    else:
        mode = f"w:{kind.partition('.')[2]}"
        folder = entry("set", tarfile.DIRTYPE)
        tar_of(archive, [(folder, b""), *((entry(name), data) for name, data in contents.items())], mode)
    done = unpack(archive, tmp_path / "out")
    assert {name: data for name, data in tree(tmp_path / "out").items() if data is not None} == contents
    assert (done.files, done.size) == (len(contents), sum(map(len, contents.values())))


def test_parts_of_a_data_set_go_into_one_folder_and_nothing_is_replaced(tmp_path: Path) -> None:
    first = zip_of(tmp_path / "1.zip", [("train/a/1.jpg", b"1"), ("train/list.txt", b"first")])
    second = zip_of(tmp_path / "2.zip", [("train/a/2.jpg", b"2"), ("train/b/1.jpg", b"3")])
    third = zip_of(tmp_path / "3.zip", [("new.txt", b"4"), ("train/list.txt", b"other")])
    for archive in (first, second):
        unpack(archive, tmp_path / "out")
    before = tree(tmp_path / "out")
    assert sum(data is not None for data in before.values()) == 4
    with pytest.raises(UserError, match=r"train/list.txt is there already"):
        unpack(third, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is there already"):
        unpack(zip_of(tmp_path / "1.zip", [("train/a.jpg", b"1")]), tmp_path / "out")
    assert not any((tmp_path / "elsewhere").iterdir())


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_merge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(zip_of(tmp_path / "1.zip", [("a.jpg", b"1")]), tmp_path / "deep" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["1.zip"]


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """The data with a few bytes changed, taken out or put in."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place, what = int(rng.integers(len(changed))), int(rng.integers(3))
        if what == 0:
            changed[place] = int(rng.integers(256))
        elif what == 1:
            del changed[place : place + int(rng.integers(1, 40))]
        else:
            changed[place:place] = rng.bytes(int(rng.integers(1, 40)))
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_damaged_archives_cause_our_own_error_or_none(count: int, tmp_path: Path) -> None:
    files = [(f"set/{i}.txt", bytes(range(40 * i))) for i in range(1, 6)]
    originals = [
        zip_of(tmp_path / "a.zip", files).read_bytes(),
        zip_of(tmp_path / "b.zip", files, zipfile.ZIP_LZMA).read_bytes(),
        tar_of(tmp_path / "a.tar", [(entry(n), d) for n, d in files]).read_bytes(),
        tar_of(tmp_path / "a.tgz", [(entry("é" * 90), b"1")], "w:gz").read_bytes(),
        tar_of(tmp_path / "b.tar", [(entry("é" * 90), b"1")], "w").read_bytes(),
    ]
    rng = np.random.default_rng(5)
    (tmp_path / "root").mkdir()
    for number in range(count):
        archive = tmp_path / "damaged"
        archive.write_bytes(mutate(rng, originals[number % len(originals)]))
        try:
            done = unpack(archive, tmp_path / "root" / str(number), LIMITS)
        except UserError as error:
            assert str(error)
            assert not (tmp_path / "root" / str(number)).exists()
        else:
            assert done.files >= 1
    assert {p.name for p in tmp_path.iterdir()} == {"root", "damaged", "a.zip", "b.zip", "a.tar", "a.tgz", "b.tar"}


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequence = [(f"one/img/{i:04d}.jpg", b"jpeg") for i in range(1, 4)]
    archive = zip_of(tmp_path / "mine.zip", [*sequence, ("one/groundtruth_rect.txt", b"1,2,3,4\n" * 3)])
    assert cli.main(["data", "unpack", str(archive), "--data-root", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "unpacked 4 files" in printed.out and "recognised: folder of sequences, frames in img/" in printed.out
    assert (tmp_path / "mine" / "one" / "img" / "0003.jpg").read_bytes() == b"jpeg" and printed.err == ""
