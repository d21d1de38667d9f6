"""Average the weights of training runs that went on from one another: their mean often follows better than each one.
With one file, and --dtype int8, make it small enough to ship.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", 2022.

example: python scripts/average_weights.py runs/first/weights.safetensors runs/second/weights.safetensors \\
           --output runs/mean.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vil_tracker.cli import guarded
from vil_tracker.errors import UserError
from vil_tracker.models.pretrained import load_model, save_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="names of shipped weights, or files")
    parser.add_argument("--output", type=Path, required=True, help="file to write, without a calibration")
    parser.add_argument(
        "--dtype",
        choices=("float16", "int8"),
        default="float16",
        help="precision of the file; int8 keeps the large matrices in half of the space (default: float16)",
    )
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    networks = [load_model(name, device="cpu") for name in args.weights]
    first = networks[0]
    for name, network in zip(args.weights, networks, strict=True):
        if network.config != first.config:
            raise UserError(f"{name} is another network than {args.weights[0]}: average runs of one model section")
    states = [network.state_dict() for network in networks]
    first.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    save_model(first, args.output, dtype=getattr(torch, args.dtype))
    print(f"wrote {args.output}, the mean of {len(states)}: fit its score with scripts/calibrate.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
