"""What bfloat16 and int8 cost in accuracy: overlap with float32's boxes, and success AUC; writes JSON.

Overlap is given twice: of the boxes found in the same crops with the same templates and context, and of sessions that
each follow their own boxes, where a rounding may grow once a track hangs in the balance.

example: python scripts/precision.py nano --data-root DIR --json docs/results/precision.json
         DIR: sequences as vil-tracker evaluate --benchmark folder reads them, or several such folders
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from weights_script import start, weights_parser

from vil_tracker.benchmarking.machine import describe_machine
from vil_tracker.config import TrackConfig, load_config
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.sequence import Sequence
from vil_tracker.errors import write_json
from vil_tracker.evaluation.metrics import success_auc
from vil_tracker.export.parity import Parity, compare
from vil_tracker.models.inference import InferenceNetwork, Precision
from vil_tracker.models.pretrained import load_model

REDUCED: tuple[Precision, ...] = ("bfloat16", "int8")


def auc(sequence: Sequence, boxes: np.ndarray) -> float:
    """Success AUC of boxes (F, 4) of all frames but the first."""
    return success_auc(np.concatenate([sequence.boxes[:1], boxes]), sequence.boxes)


def summary(sequences: list[Sequence], parities: list[Parity]) -> dict[str, Any]:
    """Of one precision beside float32: AUC is the mean over sequences, overlaps are over all frames."""
    same = np.concatenate([parity.same_crops for parity in parities])
    own = np.concatenate([parity.own_tracks for parity in parities])
    pairs = [(auc(s, p.tracks[0]), auc(s, p.tracks[1])) for s, p in zip(sequences, parities, strict=True)]
    return {
        "crops": len(same),
        "frames": len(own),
        "same_crops": {"mean": float(same.mean()), "least": float(same.min())},
        "own_tracks": {"mean": float(own.mean()), "least": float(own.min())},
        "auc": float(np.mean([ours for _, ours in pairs])),
        "auc_float32": float(np.mean([reference for reference, _ in pairs])),
        "sequences": {
            sequence.name: {"own_tracks": float(parity.own_tracks.mean()), "auc": ours, "auc_float32": reference}
            for sequence, parity, (reference, ours) in zip(sequences, parities, pairs, strict=True)
        },
    }


def line(name: str, found: dict[str, Any]) -> str:
    """A summary on one line."""
    return (
        f"{name}: IoU with float32 {found['same_crops']['mean']:.5f} on the same crops, "
        f"{found['own_tracks']['mean']:.5f} on tracks of their own; AUC {found['auc']:.4f}, "
        f"float32 {found['auc_float32']:.4f}"
    )


def run(args: argparse.Namespace) -> int:
    config = load_config(args.config).track if args.config else TrackConfig()
    network = load_model(args.weights, args.device)
    reference = InferenceNetwork(network)
    found: dict[str, Any] = {
        "machine": describe_machine(reference.device),
        "weights": args.weights,
        "config": args.config,
        "sets": {},
    }
    for folder in args.data_root:
        sequences = list(open_folder(folder))
        results = found["sets"].setdefault(folder.resolve().name, {})
        for precision in args.dtype:
            reduced = InferenceNetwork(network, precision)
            parities = [
                compare(reference, reduced, (s.frames[i] for i in range(len(s))), s.boxes[0], config)
                for s in tqdm(sequences, desc=f"{folder.name}, {precision}", disable=None)
            ]
            results[precision] = summary(sequences, parities)
            print(line(f"{folder.name}, {precision}", results[precision]), flush=True)
    write_json(args.json, found)
    return 0


def main() -> int:
    parser = weights_parser(__doc__)
    parser.add_argument("--data-root", type=Path, nargs="+", required=True, metavar="DIR", help="folders of sequences")
    parser.add_argument("--dtype", nargs="+", default=REDUCED, choices=REDUCED, help="precisions (default both)")
    parser.add_argument("--config", metavar="FILE", help="YAML whose track section configures the sessions")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    return start(parser, run)


if __name__ == "__main__":
    sys.exit(main())
