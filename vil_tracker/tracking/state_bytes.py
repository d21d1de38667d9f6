"""A tracker's state as bytes, to go on with a video in another process or on another day.

The bytes are a pickle in which arrays and tensors stand as their raw values and no class occurs but those of a state,
so that reading bytes from elsewhere runs no code of theirs.
"""

from __future__ import annotations

import io
import pickle
from collections import deque
from typing import Any

import numpy as np
import torch

from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext
from vil_tracker.models.inference import SearchModel
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.vil import HEADS
from vil_tracker.tracking.confidence import Appearance, ConfidenceState
from vil_tracker.tracking.motion import BoxFilter, MotionModel
from vil_tracker.tracking.redetect import RedetectionCandidate, SlidingWindowSearch
from vil_tracker.tracking.state import Phase, TemplateMemory, TrackState

HEADER = b"vil-tracker state 1\n"
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(TrackState, TemplateMemory, Phase, MLSTMState, TemporalContext, ConfidenceState, Appearance),
        *(BoxFilter, MotionModel, RedetectionCandidate, SlidingWindowSearch, deque),
    )
}


def state_to_bytes(state: TrackState) -> bytes:
    """What :func:`state_from_bytes` reads: a few megabytes, most of them the memory of the template."""
    stream = io.BytesIO(HEADER)
    stream.seek(len(HEADER))
    _Pickler(stream, protocol=5).dump(state)
    return stream.getvalue()


def state_from_bytes(data: bytes, model: SearchModel) -> TrackState:
    """The state that :func:`state_to_bytes` was given, on the device of the model that is to go on with it.

    Args:
        data: the bytes.
        model: ``tracker.model``; the same weights as before.

    Raises:
        UserError: they are no state, damaged, of another version, or of a network of another shape.
    """
    cure = "save it again with state_to_bytes"
    if not data.startswith(HEADER):
        raise UserError(f"{len(data)} bytes that begin with {data[:20]!r} are no state of this version: {cure}")
    try:
        state = _Unpickler(io.BytesIO(data[len(HEADER) :]), model.device).load()
        C = state.memory.first[0].C
        shape = len(state.memory.first), C.shape[-1]
    except Exception as error:  # damaged bytes may ask for anything
        raise UserError(f"the state cannot be read ({type(error).__name__}: {error}), it is damaged: {cure}") from error
    expected = model.config.depth, 2 * model.config.dim // HEADS
    if shape != expected:
        raise UserError(
            f"the state is of a network of {shape[0]} sublayers of width {shape[1]}, this one has {expected[0]} of "
            f"{expected[1]}: load the weights that it was made with"
        )
    return state


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> tuple[str, str, tuple[int, ...], bytes] | None:
        if isinstance(value, torch.Tensor):
            array, kind = value.detach().cpu().numpy(), "tensor"
        elif isinstance(value, np.ndarray | np.generic):
            array, kind = np.asarray(value), "array" if isinstance(value, np.ndarray) else "number"
        else:
            return None
        return kind, array.dtype.str, array.shape, array.tobytes()


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, device: torch.device) -> None:
        super().__init__(stream)
        self._device = device

    def persistent_load(self, parts: tuple[str, str, tuple[int, ...], bytes]) -> Any:
        kind, dtype, shape, values = parts
        array = np.frombuffer(values, np.dtype(dtype)).reshape(shape).copy()
        return torch.from_numpy(array).to(self._device) if kind == "tensor" else array if kind == "array" else array[()]

    def find_class(self, module: str, name: str) -> type:
        if name not in _CLASSES or _CLASSES[name].__module__ != module:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a state")
        return _CLASSES[name]
