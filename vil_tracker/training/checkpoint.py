"""Checkpoints that survive a kill or a full disk at any moment.

A training state is one file, ``step_<number>.<first 16 hex digits of its sha256>.pt``, written beside and renamed into
place. The digest in the name tells a torn or altered file from a good one before anything of it is read; it loads with
``weights_only=True``, so that no code in it can run. The last two are kept: if the newest is bad, the one before is
used and a warning says so. Of a run with ``train.keep_every``, every so many steps stay as well.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from vil_tracker.errors import UserError, atomic_write

log = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{8,})\.([0-9a-f]{16})\.pt")
KEEP = 2


def save_state(folder: Path, step: int, state: dict[str, Any], keep_every: int = 0) -> Path:
    """Write ``state`` (tensors, numbers, strings and containers of them) as the checkpoint of ``step``.

    Older checkpoints beyond the last :data:`KEEP` are removed, only after the new one is safely in place; those whose
    step is a multiple of ``keep_every`` stay.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    path = folder / f"step_{step:08d}.{hashlib.sha256(payload).hexdigest()[:16]}.pt"
    with atomic_write(path) as stream:
        stream.write(payload)
    for made_at, old in list_states(folder)[:-KEEP]:
        if not keep_every or made_at % keep_every:
            old.unlink(missing_ok=True)
    for half in folder.glob(".step_*.tmp"):  # left by a process that was killed while it wrote
        half.unlink(missing_ok=True)
    return path


def list_states(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints in ``folder`` as (step, path), oldest first."""
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def load_state(path: Path) -> dict[str, Any]:
    """Read one checkpoint after checking its digest; tensors come to the CPU.

    Raises:
        UserError: not a checkpoint's name, unreadable, its content does not match the digest in its name, or it holds
            anything but tensors and plain values (code in it is never run).
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not a training checkpoint: expected a name such as step_00001000.<digest>.pt")
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}") from error
    if hashlib.sha256(payload).hexdigest()[:16] != match[2]:
        raise UserError(f"checkpoint {path} is damaged: its content does not match the digest in its name")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"checkpoint {path} is no training state of this project: {first}") from error


def load_newest_state(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of ``folder`` that is intact (damaged ones are warned of), or None if it is empty.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    states = list_states(folder)
    for _, path in reversed(states):
        try:
            return load_state(path)
        except UserError as error:
            log.warning("%s; using the checkpoint before it", error)
    if states:
        raise UserError(f"no checkpoint in {folder} is intact: remove that folder to start the run afresh")
    return None
