"""Fit the calibration of the score for a weights file, on clips generated from training photos, and store it there.

example: python scripts/calibrate.py runs/nano/weights.safetensors --data-root ~/data --clips 60
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm
from weights_script import start, weights_parser

from vil_tracker.config import Config, DataConfig, SourceConfig
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.pairs import SequenceSource
from vil_tracker.data.readers.video_folder import HELD_OUT
from vil_tracker.data.root import data_root
from vil_tracker.data.sources import build_source
from vil_tracker.data.synthetic.photo_pool import held_aside, load_photo_pool
from vil_tracker.errors import UserError
from vil_tracker.evaluation.calibration import auroc, reliability
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.models.pretrained import add_metadata, load_model
from vil_tracker.models.verifier import VerifierNet
from vil_tracker.tracking.confidence_model import ConfidenceModel
from vil_tracker.training.calibrate import calibrate, mixed_clips, rescale, training_clips, video_clips

VIDEO_FRAMES = 100  # of each video of --scale-on


def main() -> int:
    parser = weights_parser(__doc__)
    parser.add_argument("--data-root", type=Path, help="folder of photos to train on (default: $VIL_DATA)")
    parser.add_argument("--output", type=Path, help="file to write (default: the weights file itself)")
    parser.add_argument(
        "--verifier", type=Path, help="file of train_verifier.py (default: the network in the shipped weights)"
    )
    parser.add_argument(
        "--videos",
        metavar="NAME",
        help="data set of which every third clip is taken, such as folder:video; its split train",
    )
    parser.add_argument(
        "--scale-on",
        metavar="DIR",
        type=Path,
        help="folder of videos with box files (of its held-out targets, where it lists some), to which temperature and "
        "bias are fitted at the end; with --clips 0 nothing else is",
    )
    parser.add_argument("--names", default="", help="patterns of the videos to use, as in data.sources")
    parser.add_argument("--clips", type=int, default=60, help="clips in all")
    parser.add_argument("--frames", type=int, default=34, help="frames per clip")
    parser.add_argument("--seed", type=int, default=0, help="of the clips")
    parser.add_argument("--cache", type=Path, help="folder for decoded photos, kept for the next run")
    return start(parser, run)


def run(args: argparse.Namespace) -> int:
    model = load_model(args.weights, device=args.device)
    output = args.output or Path(args.weights)
    if args.output is None and not output.is_file():
        raise UserError(f"{args.weights} is shipped with the package: say with --output where to write")
    if args.clips == 0:
        if args.scale_on is None or model.calibration is None:
            raise UserError("--clips 0 scales a calibration that is there: give --scale-on DIR and calibrated weights")
        write(args, output, scaled(model, ConfidenceModel.from_json(model.calibration), args.scale_on))
        return 0
    begin = time.perf_counter()
    verifier = read_verifier(args.verifier)
    pool = held_aside(load_photo_pool(data_root(args.data_root), args.cache))
    with tqdm(total=args.clips, unit="clip", disable=None) as bar:
        clips = training_clips(pool, args.clips, args.frames, args.seed)
        if args.videos:
            config = Config(model=model.config, data=DataConfig(sources=(SourceConfig(args.videos, names=args.names),)))
            source = build_source(config, args.data_root, args.cache).sources[0]
            if not isinstance(source, SequenceSource):
                raise UserError(f"--videos {args.videos} is composed, not a data set of videos: give folder:PATH")
            clips = mixed_clips(clips, video_clips(source, args.clips, args.frames, args.seed))
        calibration, data, probability = calibrate(
            model, clips, args.clips, verifier=verifier, on_clip=lambda done: bar.update(done - bar.n)
        )
    shown = data.reported & data.typical
    error = reliability(probability[shown], data.correct[shown]).expected_error
    area = auroc(1 - probability[shown], ~data.correct[shown])
    print(
        f"{len(shown)} boxes judged, {data.correct.mean():.0%} right; answers on undisturbed clips, left out of the "
        f"fit, {data.correct[shown].mean():.0%} right: expected "
        f"calibration error {error:.3f}, AUROC of the lost signal {area or float('nan'):.3f}, temperature "
        f"{calibration.temperature:.2f}; {time.perf_counter() - begin:.0f} s"
    )
    write(args, output, calibration if args.scale_on is None else scaled(model, calibration, args.scale_on))
    return 0


def scaled(model: ViLTrackerNet, calibration: ConfidenceModel, folder: Path) -> ConfidenceModel:
    """With temperature and bias from the videos of a folder."""
    sequences = open_folder(folder, split="validation" if (folder / HELD_OUT).is_file() else "")
    calibration, data = rescale(model, calibration, tqdm(sequences, unit="video", disable=None), frames=VIDEO_FRAMES)
    print(
        f"{len(sequences)} videos, {len(data.correct)} answers, {data.correct.mean():.0%} right: "
        f"temperature {calibration.temperature:.2f}"
    )
    return calibration


def write(args: argparse.Namespace, output: Path, calibration: ConfidenceModel) -> None:
    add_metadata(args.weights, output, {"calibration": calibration.to_json()})
    print(f"wrote {output}")


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
