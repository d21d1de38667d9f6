"""Measure the boxes that a click proposes: ``python scripts/click_proposals.py --objects DIR [--count 200]``.

DIR holds photos with boxes (``annotations.json``, ``images/``, ``masks/``). The objects are put in an order by a hash
of their names; the first ``--count`` are measured, and the first frames of ``--videos``. ``--fit N`` fits the order of
the proposals to the N after them (and to those first frames), and prints the weights for
``vil_tracker/tracking/proposals.py``. A click lies in the object's mask, off its rim; without a mask, near the middle
of its box.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from vil_tracker.boxes import iou
from vil_tracker.cli import guarded
from vil_tracker.data.dataset import open_folder
from vil_tracker.errors import write_json
from vil_tracker.images import read_image
from vil_tracker.tracking.proposals import find_candidates, measure, propose_boxes

Item = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # kind, image, box xywh, click


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=Path, required=True, metavar="DIR", help="photos with boxes")
    parser.add_argument("--count", type=int, default=200, help="objects to measure (default 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--fit", type=int, metavar="N", help="fit to the N objects after those, and measure nothing")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="also the first frames of these, with their boxes")
    return guarded(lambda: run(parser.parse_args()))


def run(args: argparse.Namespace) -> int:
    if args.fit:
        items = list(objects(args.objects, args.count, args.count + args.fit))
        print(repr(fit(items + (list(first_frames(args.videos)) if args.videos else []))))
        return 0
    measured = itertools.chain(objects(args.objects, 0, args.count), first_frames(args.videos) if args.videos else [])
    rows = [(kind, *serve(image, box, click)) for kind, image, box, click in measured]
    table = [summary("all", rows)] + [summary(kind, rows) for kind in sorted({row[0] for row in rows})]
    print("| objects | clicks | first box ≥ 0.5 | best of three ≥ 0.5 | seconds per click |\n|---|---|---|---|---|")
    for row in table:
        print("| {objects} | {clicks} | {first:.3f} | {best_of_three:.3f} | {seconds:.2f} |".format_map(row))
    if args.json is not None:
        write_json(args.json, table)
    return 0


def serve(image: np.ndarray, box: np.ndarray, click: np.ndarray) -> tuple[bool, bool, float]:
    """Whether the first, and the best of three proposals overlap the object by half, and the seconds it took."""
    begin = time.perf_counter()
    overlaps = [float(iou(proposal, box)) for proposal in propose_boxes(image, click)]
    return overlaps[0] >= 0.5, max(overlaps) >= 0.5, time.perf_counter() - begin


def summary(kind: str, rows: list[tuple[str, bool, bool, float]]) -> dict[str, object]:
    """A row of the table."""
    mine = np.array([row[1:] for row in rows if kind in ("all", row[0])], np.float64)
    first, best, seconds = mine.mean(0).round(4).tolist()
    return {"objects": kind, "clicks": len(mine), "first": first, "best_of_three": best, "seconds": seconds}


def objects(folder: Path, begin: int, end: int) -> Iterator[Item]:
    """Objects of the order by hash from ``begin`` to ``end``."""
    content = json.loads((folder / "annotations.json").read_text())
    images = {image["id"]: image["file_name"] for image in content["images"]}

    def place(entry: dict[str, object]) -> str:
        return hashlib.sha256(f"{images[entry['image_id']]} {entry['id']}".encode()).hexdigest()

    ordered = sorted(content["annotations"], key=place)
    for number, entry in enumerate(tqdm(ordered[begin:end], disable=None), start=begin):
        name, box = images[entry["image_id"]], np.array(entry["bbox"], np.float64)
        mask = cv2.imread(str(folder / "masks" / entry["mask_file"]), 0) if entry.get("mask_file") else None
        yield name.split("_")[0], read_image(folder / "images" / name), box, click_on(box, mask, number)


def first_frames(folder: Path) -> Iterator[Item]:
    """The first frames of the videos of a folder on which the target is seen."""
    for sequence in tqdm(open_folder(folder), disable=None):
        at = int(np.argmax(sequence.visible))
        yield "video", sequence.frames[at], sequence.boxes[at], click_on(sequence.boxes[at], None, at)


def click_on(box: np.ndarray, mask: np.ndarray | None, seed: int) -> np.ndarray:
    """(2,) where a person might click."""
    random = np.random.default_rng(seed)
    if mask is not None:
        depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
        ys, xs = np.nonzero(depth > 0.25 * depth.max())
        at = random.integers(len(xs))
        return np.array([xs[at], ys[at]], np.float64)
    return box[:2] + box[2:] * np.clip(0.5 + 0.12 * random.standard_normal(2), 0.1, 0.9)


def fit(items: list[Item]) -> np.ndarray:
    """Weights by ridge regression of a capped overlap; photos and videos count as much as each other."""
    kinds = np.array([kind == "video" for kind, *_ in items])
    rows, goals, shares = [], [], []
    for (_, image, box, click), video in zip(tqdm(items, disable=None), kinds, strict=True):
        candidates = find_candidates(image, click)
        rows.append(measure(image, click, candidates))
        goals.append(np.clip([(iou(candidate.box, box) - 0.3) / 0.3 for candidate in candidates], 0, 1))
        shares.append(np.full(len(candidates), 1.0 / max(1, int((kinds == video).sum()))))
    x, y, share = np.concatenate(rows), np.concatenate(goals), np.concatenate(shares) * len(items)
    spread = np.maximum(x.std(0), 1e-9)
    spread[0] = 1.0
    z = x / spread
    return np.linalg.solve((z * share[:, None]).T @ z + 3.0 * np.eye(z.shape[1]), (z * share[:, None]).T @ y) / spread


if __name__ == "__main__":
    sys.exit(main())
