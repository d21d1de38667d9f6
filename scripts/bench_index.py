"""What indexing the training sets costs at their official size: time, file system calls, peak memory, linear fit.

Builds LaSOT, GOT-10k, TrackingNet and COCO trees with the official names and counts, all frames hard links to one small
picture, indexes shares of them, and starts again from the index: checked, and trusted. Calls are counted by strace, in
runs of their own, as it slows what it watches.

example: python scripts/bench_index.py --work /data/bench --frames 0.1 --json docs/results/index.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vil_tracker import cli
from vil_tracker.errors import UserError, write_json

PICTURE = bytes.fromhex("ffd8ffd9")  # frames are listed, never opened
LINKS = 60_000  # ext4 allows 65,000 to one file
#: Sequences and frames of the training sets; of COCO pictures and objects.
OFFICIAL = {
    "lasot": (1120, 2_830_000),
    "got10k": (9335, 1_403_359),
    "trackingnet": (30132, 14_205_677),
    "coco": (118_287, 860_001),
}
BEGIN, END = "/index-begins", "/index-ends"  # looked up to mark the place in strace's output


class Linker:
    """Makes frames: hard links to one small file, and to another where that has as many as a file may have."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0
        folder.mkdir(parents=True)

    def frames(self, folder: Path, names: Iterator[str]) -> None:
        folder.mkdir(parents=True)
        for name in names:
            source = f"{self.folder}/{self.made // LINKS}.jpg"
            if self.made % LINKS == 0:
                Path(source).write_bytes(PICTURE)
            os.link(source, f"{folder}/{name}")
            self.made += 1


def build_tree(root: Path, share: float, frames: float) -> None:
    """The four training sets, ``share`` of their sequences with ``frames`` of their frames each."""
    from vil_tracker.data.readers.base import split_list
    from vil_tracker.data.readers.got10k import train_names

    links = Linker(root / "links")
    counts = {name: max(round(total / sequences * frames), 1) for name, (sequences, total) in OFFICIAL.items()}

    def some(names: list[str]) -> list[str]:
        return names[: round(len(names) * share)]

    def text(path: Path, line: str, count: int) -> None:
        path.write_text(f"{line}\n" * count)

    n = counts["lasot"]
    for name in some(list(split_list("lasot_train"))):
        folder = root / "LaSOT" / name.rpartition("-")[0] / name
        links.frames(folder / "img", (f"{i:08d}.jpg" for i in range(1, n + 1)))
        text(folder / "groundtruth.txt", "100,100,50,50", n)
        for label in ("full_occlusion", "out_of_view"):
            (folder / f"{label}.txt").write_text(",".join("0" * n))
    n = counts["got10k"]
    for name in some(train_names("train")):
        folder = root / "GOT-10k" / "train" / name
        links.frames(folder, (f"{i:08d}.jpg" for i in range(1, n + 1)))
        text(folder / "groundtruth.txt", "100.0000,100.0000,50.0000,50.0000", n)
        for label, value in (("absence", "0"), ("cover", "8"), ("cut_by_image", "0")):
            text(folder / f"{label}.label", value, n)
    n = counts["trackingnet"]
    for number in range(round(OFFICIAL["trackingnet"][0] * share)):
        chunk = root / "TrackingNet" / f"TRAIN_{number % 12}"
        links.frames(chunk / "frames" / f"{number:011d}_0", (f"{i}.jpg" for i in range(n)))
        (chunk / "anno").mkdir(exist_ok=True)
        text(chunk / "anno" / f"{number:011d}_0.txt", "100.0,100.0,50.0,50.0", n)
    _write_coco(root / "COCO", links, share)


def _write_coco(root: Path, links: Linker, share: float) -> None:
    """Annotations of the official length: some 500 bytes an object, most of them its outline."""
    pictures, objects = (round(count * share) for count in OFFICIAL["coco"])
    links.frames(root / "train2017", (f"{i:012d}.jpg" for i in range(pictures)))
    (root / "annotations").mkdir()
    outline = [[round(100 + 0.37 * i, 2) for i in range(50)]]
    with (root / "annotations" / "instances_train2017.json").open("w") as stream:
        stream.write('{"info": {}, "licenses": [], "images": [')
        for i in range(pictures):
            entry = {"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640, "url": "http://" + "x" * 90}
            stream.write((", " if i else "") + json.dumps(entry))
        stream.write('], "annotations": [')
        for i in range(objects):
            box = [100.25, 100.5, 50.75, 40.0]
            entry = {"segmentation": outline, "area": 2030.0, "iscrowd": 0, "bbox": box, "category_id": 1, "id": i}
            stream.write((", " if i else "") + json.dumps({**entry, "image_id": i % pictures}))
        stream.write('], "categories": [{"id": 1, "name": "thing"}]}')


def measured_here(names: list[str], root: Path, cache: Path, trust: bool) -> dict[str, float]:
    """Open training splits in this process; seconds, and the process's peak memory in MiB."""
    from vil_tracker.data.dataset import open_dataset
    from vil_tracker.data.root import find_all

    os.path.exists(BEGIN)
    began = time.perf_counter()
    places = find_all(root)  # once for all, as a training run does
    count = sum(len(open_dataset(n, data_root=root, cache_dir=cache, trust=trust, places=places)) for n in names)
    seconds = time.perf_counter() - began
    os.path.exists(END)
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent before exec
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return {"sequences": count, "seconds": seconds, "peak_mib": peak}


def measure(names: list[str], root: Path, cache: Path, *, trust: bool = False, calls: bool = False) -> dict[str, float]:
    """:func:`measured_here` in a process of its own; with ``calls`` also the number of file system calls."""
    command = [sys.executable, __file__, "--child", *names, "--work", str(root), "--cache-dir", str(cache)]
    command += ["--trust"] if trust else []
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        if calls:
            command = ["strace", "-f", "-o", str(trace), "-e", "trace=%file,getdents64,fstat", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"indexing {', '.join(names)} failed: {done.stderr.strip()[-500:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        if calls:
            lines = trace.read_text().splitlines()
            first, last = (next(i for i, line in enumerate(lines) if mark in line) for mark in (BEGIN, END))
            found["calls"] = sum("resumed>" not in line for line in lines[first + 1 : last])
    return found


def run(args: argparse.Namespace) -> int:
    if args.child:
        print(json.dumps(measured_here(args.child, args.work, args.cache_dir, args.trust)))
        return 0
    if shutil.which("strace") is None:
        raise UserError("file system calls are counted with strace: install it")
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for share in args.shares:
            root, cache = Path(folder) / f"{share}", Path(folder) / f"cache-{share}"
            build_tree(root, share, args.frames)
            for name in OFFICIAL:
                row = measure([name], root, cache)
                row["calls"] = measure([name], root, Path(folder) / "counted", calls=True)["calls"]
                rows.setdefault(name, []).append(row)
                _report(f"{name}, {share:g} of it, no index", row)
            for trust in (False, True):
                what = "trusted" if trust else "checked"
                row = measure(list(OFFICIAL), root, cache, trust=trust)
                row["calls"] = measure(list(OFFICIAL), root, cache, trust=trust, calls=True)["calls"]
                rows.setdefault(what, []).append(row)
                _report(f"all four, {share:g} of them, index {what}", row)
            shutil.rmtree(root)
    import torch  # the processes that index do without

    from vil_tracker.benchmarking.machine import describe_machine

    found = {"machine": describe_machine(torch.device("cpu")), "frames": args.frames, "rows": rows}
    for what, measured in rows.items():
        if len(measured) > 2:
            fit = linear_fit([row["sequences"] for row in measured], [row["seconds"] for row in measured])
            found.setdefault("fits", {})[what] = fit
            print(f"{what}: {fit['start']:.2f} s + {1e3 * fit['slope']:.3f} ms per sequence, R² {fit['r2']:.4f}")
    if args.json:
        write_json(args.json, found)
    return 0


def _report(what: str, row: dict[str, Any]) -> None:
    print(
        f"{what}: {row['sequences']} sequences, {row['seconds']:.2f} s, {row['calls']} calls, "
        f"peak {row['peak_mib']:.0f} MiB",
        flush=True,
    )


def linear_fit(x: list[float], y: list[float]) -> dict[str, float]:
    """Least squares line, and the share of the variance that it explains."""
    slope, start = np.polyfit(x, y, 1)
    left = np.var(np.array(y) - slope * np.array(x) - start)
    return {"start": float(start), "slope": float(slope), "r2": float(1 - left / max(np.var(y), 1e-12))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the trees, on a disk with hard links")
    parser.add_argument("--frames", type=float, default=0.1, help="share of each sequence's frames (default 0.1)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="of the sequences")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--cache-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trust", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    return cli.guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
