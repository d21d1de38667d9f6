"""Fit the calibration of the score for a weights file, on clips generated from training photos, and store it there.

example: python scripts/calibrate.py runs/nano/weights.safetensors --data-root ~/data --clips 60
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm
from weights_script import start, weights_parser

from vil_tracker.data.dataset import open_folder
from vil_tracker.data.readers.video_folder import HELD_OUT
from vil_tracker.data.root import data_root
from vil_tracker.data.synthetic.photo_pool import load_photo_pool, part_of
from vil_tracker.errors import UserError
from vil_tracker.evaluation.calibration import auroc, reliability
from vil_tracker.models.pretrained import add_metadata, load_model
from vil_tracker.models.verifier import VerifierNet
from vil_tracker.training.calibrate import Judgements, calibrate, fit_beside_videos, training_clips


def main() -> int:
    parser = weights_parser(__doc__)
    parser.add_argument("--data-root", type=Path, help="folder of photos to train on (default: $VIL_DATA)")
    parser.add_argument("--output", type=Path, help="file to write (default: the weights file itself)")
    parser.add_argument(
        "--verifier", type=Path, help="file of train_verifier.py (default: the network in the shipped weights)"
    )
    parser.add_argument(
        "--held-out",
        metavar="DIR",
        type=Path,
        help="folder of videos with box files that the network was not trained on (of the targets that its "
        "validation.txt lists, where it has one): the score is fitted to them, too",
    )
    parser.add_argument("--clips", type=int, default=60, help="clips in all")
    parser.add_argument("--frames", type=int, default=34, help="frames per clip of the first half")
    parser.add_argument("--seed", type=int, default=0, help="of the clips")
    parser.add_argument("--cache", type=Path, help="folder for decoded photos, kept for the next run")
    return start(parser, run)


def run(args: argparse.Namespace) -> int:
    model = load_model(args.weights, device=args.device)
    output = args.output or Path(args.weights)
    if args.output is None and not output.is_file():
        raise UserError(f"{args.weights} is shipped with the package: say with --output where to write")
    begin = time.perf_counter()
    verifier = read_verifier(args.verifier)
    pool = part_of(load_photo_pool(data_root(args.data_root), args.cache), aside=True)
    with tqdm(total=args.clips, unit="clip", disable=None) as bar:
        clips = training_clips(pool, args.clips, args.frames, args.seed)
        calibration, data, probability = calibrate(
            model, clips, args.clips, verifier=verifier, on_clip=lambda done: bar.update(done - bar.n)
        )
    tell("answers on undisturbed clips", data, probability)
    if args.held_out is not None:
        split = "validation" if (args.held_out / HELD_OUT).is_file() else ""
        videos = open_folder(args.held_out, split=split)
        calibration, seen, probability = fit_beside_videos(model, calibration, data, videos)
        tell(f"answers on {len(videos)} videos", seen, probability)
    print(f"{time.perf_counter() - begin:.0f} s")
    add_metadata(args.weights, output, {"calibration": calibration.to_json()})
    print(f"wrote {output}")
    return 0


def tell(what: str, data: Judgements, probability: np.ndarray) -> None:
    """How good the answers are, predicted with their clip or video left out of the fit."""
    shown = data.reported & data.typical
    error, _ = reliability(probability[shown], data.correct[shown])
    area = auroc(1 - probability[shown], ~data.correct[shown])
    print(
        f"{len(data.correct)} boxes judged, {data.correct.mean():.0%} right; {what}, left out of the fit, "
        f"{data.correct[shown].mean():.0%} right: expected calibration error {error:.3f}, AUROC of the lost signal "
        f"{area or float('nan'):.3f}"
    )


def read_verifier(path: Path | None) -> VerifierNet:
    """The verifier network of a file, or that of the shipped weights."""
    if path is None:
        # Not by Calibration.from_json: this is how a calibration of another version is mended.
        text = json.loads(load_model(device="cpu").calibration or "{}").get("likeness")
        if text is None:
            raise UserError("the shipped weights hold no verifier network: give a file of train_verifier.py")
        return VerifierNet.from_text(text)
    try:
        return VerifierNet.from_text(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --verifier {path} ({error}): give a file of train_verifier.py") from error


if __name__ == "__main__":
    sys.exit(main())
