"""What the scripts that work on a weights file share: their options, and how they begin."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from vil_tracker import cli
from vil_tracker.runtime import keep_freed_memory, set_threads


def weights_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the weights file and the options about the machine."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="name of shipped weights, or a file")
    machine_options(parser)
    return parser


def machine_options(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Add the options about the machine."""
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")


def start(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> int:
    """Read the command line, set the process up as asked for, and run; returns the exit status."""
    args = parser.parse_args()
    keep_freed_memory()
    if args.threads is not None:
        set_threads(max(1, args.threads))
    return cli.guarded(lambda: run(args))
