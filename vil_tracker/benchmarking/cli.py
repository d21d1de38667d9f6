"""``vil-tracker benchmark``: how fast this machine tracks, and where the time goes."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from vil_tracker.errors import UserError, write_json
from vil_tracker.models.loading import PRECISIONS

EPILOG = """\
examples:
  vil-tracker benchmark --model tiny --weights tiny     the shipped network
  vil-tracker benchmark --model small --threads 2       a size without weights: random ones cost the same time
  vil-tracker benchmark --peers --json benchmark.json   beside OpenCV's trackers and a one-stream ViT
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark``, its description and its examples."""
    parser.description = "Measure a frame part by part and a whole generated video; all figures are medians."
    parser.epilog = EPILOG
    parser.add_argument(
        "--model", default="nano", choices=("nano", "tiny", "small", "base"), help="size of the network (default nano)"
    )
    parser.add_argument("--weights", metavar="NAME|FILE", help="measure these weights instead of random ones")
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["float32"],
        choices=PRECISIONS,
        help="precisions to measure, the first one for whole videos (default float32)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps (default cpu)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network first (minutes, not timed)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="repeats of each timing (default 20)")
    parser.add_argument(
        "--frames", type=int, default=120, metavar="N", help="length of the video (default 120, 0: none)"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="measure OpenCV's trackers, NanoTrack V3 and a one-stream ViT in the same run",
    )
    parser.add_argument("--peers-dir", metavar="DIR", help="folder of the networks of OpenCV's trackers and NanoTrack")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="take the processor time of one thread instead of wall time: for a machine that others use, too",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured")


def run(args: argparse.Namespace) -> int:
    """Run ``benchmark``; returns 0."""
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads {args.threads} is below 1: give how many threads to use")
    if args.repeats < 2:
        raise UserError(f"--repeats {args.repeats} is below 2: give at least 2")
    if args.frames < 2 and args.frames != 0:
        raise UserError(f"--frames {args.frames} is below 2: give at least 2, or 0 to measure no video")
    if args.processor_time and (args.device != "cpu" or args.threads not in (None, 1)):
        raise UserError("--processor-time measures one thread on the CPU: leave --device and --threads out")
    if args.peers_dir and not Path(args.peers_dir).is_dir():
        raise UserError(f"--peers-dir {args.peers_dir}: no such folder")
    from vil_tracker.benchmarking.report import as_text
    from vil_tracker.benchmarking.run import Settings, measure

    same = ("model", "weights", "device", "repeats", "frames", "processor_time", "peers")
    settings = Settings(
        **{name: getattr(args, name) for name in same},
        precisions=tuple(dict.fromkeys(args.dtype)),
        threads=1 if args.processor_time else args.threads,
        compiled=args.compile,
        peers_dir=Path(args.peers_dir) if args.peers_dir else None,
    )
    measured = measure(settings, log=None if getattr(args, "quiet", False) else partial(print, flush=True))
    print(as_text(measured))
    if args.json:
        write_json(args.json, measured)
    return 0
