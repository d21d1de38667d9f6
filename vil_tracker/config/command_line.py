"""The options that commands share: ``--config`` and ``--set``."""

from __future__ import annotations

import argparse

from vil_tracker.config import DEFAULT_WEIGHTS, Config, TrackConfig, load_config, override
from vil_tracker.errors import UserError


def add_set_option(parser: argparse._ActionsContainer, help: str) -> None:
    """Add ``--set KEY=VALUE ...``, which may be repeated; :func:`vil_tracker.config.override` reads it."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=help)


def add_model_options(parser: argparse._ActionsContainer, weights: str = "shipped weights by name, or a file") -> None:
    """Add ``--weights``, described so, and ``--device``."""
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, metavar="NAME|FILE", help=f"{weights} (default {DEFAULT_WEIGHTS})"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto)")


def add_track_options(parser: argparse._ActionsContainer) -> None:
    """Add ``--config`` and ``--set``."""
    parser.add_argument("--config", metavar="FILE", help="YAML file whose track section sets thresholds and switches")
    add_set_option(parser, "replace some of them, such as track.redetect=false track.lost_after=5")


def track_config(args: argparse.Namespace) -> TrackConfig:
    """What the options of :func:`add_track_options` say; UserError where they make no sense, or are not ``track``'s."""
    for assignment in args.set:
        if "=" in assignment and not assignment.startswith("track."):
            raise UserError(f"--set {assignment}: only track.KEY=VALUE acts on a session; train reads the others")
    return override(load_config(args.config) if args.config else Config(), args.set).track


def add_engine_options(group: argparse._ActionsContainer, workers: int | None, help: str) -> None:
    """Add ``--workers`` with its default and help, ``--threads``, ``--engine`` and ``--address``, for many videos."""
    group.add_argument("--workers", type=int, default=workers, metavar="N", help=help)
    group.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each process (default 1)")
    group.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="processes of this machine (default), or a Ray cluster whose nodes see the same files (extra ray)",
    )
    group.add_argument(
        "--address", metavar="HOST:PORT", help="with --engine ray: the cluster's (default: one on this machine)"
    )


def check_engine_options(args: argparse.Namespace) -> None:
    """Raise UserError where the options of :func:`add_engine_options` make no sense."""
    for name in ("workers", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} is below 1: give a number from 1 on, or leave it out")
    if args.address is not None and args.engine != "ray":
        raise UserError("--address is that of a Ray cluster: give --engine ray, too")
