"""``vil-tracker train``: train a network from a configuration file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from vil_tracker.config.command_line import add_set_option

EXAMPLE = "example: vil-tracker train configs/nano_starter.yaml --data-root ~/data --output runs/nano"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train`` and its example."""
    parser.epilog = EXAMPLE
    parser.add_argument("config", type=Path, help="configuration file, such as configs/nano_starter.yaml")
    add_set_option(parser, "replace values: train.steps=2000 ...")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data sets (default: $VIL_DATA)")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/<name of the config>)")
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: go on from the newest intact checkpoint in the output folder; never: refuse a folder with one",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: all)")
    parser.add_argument(
        "--cache-dir",
        "--cache",
        dest="cache",
        metavar="DIR",
        type=Path,
        help="where indices and decoded photos are kept, shared by all processes and runs (default: the user's cache "
        "folder; photos only where it is given)",
    )
    parser.add_argument(
        "--trust-index", action="store_true", help="start without looking for changes in the data since it was indexed"
    )
    parser.add_argument(
        "--show-samples", type=int, metavar="N", help="write a contact sheet of N samples with their boxes and stop"
    )
    parser.add_argument(
        "--first-sample", type=int, default=0, metavar="INDEX", help="with --show-samples: where in the run to start"
    )


def run(args: argparse.Namespace) -> int:
    """Train, or write a contact sheet of samples; returns 0."""
    import torch

    from vil_tracker.config import load_config, override
    from vil_tracker.data.root import data_root
    from vil_tracker.data.sources import build_source
    from vil_tracker.errors import UserError
    from vil_tracker.models.pretrained import resolve_device
    from vil_tracker.runtime import Ranks, keep_freed_memory
    from vil_tracker.training.loop import train
    from vil_tracker.training.validation import build_validation

    keep_freed_memory()
    first = Ranks.from_environment().main  # of several processes, one speaks
    logging.getLogger("vil_tracker").setLevel(logging.INFO if first and not args.quiet else logging.ERROR)
    config = override(load_config(args.config), args.set)
    root = data_root(args.data_root)
    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f"--threads {args.threads} is below 1: give a number of CPU threads, or leave it out")
        torch.set_num_threads(args.threads)
    output = args.output or Path("runs") / args.config.stem
    source = build_source(config, root, args.cache, trust=args.trust_index)
    if args.show_samples is not None:
        from vil_tracker.training.show_samples import write_contact_sheet

        path = write_contact_sheet(config, source, output / "samples.png", args.show_samples, args.first_sample)
        print(f"samples: {path}")
        return 0
    weights = train(
        config,
        source,
        output,
        device=resolve_device(args.device),
        resume=args.resume == "auto",
        validation=build_validation(config, root, source, args.cache, trust=args.trust_index),
        progress=not args.quiet,
    )
    if first:
        print(f"weights: {weights}")
    return 0
