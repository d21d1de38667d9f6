"""Files as users have them when something went wrong, and the check that a command line refuses them properly."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vil_tracker import cli
from vil_tracker.config import ModelConfig
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import save_model

#: A message must tell what to do: one of these words.
ADVICE = re.compile(
    r"\b(give|check|use|choose|chosen|write|unpack|open|install|did you mean|expected|see|save|download|train|start|"
    r"delete|pipe|leave|end|say|draw|needed|scale|must|remove|one of|unset|free|restore|run|there are|shows)\b|--\w",
    re.IGNORECASE,
)


def tiny_network(dim: int = 32, depth: int = 2, **changes: object) -> ViLTrackerNet:
    """A random network that costs a few milliseconds per frame."""
    torch.manual_seed(0)
    settings = dict(name="test", dim=dim, depth=depth, template_size=32, search_size=64, modulation_interval=2)
    return build_network(ModelConfig(**{**settings, "head_channels": 16, **changes})).eval()  # type: ignore[arg-type]


def picture(seed: int = 0, width: int = 96, height: int = 64, channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, kind)


def write_clip(path: Path, count: int = 12, fourcc: str = "mp4v") -> Path:
    """A short video; with ``count`` 0, one without a frame."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), 25, (96, 64))
    for number in range(count):
        writer.write(np.roll(picture(1), 2 * number, axis=1))
    writer.release()
    return path


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def encoded(ending: str, image: np.ndarray | None = None) -> bytes:
    return cv2.imencode(ending, picture() if image is None else image)[1].tobytes()


def with_bytes(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def film_claiming(folder: Path, width: int, height: int) -> bytes:
    """A film of JPEG pictures (MJPEG in AVI) in which every header claims another size."""
    data = write_clip(folder / "small.avi", 3, "MJPG").read_bytes()
    data = with_bytes(data, data.find(b"avih") + 8 + 32, struct.pack("<II", width, height))
    data = with_bytes(data, data.find(b"strf") + 8 + 4, struct.pack("<II", width, height))
    place = 0
    while (place := data.find(b"\xff\xc0\x00\x11", place) + 5) > 5:
        data = with_bytes(data, place, struct.pack(">HH", height, width))
    return data


def mp4_claiming(folder: Path, width: int, height: int) -> bytes:
    """An MP4 whose container claims another size than its pictures have, which only the decoder sees."""
    data = write_clip(folder / "small.mp4", 3).read_bytes()
    data = with_bytes(data, data.find(b"mp4v", data.find(b"stsd")) + 4 + 24, struct.pack(">HH", width, height))
    return with_bytes(data, data.find(b"tkhd") + 4 + 76, struct.pack(">II", width << 16, height << 16))


def sequence(folder: Path, count: int = 4, truth: str | None = None, name: str = "groundtruth_rect.txt") -> Path:
    """A sequence in OTB's layout."""
    (folder / "img").mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / "img" / f"{number:04d}.jpg").write_bytes(encoded(".jpg", np.roll(picture(1), number, axis=1)))
    lines = truth if truth is not None else "".join(f"{8 + i},4,20,10\n" for i in range(count))
    (folder / name).write_text(lines)
    return folder


def make_files(folder: Path) -> Path:
    """Everything that the tables of cases name, in one folder."""
    save_model(tiny_network(), folder / "tiny.safetensors")
    save_model(tiny_network(scan="flip"), folder / "flip.safetensors")
    weights = (folder / "tiny.safetensors").read_bytes()
    whole = write_clip(folder / "clip.mp4").read_bytes()
    film = write_clip(folder / "clip.avi", fourcc="MJPG").read_bytes()
    noise = np.random.default_rng(3).bytes(20_000)
    jpg, png = encoded(".jpg"), encoded(".png")
    files: dict[str, bytes] = {
        "empty.mp4": b"", "random.mp4": noise, "random.avi": noise, "random.webm": noise, "random.mkv": noise,
        "zeros.mp4": bytes(5000), "text.mp4": b"this is no video\n" * 100, "cut10.mp4": whole[: len(whole) // 10],
        "cut90.mp4": whole[: len(whole) * 9 // 10], "head.mp4": whole[:40], "head.avi": film[:60],
        "overwritten.mp4": with_bytes(whole, 0, noise[: len(whole) // 2]),
        "empty.png": b"", "random.png": noise, "cut.png": png[: len(png) // 2], "head.png": png[:40],
        "flipped.png": with_bytes(png, len(png) // 2, noise[:40]), "random.jpg": noise, "head.jpg": jpg[:30],
        "huge.png": png_claiming(60_000, 60_000), "wide.png": png_claiming(2**31 - 1, 1), "no_width.png":
        png_claiming(0, 10), "video.jpg": whole, "cut.webp": encoded(".webp")[:50], "cut.tif": encoded(".tif")[:100],
        "cut.bmp": encoded(".bmp")[:60], "text.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "huge.avi": film_claiming(folder, 12_000, 12_000), "lying.mp4": mp4_claiming(folder, 60_000, 60_000),
        "nothing.txt": b"", "blank.txt": b"\n\n \n", "words.txt": b"left top wide high\n", "three.txt": b"1,2,3\n",
        "five.txt": b"1,2,3,4,5\n", "nan.txt": b"nan,2,3,4\n", "inf.txt": b"inf,2,3,4\n", "flat.txt": b"8,4,20,0\n",
        "far.txt": b"900,900,20,20\n", "binary.txt": noise[:500], "latin.txt": "8,4,20,10 £\n".encode("latin-1"),
        "many.txt": b"8,4,20,10\n" * 65, "second_bad.txt": b"8,4,20,10\n8,4,x,10\n", "hex.txt": b"0x8,4,20,10\n",
        "no_columns.csv": b"frame,id,x,y\n0,1,8,4\n", "bad_row.csv": b"frame,id,x,y,w,h\n0,1,8,4,20,ten\n",
        "short_row.csv": b"frame,id,x,y,w,h\n0,1,8\n", "negative.csv": b"frame,id,x,y,w,h\n-1,1,8,4,20,10\n",
        "id_zero.csv": b"frame,id,x,y,w,h\n0,0,8,4,20,10\n", "nul.csv": b"frame,id,x,y,w,h\n0,1,8,4,\0,10\n",
        "nan.csv": b"frame,id,x,y,w,h\n0,1,8,4,nan,10\n", "header_only.csv": b"frame,id,x,y,w,h\n",
        "quote.csv": b'frame,id,x,y,w,h\n0,1,8,4,20,"10\n',
        "float_frame.csv": b"frame,id,x,y,w,h\n0.5,1,8,4,20,10\n",
        "empty.safetensors": b"", "random.safetensors": noise, "cut.safetensors": weights[: len(weights) // 2],
        "head.safetensors": weights[:8], "text.safetensors": b"weights", "long_head.safetensors":
        struct.pack("<Q", 1 << 60) + b"{}",
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_clip(folder / "no_frame.avi", 0, "MJPG")
    for name, contents in {
        "empty_folder": {}, "texts": {"a.txt": b"a"}, "hidden": {".a.png": png}, "broken_first": {"1.png": noise},
        "broken_second": {"1.png": png, "2.png": png[:60]}, "zero_second": {"1.png": png, "2.png": b""},
        "huge_second": {"1.png": png, "2.png": png_claiming(60_000, 60_000)}, "folder.mp4": {},
        "sizes": {"1.png": png, "2.png": encoded(".png", picture(2, 30, 200))},
    }.items():  # fmt: skip
        (folder / name).mkdir()
        for file, data in contents.items():
            (folder / name / file).write_bytes(data)
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    _weights_files(folder)
    _data_sets(folder)
    return folder


def _weights_files(folder: Path) -> None:
    import safetensors.torch

    tensors = {"a": torch.zeros(2)}
    for name, metadata in {
        "foreign": None, "no_config": {"format": "vil-tracker"},
        "bad_config": {"format": "vil-tracker", "config": "{"},
        "list_config": {"format": "vil-tracker", "config": "[]"},
        "unknown_key": {"format": "vil-tracker", "config": json.dumps({"dims": 32})},
        "wrong_type": {"format": "vil-tracker", "config": json.dumps({"dim": "wide"})},
        "misfit": {"format": "vil-tracker", "config": json.dumps({"name": "nano"})},
        "bad_calibration": None,
    }.items():  # fmt: skip
        (folder / f"{name}.safetensors").write_bytes(safetensors.torch.save(tensors, metadata=metadata))
    with safetensors.safe_open(folder / "tiny.safetensors", framework="pt") as stored:
        content = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a dict
        config = (stored.metadata() or {})["config"]
    base = {"format": "vil-tracker", "config": config}
    other = json.dumps({**json.loads(config), "dim": 64})
    enormous = json.dumps({**json.loads(config), "dim": 3_200_000_000})
    for name, metadata in {
        "bad_calibration": {**base, "calibration": '{"mean": 3}'}, "other_config": {**base, "config": other},
        "enormous_config": {**base, "config": enormous},
    }.items():  # fmt: skip
        (folder / f"{name}.safetensors").write_bytes(safetensors.torch.save(content, metadata=metadata))
    torch.save({"state_dict": {"a": torch.zeros(2)}}, folder / "pickle.pt")


def _data_sets(folder: Path) -> None:
    sets = folder / "sets"
    sequence(sets / "good" / "one")
    sequence(sets / "good" / "two", 6)
    for name, truth in {
        "words": "left,top,wide,high\n" * 4, "short_line": "1,2,3\n" * 4, "too_many": "8,4,20,10\n" * 9,
        "nan_first": "nan,nan,nan,nan\n" + "8,4,20,10\n" * 3, "flat_first": "8,4,0,10\n" * 4, "no_lines": "",
        "infinite": "8,4,20,inf\n" * 4,
    }.items():  # fmt: skip
        sequence(sets / name / "one", truth=truth)
    broken = sequence(sets / "broken_frame" / "one")
    (broken / "img" / "0003.jpg").write_bytes(b"")
    no_pictures = sequence(sets / "no_pictures" / "one")
    for file in (no_pictures / "img").iterdir():
        file.unlink()
    (sets / "video" / "x").mkdir(parents=True)
    (sets / "video" / "x" / "a.mp4").write_bytes(b"no video")
    (sets / "video" / "x" / "a.txt").write_text("8,4,20,10\n")
    (sets / "truth").mkdir()
    (sets / "truth" / "one.txt").write_text("8,4,20,10\n" * 4)
    (sets / "bad_truth").mkdir()
    (sets / "bad_truth" / "one.txt").write_text("8,4,20\n")
    results = {
        "right": "8,4,20,10\n" * 4, "few": "8,4,20,10\n" * 3, "more": "8,4,20,10\n" * 5,
        "nans": "nan,nan,nan,nan\n" * 4,
        "flat": "8,4,0,10\n" * 4, "text": "none\n" * 4, "nothing": "", "infs": "8,4,inf,10\n" * 4,
    }  # fmt: skip
    for name, text in results.items():
        (sets / "results" / name).mkdir(parents=True)
        (sets / "results" / name / "one.txt").write_text(text)
    (sets / "results" / "binary").mkdir()
    (sets / "results" / "binary" / "one.txt").write_bytes(b"\xff\xfe\x00\x01" * 20)
    (sets / "results" / "none").mkdir()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below, with size and time."""
    found = {}
    for place in sorted(folder.rglob("*")):
        status = place.lstat()
        found[str(place.relative_to(folder))] = (status.st_size if place.is_file() else 0, status.st_mtime_ns)
    return found


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def check_refused(
    words: list[str], item: str, capfd: pytest.CaptureFixture[str], folder: Path, *, kept: str | None = None
) -> str:
    """Run a command line in ``folder``; it must be refused in one line that names ``item`` and the advice.

    Args:
        kept: pattern of paths that the command may leave behind by its contract.

    Returns:
        The line.
    """
    before = {name: value[0] for name, value in tree(folder).items()}
    capfd.readouterr()
    with working_in(folder):
        status = cli.main(words)
    printed = capfd.readouterr()
    after = {name: value[0] for name, value in tree(folder).items()}
    if kept is not None:
        after = {name: size for name, size in after.items() if name in before or not re.match(kept, name)}
    shown = f"{words}\n{printed.err}\n{printed.out}"
    assert status == 2, shown
    assert printed.err.count("\n") == 1 and printed.err.startswith("vil-tracker: "), shown
    assert printed.out == "", shown
    line = printed.err.removeprefix("vil-tracker: ").strip()
    assert re.search(item, line), shown
    assert ADVICE.search(line), f"no advice in: {line}"
    assert len(line) < 10_000, shown  # weights that do not fit are named
    assert after == before, f"left behind: {sorted(set(after) ^ set(before))}\n{shown}"
    return line


def bytes_stream(data: bytes) -> io.RawIOBase:
    """Raw bytes as standard input gives them."""

    class Stream(io.RawIOBase):
        def __init__(self) -> None:
            self._data = data

        def read(self, size: int = -1) -> bytes:
            part, self._data = self._data[:size], self._data[size:]
            return part

    return Stream()
