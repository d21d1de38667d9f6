"""Short runs of equal budget that decide something, each over several seeds; finished ones are kept and not run again.

The first group trains nano from nothing on synthetic pairs, the second its temporal part from given weights on
synthetic clips, the third trains given weights on real video beside a teacher (DATA holds video/ and, of
label_videos.py, video_tracks/). Each run is one `vil-tracker train` with a few values replaced, then measured on
held-out samples of the full mixture and, with --sequences, on sequences tracked from their first frame with the
network's own score (no calibration, so that nothing but the network is compared).

example: python scripts/ablations.py pairs --data-root DATA --cache runs/cache --sequences DIR --output runs/ablations
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vil_tracker.cli import guarded
from vil_tracker.config import Config, TrackConfig, load_config, override
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.root import data_root
from vil_tracker.data.sources import build_source
from vil_tracker.errors import write_json
from vil_tracker.evaluation.metrics import success_auc
from vil_tracker.evaluation.run import track_sequence
from vil_tracker.models.pretrained import load_model
from vil_tracker.runtime import keep_freed_memory
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training.validation import Validation


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        change: what differs from the group's first arm, as ``--set`` takes it; {teacher} stands for --teacher.
        budget: factor on the number of steps, where a step costs more or less than the first arm's.
        tracks: whether a session can run the network (one scanned as a whole has no template memory).
    """

    change: tuple[str, ...] = ()
    budget: float = 1.0
    tracks: bool = True


@dataclass(frozen=True)
class Group:
    """Arms that start from the same configuration, the first of them unchanged."""

    config: str
    steps: int
    base: tuple[str, ...]
    arms: dict[str, Arm]
    needs: tuple[str, ...] = ()  # options that the group cannot do without


GROUPS = {
    "pairs": Group(
        "configs/nano_starter.yaml",
        260,
        ("train.warmup_steps=40", "train.final_lr_scale=0.05", "data.curriculum=0.2", "train.ema_decay=0.98"),
        {
            "prefix scan, convolutional stem, all kinds, crops 64/128": Arm(),
            "whole-sequence flip": Arm(("model.scan=flip",), tracks=False),
            "patch-embedding stem": Arm(("model.stem=patch",)),
            "self-supervised views of photos only": Arm(("data.sources=[{name: synthetic_pairs, kinds: still}]",)),
            "cut-outs only": Arm(('data.sources=[{name: synthetic_pairs, kinds: "cutout,pseudo"}]',)),
            # Equal time, not equal pairs: one of these pairs costs 2.5 of the smaller ones.
            "crops 96/192, equal time": Arm(("model.template_size=96", "model.search_size=192"), budget=0.4),
        },
    ),
    "clips": Group(
        "configs/nano_clips_starter.yaml",
        100,
        ("train.warmup_steps=10", "train.final_lr_scale=0.05", "train.ema_decay=0.95"),
        {
            "temporal FiLM, registered": Arm(),
            "temporal FiLM, not registered": Arm(("track.registration=false",)),
            "no temporal FiLM": Arm(("track.temporal=false",)),
        },
        needs=("weights",),
    ),
    "teacher": Group(
        "configs/nano_video.yaml",
        160,
        ("train.warmup_steps=10", "train.ema_decay=0.97"),
        {
            "no teacher": Arm(),
            "its features": Arm(("train.teacher={teacher}", "train.loss_teacher_score=0")),
            "its score maps": Arm(("train.teacher={teacher}", "train.loss_teacher_features=0")),
            "its boxes in unlabelled videos": Arm(
                (
                    'data.sources=[{name: "folder:video", names: "!drone_*", weight: 0.45}, '
                    '{name: "folder:video", names: "drone_*", weight: 0.05}, '
                    '{name: "folder:video_tracks", weight: 0.25}, {name: synthetic_pairs, weight: 0.25}]',
                )
            ),
        },
        needs=("weights", "teacher"),
    ),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds the training data")
    parser.add_argument("--cache", type=Path, help="where decoded photos are kept")
    parser.add_argument("--sequences", type=Path, help="folder of sequences to track; never trained on")
    parser.add_argument("--weights", help="the weights to start from, with clips and teacher")
    parser.add_argument("--teacher", type=Path, help="folder of NanoTrack V3's ONNX files, with teacher")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of GROUP.json")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps of the first arm (default: the group's)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    group = GROUPS[args.group]
    for option in group.needs:
        if getattr(args, option) is None:
            parser.error(f"{args.group} needs --{option}")
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name, arm in group.arms.items():
            scores = one_run(args, group, name, arm, seed)
            results.setdefault(name, []).append(scores)
            print(
                f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.4f}" for key, value in scores.items()), flush=True
            )
            write_json(args.output / f"{args.group}.json", results, indent=1)
    print_table(results)
    return 0


def one_run(args: argparse.Namespace, group: Group, name: str, arm: Arm, seed: int) -> dict[str, float]:
    """Train and measure one arm with one seed, or read what was measured before."""
    folder = args.output / args.group / f"{name.replace(' ', '_').replace(',', '').replace('/', '-')}-{seed}"
    done = folder / "scores.json"
    if done.exists():
        return json.loads(done.read_text())
    steps = round((args.steps or group.steps) * arm.budget)
    change = [value.replace("{teacher}", str(args.teacher)) for value in arm.change]
    changes = [*group.base, *change, f"train.steps={steps}", f"train.seed={seed + 1}", "train.validation_pairs=0"]
    if args.weights:
        changes.append(f"train.init_from={args.weights}")
    command = [sys.executable, "-m", "vil_tracker", "train", group.config, "--output", str(folder), "--quiet"]
    command += ["--data-root", str(args.data_root), "--threads", str(args.threads), "--set", *changes]
    if args.cache:
        command += ["--cache", str(args.cache)]
    subprocess.run(command, check=True)
    scores = measure(args, override(load_config(group.config), changes), arm, folder / "weights.safetensors")
    done.write_text(json.dumps(scores) + "\n")
    return scores


def measure(args: argparse.Namespace, config: Config, arm: Arm, weights: Path) -> dict[str, float]:
    """Mean overlap on 256 held-out samples of the unchanged mixture, and mean success AUC on --sequences."""
    network = load_model(str(weights)).eval()
    plain = replace(config.data, sources=load_config(GROUPS[args.group].config).data.sources)
    clips = plain.mode == "clips"
    held_out = replace(config, data=plain, train=replace(config.train, seed=0, validation_pairs=64 if clips else 256))
    source = build_source(held_out, data_root(args.data_root), args.cache)
    scores = Validation(held_out, source).measure(network)
    if args.sequences and arm.tracks:
        track = replace(
            TrackConfig(),
            calibrated=False,
            temporal=config.track.temporal and clips,
            registration=config.track.registration,
        )
        aucs = []
        for sequence in tqdm(open_folder(args.sequences), unit="sequence", disable=None):
            found = track_sequence(Tracker(network, track), sequence)
            aucs.append(success_auc(found.boxes, np.where(sequence.visible[:, None], sequence.boxes, np.nan)))
        scores["auc"] = float(np.mean(aucs))
    return scores


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Mean over the seeds, with the least and the largest."""
    keys = list(dict.fromkeys(key for runs in results.values() for scores in runs for key in scores))
    print("| arm | " + " | ".join(keys) + " |")
    print("|---" * (len(keys) + 1) + "|")
    for name, runs in results.items():
        cells = []
        for key in keys:
            values = [scores[key] for scores in runs if key in scores]
            spread = f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "–"
            cells.append(spread)
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(guarded(main))
