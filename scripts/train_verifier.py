"""Train the verifier network, which tells the first frame's thing from others, on looks composed from photos.

example: python scripts/train_verifier.py --data-root ~/data --output runs/verifier.txt --steps 6000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from weights_script import machine_options, start

from vil_tracker.data.root import data_root
from vil_tracker.data.synthetic.photo_pool import load_photo_pool
from vil_tracker.errors import UserError, atomic_write
from vil_tracker.models.verifier import VerifierNet
from vil_tracker.training.verifier import train_verifier


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of photos to train on (default: $VIL_DATA)")
    parser.add_argument("--output", type=Path, required=True, help="file to write, for calibrate.py --verifier")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=96, help="samples per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder for decoded photos, kept for the next run")
    machine_options(parser, device=False)
    return start(parser, run)


def run(args: argparse.Namespace) -> int:
    for name in ("steps", "batch"):
        if getattr(args, name) < 2:
            raise UserError(f"--{name} {getattr(args, name)} is below 2: give a larger number")
    pool = load_photo_pool(data_root(args.data_root), args.cache)
    begin = time.perf_counter()

    def report(step: int, loss: float, figures: dict[str, float], network: VerifierNet) -> None:
        with atomic_write(args.output, "w") as stream:
            stream.write(network.to_text())
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"step {step}  loss {loss:.4f}  {shown}  {time.perf_counter() - begin:.0f} s", flush=True)

    train_verifier(
        pool, args.steps, batch=args.batch, lr=args.lr, workers=args.workers, seed=args.seed, on_report=report
    )
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
