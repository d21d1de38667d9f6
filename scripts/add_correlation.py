"""Add NanoTrack V3's head to a network with the mobile stem, as its correlation.

    python scripts/add_correlation.py tiny.safetensors PEERS/nanotrack_head.onnx --output tiny_correlation.safetensors

The rest of the network stays as it is. Its stem should have the features of NanoTrack V3's backbone
(scripts/replace_stem.py), and its score has to be calibrated anew (scripts/calibrate.py).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from vil_tracker.cli import guarded
from vil_tracker.errors import UserError
from vil_tracker.models.correlation import load_correlation
from vil_tracker.models.network import build_network
from vil_tracker.models.pretrained import load_model, load_weights, save_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="name or file of the weights")
    parser.add_argument("head", type=Path, help="nanotrack_head.onnx of V3")
    parser.add_argument("--share", type=float, default=0.5, help="its share in the maps (default: 0.5)")
    parser.add_argument("--output", type=Path, required=True, help="weights file to write")
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if not args.share > 0:
        raise UserError(f"--share {args.share} adds nothing: give one between 0 and 1")
    network = build_network(replace(load_model(args.weights, "cpu").config, correlation=args.share))
    load_weights(network, args.weights)
    assert network.correlation is not None
    load_correlation(network.correlation, args.head)
    save_model(network, args.output, dtype=torch.float16)
    return 0


if __name__ == "__main__":
    sys.exit(main())
