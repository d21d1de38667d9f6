"""The option that replaces single values of a configuration."""

from __future__ import annotations

import argparse


def add_set_option(parser: argparse._ActionsContainer, help: str) -> None:
    """Add ``--set KEY=VALUE ...``, which may be repeated; :func:`vil_tracker.config.override` reads it."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=help)
