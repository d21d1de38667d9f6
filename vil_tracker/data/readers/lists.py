"""The benchmarks' own sequence lists, shipped as text in `vil_tracker/data/splits/`."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def read_list(name: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a list as tuples of words, without comments and empty lines."""
    text = resources.files("vil_tracker.data").joinpath("splits").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return tuple(tuple(row) for row in rows if row)
