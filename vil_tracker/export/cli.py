"""``vil-tracker export``: write the network for other runtimes."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from typing import TYPE_CHECKING

from vil_tracker.config import DEFAULT_WEIGHTS
from vil_tracker.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from vil_tracker.io.source import Source

EPILOG = """\
examples:
  vil-tracker export --format onnx --output tiny-onnx
  vil-tracker export --weights my.safetensors --format torch-export --output my-export
  vil-tracker export --output tiny-onnx --parity-source video.mp4 --parity-box 120,80,64,48
  vil-tracker track video.mp4 --box 120,80,64,48 --weights tiny-onnx --backend onnxruntime

The folder holds two graphs for any batch size: template (crop, box, memory -> memory) and frame (crop, memory, context,
window -> boxes, scores, maps, features, context), and model.json with the settings of the crops.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``export``, its description and its examples."""
    parser.description = "Write the network as two graphs for another runtime, and check that it finds the same boxes."
    parser.epilog = EPILOG
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="NAME|FILE",
        help=f"shipped weights by name, or a file (default {DEFAULT_WEIGHTS})",
    )
    parser.add_argument(
        "--format", default="onnx", choices=("onnx", "torch-export", "openvino"), help="what to write (default onnx)"
    )
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parity = parser.add_argument_group("parity")
    parity.add_argument(
        "--parity-frames",
        type=int,
        default=100,
        metavar="N",
        help="frames on which the boxes are compared (default 100; 0 compares nothing)",
    )
    parity.add_argument(
        "--parity-source",
        metavar="SOURCE",
        help="video file, image folder or glob to compare on (default: a clip painted on the spot)",
    )
    parity.add_argument("--parity-box", metavar="X,Y,W,H", help="the target on its first frame, in pixels")


def run(args: argparse.Namespace) -> int:
    """Run ``export``; returns 0, or 1 if the boxes differ."""
    from vil_tracker.boxes import parse_box

    if args.parity_frames < 0:
        raise UserError(f"--parity-frames {args.parity_frames} is negative: give how many frames to compare, or 0")
    if (args.parity_source is None) != (args.parity_box is None):
        raise UserError("--parity-source and --parity-box go together: give both, or neither for a painted clip")
    box = parse_box(args.parity_box) if args.parity_box is not None else None
    source = None
    if args.parity_source is not None:  # opened before the minutes of an export, so that a wrong path is reported
        from vil_tracker.io.files import open_source

        source = open_source(args.parity_source)
    with contextlib.nullcontext() if source is None else contextlib.closing(source):
        return _export(args, source, box)


def _export(args: argparse.Namespace, source: Source | None, box: np.ndarray | None) -> int:
    from vil_tracker.data.synthetic.demo_clip import DemoClip
    from vil_tracker.export.parity import REQUIRED, compare
    from vil_tracker.export.write import export_network
    from vil_tracker.models.exported import ExportedModel
    from vil_tracker.models.pretrained import load_model
    from vil_tracker.runtime import keep_freed_memory

    keep_freed_memory()
    network = load_model(args.weights, device="cpu")
    folder = export_network(network, args.output, args.format)
    print(f"wrote {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if args.parity_frames == 0:
        return 0
    count = args.parity_frames + 1
    frames: Iterator[np.ndarray]
    if source is not None and box is not None:
        frames = (frame.image for frame in itertools.islice(source, count))
    else:
        clip = DemoClip(frames=count)
        frames, box = iter(clip), clip.boxes[0]
    parity = compare(network, ExportedModel(folder), frames, box)
    same, own = parity.same_crops, parity.own_tracks
    print(
        f"over {parity.frames} frames, on the same crops: IoU {same.mean():.6f} mean, {same.min():.6f} least; "
        f"each following its own boxes: {own.mean():.6f} mean, {own.min():.6f} least"
    )
    if not parity.holds:
        print(f"vil-tracker: an exported network should reach {REQUIRED} on every crop", file=sys.stderr)
        return 1
    return 0
