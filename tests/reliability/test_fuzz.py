"""Parsers fed with nonsense and with damaged sense: only our own error type may escape."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from vil_tracker.boxes import check_box, parse_box
from vil_tracker.config import config_from_dict, dump_config, load_config, model_config_from_dict
from vil_tracker.data.index import read_index
from vil_tracker.data.readers.base import read_boxes, read_flags, read_numbers
from vil_tracker.data.readers.coco import read_pictures
from vil_tracker.data.readers.nfs import _read_original
from vil_tracker.data.sequence import read_boxes_file
from vil_tracker.errors import UserError
from vil_tracker.evaluation.results import ResultStore
from vil_tracker.io.source import parse_start
from vil_tracker.tracking.select import read_targets

COCO = json.dumps(
    {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 10, "height": 10} for i in range(2)],
        "annotations": [{"id": 5, "image_id": i, "bbox": [1, 2, 3.5, 4], "iscrowd": 0} for i in range(2)],
    }
)
SEEDS: dict[str, list[bytes]] = {
    "boxes": [b"8,4,20,10\n9,4,20,10\n", b"8\t4\t20\t10\r\n", b"8 4 20 10 8 14 28 14\n", b"nan,NaN,nan,nan\n1,2,3,4"],
    "table": [b"frame,id,x,y,w,h\n0,1,8,4,20,10\n3,2,1,1,5,5\n", b'frame,id,x,y,w,h,score\n0,1,"8",4,20,10,0.5\n'],
    "numbers": [b"0,1,0,1\n", b"0\n1\n0\n1\n"],
    "nfs": [b'0 1 2 30 40 1 0 0 0 "car"\n0 2 2 31 40 2 1 0 0 "car"\n'],
    "scores": [b"1.000000,tracking\n0.500000,lost\n"],
    "times": [b"0.1\n0.2\n", b"0.1,0.2\n0.2,0.3\n"],
    "run": [b'{"tracker": "vil", "kind": "vil"}'],
    "config": [dump_config(config_from_dict({})).encode(), b"model: {name: nano}\ntrain: {lr: 1e-4, steps: 5}\n"],
    "coco": [COCO.encode()],
    "index": [
              b'{"version":1,"folder":"/x","rows":"a.rows","frames":[["a",3]],"names":["a"],"owners":null,"lengths":[3],'
              b'"visible":[3],"attributes":{},"masks":{},"missing":[],"missing_frames":0,"watched":[]}'],
    "box": [b"8,4,20,10", b"1.5 2 3 4"], "start": [b"120", b"1.5s", b"00:01:02.5"],
}  # fmt: skip

TOKENS = [b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"99999999999999999999", b"1e-320", b"\xff\xfe", b"\0",
          b",", b"\n",
          b"\r", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"- ", b"&a ", b"*a ", b"!!python/object:x ", b"null",
          b"true",
          b"{}", b"[]", b"\xef\xbb\xbf", "٣".encode(), "\u2028".encode(), b"\t", b"  ", b"0x1f", b"1_000", b"~",
          b"<<: ",
          b"? ", b"|", b">", b"%", b"@", b"2001-01-01", b"=", b"0o7", b"1:30", b"." , b"e", b"-", b"+"]  # fmt: skip


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Some bytes replaced, taken out, doubled or joined by tokens that parsers stumble over; at times pure noise."""
    if rng.random() < 0.05:
        return rng.bytes(int(rng.integers(0, 60)))
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place, what = int(rng.integers(len(changed) + 1)), int(rng.integers(5))
        if what == 0 and place < len(changed):
            changed[place] = int(rng.integers(256))
        elif what == 1:
            del changed[place : place + int(rng.integers(1, 12))]
        elif what == 2:
            changed[place:place] = changed[place : place + int(rng.integers(1, 30))]
        elif what == 3:
            changed[place:place] = TOKENS[int(rng.integers(len(TOKENS)))]
        else:
            end = place + int(rng.integers(1, 4))
            changed[place:end] = TOKENS[int(rng.integers(len(TOKENS)))]
    return bytes(changed)


def _config(path: Path) -> None:
    config = load_config(path)
    text = dump_config(config)
    assert config_from_dict(yaml.safe_load(text)) == config


def _weights_metadata(path: Path) -> None:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        model_config_from_dict(content.get("model", {}))


def _box(path: Path) -> None:
    check_box(parse_box(path.read_bytes().decode("utf-8", "surrogateescape")), 96, 64)


def _start(path: Path) -> None:
    parse_start(path.read_bytes().decode("utf-8", "surrogateescape")).index(25.0)


def _boxes_both_ways(path: Path) -> None:
    """The quick reader and the careful one must agree."""
    try:
        quick = read_boxes(path)
    except UserError:
        return
    np.testing.assert_array_equal(quick, read_boxes_file(path))


def _result_file(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        folder = path.parent / f"store-{kind}"
        for sub in ("scores", "times"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        target = {"boxes": folder / "a.txt", "scores": folder / "scores" / "a.txt", "times": folder / "times" / "a.txt"}
        for name, place in target.items():
            place.write_bytes(path.read_bytes() if name == kind else SEEDS[name][0])
        ResultStore(folder).load("a", 2)

    return read


def _run_file(path: Path) -> None:
    folder = path.parent / "store-run"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(path.read_bytes())
    ResultStore(folder).check_claim({"tracker": "vil", "kind": "vil"})


#: Parser -> the kind of seed that it is fed with.
PARSERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "box file": (_boxes_both_ways, "boxes"), "targets": (read_targets, "boxes"),
          "target table": (read_targets, "table"),
    "label file": (lambda path: read_numbers(path, 4, 0, 8), "numbers"), "flags": (lambda p: read_flags(p, 4),
          "numbers"),
    "NfS annotation": (_read_original, "nfs"), "result boxes": (_result_file("boxes"), "boxes"),
    "result scores": (_result_file("scores"), "scores"), "result times": (_result_file("times"), "times"),
    "run file": (_run_file, "run"), "configuration": (_config, "config"), "stored configuration": (_weights_metadata,
    "run"), "COCO annotation": (lambda path: read_pictures(path, path.parent), "coco"),
    "index": (lambda path: read_index(path, Path("/x")), "index"), "box": (_box, "box"), "start": (_start, "start"),
}  # fmt: skip


@pytest.mark.parametrize("count", [200, pytest.param(7000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", list(PARSERS))
def test_only_our_own_error_escapes(name: str, count: int, tmp_path: Path) -> None:
    parse, kind = PARSERS[name]
    rng = np.random.default_rng(sorted(PARSERS).index(name))
    accepted = 0
    (tmp_path / "1.jpg").touch()
    (tmp_path / "a.rows").touch()
    for number in range(count):
        seeds = SEEDS[kind]
        data = seeds[number % len(seeds)]
        if number >= len(seeds):
            data = damaged(rng, data)
        path = tmp_path / "input"
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a parser that warns prints to the user's screen
                parse(path)
            accepted += 1
        except UserError as error:
            assert 5 < len(str(error)) < 3000
        except Exception as error:
            raise AssertionError(f"{name} let {error!r} escape for {data!r}") from error
    assert 0 < accepted


def test_the_long_run_has_a_hundred_thousand_inputs() -> None:
    assert 7000 * len(PARSERS) >= 100_000
