"""Measure the lost signal and the recovery on generated clips whose target vanishes once.

Each clip hides the target for 20 to 60 frames behind something, lets it leave the frame for as long, or moves it to
any other place at once. Objects and scenes are cut out of the sequences in the given folders, so that they can be ones
that the network was not trained on.

example: python scripts/eval_recovery.py nano --objects ~/data/davis --clips 200 --json recovery.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm
from weights_script import start, weights_parser

from vil_tracker.boxes import iou
from vil_tracker.config import TrackConfig
from vil_tracker.config.command_line import add_track_options, track_config
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.sequence import Sequence as Clip
from vil_tracker.data.synthetic.clips import ClipConfig, SyntheticClips
from vil_tracker.data.synthetic.photo_pool import PhotoPool, pool_from_arrays
from vil_tracker.errors import UserError, write_json
from vil_tracker.evaluation.calibration import ConfidenceFrames, measure
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.models.pretrained import load_model
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking.tracker import Tracker

EVENTS = ("occlusion", "leave", "jump")
FRAMES = 130
WITHIN = 10  # frames
BACK_IN_SIGHT = 0.5  # visible share from which on the target counts as there again
SCORE_FIGURES = ("frames", "correct_share", "ece", "auroc_lost", "confidently_wrong", "absent", "reliability")


@dataclass
class Outcome:
    """One clip.

    Attributes:
        delay: frames from reappearance until the overlap is above 0.5; None if not within WITHIN.
        before: whether the tracker was on the target in the last frame that showed it.
        shares: parts of the time outside crop and network, per frame in state "tracking".
        seconds: time per frame by whether the target was lost.
    """

    event: str
    delay: int | None
    before: bool
    frames: ConfidenceFrames
    shares: list[float]
    seconds: dict[str, list[float]]


def object_pool(folders: Sequence[Path], per_sequence: int = 3) -> PhotoPool:
    """Cut the annotated objects out of a few frames of every sequence; the frames serve as scenes."""
    photos: list[np.ndarray] = []
    objects: list[tuple[int, np.ndarray, np.ndarray | None, str]] = []
    origins: list[int] = []
    for number, sequence in enumerate(sequence for folder in folders for sequence in open_folder(folder)):
        usable = np.flatnonzero(sequence.visible & np.isfinite(sequence.boxes).all(1))
        for index in usable[np.linspace(0, len(usable) - 1, min(per_sequence, len(usable))).astype(int)]:
            objects.append((len(photos), sequence.boxes[index], None, "object"))
            photos.append(sequence.frames[int(index)])
            origins.append(number)
    return pool_from_arrays(photos, objects, origins=origins, segment=True)


def sample(pool: PhotoPool, event: str, rng: np.random.Generator) -> tuple[Clip, int, int]:
    """A clip with one event, the last frame before it, and the frame in which the target is back in sight."""
    config = ClipConfig(
        occlusion=float(event == "occlusion"), leave=float(event == "leave"), jump=float(event == "jump")
    )
    clips = SyntheticClips(pool, config)
    while True:
        clip = clips.sample_clip(rng, FRAMES)
        if event == "jump":
            centres = clip.boxes[:, :2] + clip.boxes[:, 2:] / 2
            moved = np.linalg.norm(np.diff(centres, axis=0), axis=1) / np.sqrt(clip.boxes[1:, 2:].prod(1))
            if np.isfinite(moved).all() and moved.max() > 1:
                last = int(moved.argmax())
                return clip, last, last + 1
            continue
        gone = np.flatnonzero(clip.absent)
        if not len(gone):
            continue
        seen = np.flatnonzero(clip.cover >= BACK_IN_SIGHT)
        before, after = seen[seen < gone[0]], seen[seen > gone[-1]]
        if len(before) and len(after) and len(clip.boxes) - after[0] > WITHIN:
            return clip, int(before[-1]), int(after[0])


def run_clip(model: ViLTrackerNet, config: TrackConfig, clip: Clip, event: str, last: int, back: int) -> Outcome:
    timer = StageTimer()
    tracker = Tracker(model, config, timer)
    tracker.init(clip.frames[0], clip.boxes[0])
    stop = back + WITHIN + 1
    results, shares = [], []
    seconds: dict[str, list[float]] = {"lost": [], "other": []}
    lost = False
    for index in range(1, stop):
        frame, begin, inside = clip.frames[index], time.perf_counter(), sum(timer.seconds.values())
        result = tracker.update(frame)
        spent = time.perf_counter() - begin
        seconds["lost" if lost else "other"].append(spent)
        if result.state == "tracking" and not lost:
            shares.append(1 - (sum(timer.seconds.values()) - inside) / spent)
        lost = result.state == "lost"
        results.append(result)
    overlap = iou(np.stack([result.box for result in results]), clip.boxes[1:stop])
    found = np.flatnonzero(overlap[back - 1 :] > 0.5)
    frames = ConfidenceFrames(
        np.array([result.score for result in results]),
        overlap,
        clip.absent[1:stop],
        np.array([result.state == "lost" for result in results]),
    )
    before = bool(last == 0 or overlap[last - 1] > 0.5)
    return Outcome(event, int(found[0]) if len(found) else None, before, frames, shares, seconds)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Figures ready for JSON."""

    def share(chosen: Sequence[Outcome]) -> float | None:
        return sum(outcome.delay is not None for outcome in chosen) / len(chosen) if chosen else None

    scores = measure([outcome.frames for outcome in outcomes]) or {}
    times = {key: [t for outcome in outcomes for t in outcome.seconds[key]] for key in ("lost", "other")}
    return {
        "clips": len(outcomes),
        "recovered": share(outcomes),
        "recovered_by_event": {name: share([o for o in outcomes if o.event == name]) for name in EVENTS},
        "on_target_before": float(np.mean([outcome.before for outcome in outcomes])),
        "recovered_where_on_target_before": share([outcome for outcome in outcomes if outcome.before]),
        **{key: scores.get(key) for key in SCORE_FIGURES},
        "share_outside_network_while_tracking": float(np.median([s for o in outcomes for s in o.shares] or [np.nan])),
        "milliseconds": {key: 1e3 * float(np.median(value)) if value else None for key, value in times.items()},
    }


def main() -> int:
    parser = weights_parser(__doc__)
    parser.add_argument("--objects", type=Path, nargs="+", required=True, help="folders of annotated sequences")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    add_track_options(parser)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return start(parser, run)


def run(args: argparse.Namespace) -> int:
    if args.clips < 1:
        raise UserError(f"--clips {args.clips} is below 1: give how many clips to generate")
    config = track_config(args)
    model = load_model(args.weights, device=args.device)
    pool = object_pool(args.objects)
    if not len(pool.cutouts):
        raise UserError("no object could be cut out of the sequences: give folders with other ones")
    outcomes = []
    for number in tqdm(range(args.clips), unit="clip", disable=None):
        event = EVENTS[number % len(EVENTS)]
        clip, last, back = sample(pool, event, np.random.default_rng((args.seed, number)))
        outcomes.append(run_clip(model, config, clip, event, last, back))
    figures = summarise(outcomes)
    print(json.dumps(figures, indent=2))
    if args.json is not None:
        write_json(args.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
