"""A tracker's state as bytes, to go on with a video in another process or on another day.

The bytes are a safetensors file: arrays and tensors with their raw values, and as metadata the structure that holds
them, as JSON. Reading them runs no code from them.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import safetensors.torch
import torch

from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext
from vil_tracker.models.inference import SearchModel
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.network import TargetMemory
from vil_tracker.models.vil import HEADS
from vil_tracker.tracking.confidence import Appearance, ConfidenceState
from vil_tracker.tracking.distractor import DistractorTrack
from vil_tracker.tracking.motion import BoxFilter, MotionModel
from vil_tracker.tracking.redetect import PlaceSearch, RedetectionCandidate
from vil_tracker.tracking.state import Phase, TemplateMemory, TrackState

FORMAT = "vil-tracker state 5"
_OBJECTS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(TrackState, TemplateMemory, Phase, TemporalContext, ConfidenceState, Appearance),
        *(BoxFilter, MotionModel, PlaceSearch, RedetectionCandidate, DistractorTrack),
    )
}
_ROWS: dict[str, Any] = {
    **{kind.__name__: kind for kind in (tuple, list, deque)},
    **{kind.__name__: kind._make for kind in (MLSTMState, TargetMemory)},
}


def state_to_bytes(state: TrackState) -> bytes:
    """What :func:`state_from_bytes` reads: a few megabytes, most of them the memory of the template."""
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}  # by identity: the memory of one template stands in a state twice

    def encode(value: Any) -> Any:
        kind = type(value).__name__
        if value is None or isinstance(value, bool | int | str) or type(value) is float:
            return value
        if isinstance(value, torch.Tensor | np.ndarray | np.generic):
            if id(value) not in names:
                names[id(value)] = str(len(tensors))
                whole = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
                tensors[names[id(value)]] = whole.detach().cpu().contiguous().clone()
            form = "tensor" if isinstance(value, torch.Tensor) else "array" if kind == "ndarray" else "number"
            return {form: names[id(value)]}
        if kind in _ROWS:
            return {kind: [encode(item) for item in value]}
        assert _OBJECTS.get(kind) is type(value), f"a state holds a {kind}, which cannot be saved"
        content = value.__getstate__() if isinstance(value, MotionModel) else vars(value)
        return {kind: {name: encode(item) for name, item in content.items()}}

    structure = encode(state)
    return bytes(safetensors.torch.save(tensors, {"format": FORMAT, "state": json.dumps(structure)}))


def state_from_bytes(data: bytes, model: SearchModel) -> TrackState:
    """The state that :func:`state_to_bytes` was given, on the device of ``tracker.model``, which has the same weights.

    UserError where it is none, damaged, of another version, or of a network of another shape.
    """
    advice = "save it again with state_to_bytes"
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if metadata["format"] != FORMAT:
            raise UserError(f"the state is of version {metadata['format']!r}, not {FORMAT!r}: {advice}")
        state = _decode(json.loads(metadata["state"]), tensors, model.device)
        memory = state.memory.first
        shape = len(memory.states), memory.states[0].C.shape[-1]
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{len(data)} bytes that begin with {data[:16]!r} are no state of a tracker, or a damaged one: {advice}"
        ) from error
    expected = model.config.depth, 2 * model.config.dim // HEADS
    if shape != expected:
        raise UserError(
            f"the state is of a network of {shape[0]} sublayers of width {shape[1]}, this one has {expected[0]} of "
            f"{expected[1]}: load the weights that it was made with"
        )
    if (memory.features is not None) != (model.config.correlation > 0):
        which = "with" if model.config.correlation else "without"
        raise UserError(f"this network is one {which} correlation, the state is not: load the weights it was made with")
    return state


def _decode(value: Any, tensors: dict[str, torch.Tensor], device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content].to(device)
    if kind in ("array", "number"):
        array = tensors[content].numpy()
        return array if kind == "array" else array[()]
    if kind in _ROWS:
        return _ROWS[kind]([_decode(item, tensors, device) for item in content])
    made: Any = object.__new__(_OBJECTS[kind])
    parts = {name: _decode(item, tensors, device) for name, item in content.items()}
    if isinstance(made, MotionModel):
        made.__setstate__(parts)
    else:
        vars(made).update(parts)
    return made
