"""``vil-tracker export``: write the network for other runtimes."""

from __future__ import annotations

import argparse
import sys

from vil_tracker.errors import UserError

EPILOG = """\
examples:
  vil-tracker export --format onnx --output nano-onnx
  vil-tracker export --weights my.safetensors --format torch-export --output my-export
  vil-tracker track video.mp4 --box 120,80,64,48 --weights nano-onnx --backend onnxruntime

The folder holds two graphs for any batch size: template (crop, box, memory -> memory) and frame (crop, memory, context,
window -> boxes, scores, maps, features, context), and model.json with the settings of the crops.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``export`` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write the network for other runtimes",
        description="Write the network as two graphs for another runtime, and check that it finds the same boxes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--weights", default="nano", metavar="NAME|FILE", help="shipped weights by name, or a file (default nano)"
    )
    parser.add_argument(
        "--format", default="onnx", choices=("onnx", "torch-export", "openvino"), help="what to write (default onnx)"
    )
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--parity-frames",
        type=int,
        default=100,
        metavar="N",
        help="frames of a painted clip on which the boxes are compared (default 100; 0 compares nothing)",
    )


def run(args: argparse.Namespace) -> int:
    """Run ``export``; returns 0, or 1 if the boxes differ."""
    if args.parity_frames < 0:
        raise UserError(f"--parity-frames {args.parity_frames} is negative: give how many frames to compare, or 0")
    from vil_tracker.data.demo_clip import DemoClip
    from vil_tracker.export.parity import REQUIRED, compare
    from vil_tracker.export.runner import ExportedModel
    from vil_tracker.export.write import export_network
    from vil_tracker.models.pretrained import load_model
    from vil_tracker.runtime import keep_freed_memory

    keep_freed_memory()
    network = load_model(args.weights, device="cpu")
    folder = export_network(network, args.output, args.format)
    print(f"wrote {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if args.parity_frames == 0:
        return 0
    clip = DemoClip(frames=args.parity_frames + 1)
    parity = compare(network, ExportedModel(folder), list(clip), clip.boxes[0])
    print(
        f"same boxes as the network over {parity.frames} frames: IoU {parity.mean:.6f} mean, {parity.least:.6f} least"
    )
    if not parity.holds:
        print(f"vil-tracker: an exported network should reach {REQUIRED} on every frame", file=sys.stderr)
        return 1
    return 0
