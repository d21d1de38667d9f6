"""Random reads of frames from single files, from the archives of ``vil-tracker data pack``, and from LMDB.

Files are dropped from the system's cache before each pass, so that the disk is measured.

example: python scripts/bench_packed.py --work /data/bench
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vil_tracker import cli
from vil_tracker.packed import ARCHIVE, pack_tree, read_file


def forget(root: Path) -> None:
    """Drop what the system holds of the files below a folder."""
    os.sync()
    for path in root.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def timed(read: Callable[[str], bytes], names: list[str]) -> float:
    """Milliseconds of one read."""
    began = time.perf_counter()
    total = sum(len(read(name)) for name in names)
    assert total > 0
    return 1e3 * (time.perf_counter() - began) / len(names)


def run(args: argparse.Namespace) -> int:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        files, packed = Path(folder) / "files", Path(folder) / "packed"
        names = [f"{s:05d}/{i:08d}.jpg" for s in range(args.sequences) for i in range(args.frames)]
        for name in names:
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (files / name).write_bytes(rng.bytes(args.bytes))
        pack_tree(files, packed, frozenset({".jpg"}))
        forms: dict[str, tuple[Path, Callable[[str], bytes]]] = {
            "files": (files, lambda name: read_file(f"{files}/{name}")),
            ARCHIVE: (packed, lambda name: read_file(f"{packed}/{name}")),
        }
        try:
            import lmdb

            base = Path(folder) / "lmdb"
            store = lmdb.open(str(base), map_size=1 << 40)
            with store.begin(write=True) as writing:
                for name in names:
                    writing.put(name.encode(), (files / name).read_bytes())
            reading = store.begin(buffers=False)
            forms["LMDB"] = (base, lambda name: reading.get(name.encode()))
        except ImportError:
            print("LMDB is not installed: left out")
        chosen = [names[i] for i in rng.permutation(len(names))[: args.reads]]
        for name, (where, read) in forms.items():
            forget(where)
            first, again = timed(read, chosen), timed(read, chosen)
            entries = sum(1 for _ in where.rglob("*"))
            print(f"{name}: {entries} entries, {first:.3f} ms a read, {again:.3f} ms when cached")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder on the disk to measure")
    parser.add_argument("--sequences", type=int, default=40, help="(default 40)")
    parser.add_argument("--frames", type=int, default=500, help="frames of each (default 500)")
    parser.add_argument("--bytes", type=int, default=30_000, help="of a frame (default 30,000)")
    parser.add_argument("--reads", type=int, default=5000, help="frames read (default 5,000)")
    args = parser.parse_args()
    return cli.guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
