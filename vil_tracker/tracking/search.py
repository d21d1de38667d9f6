"""One pass of the network over search crops, of one target or many."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vil_tracker.boxes import box_centre, box_scale, centred_box
from vil_tracker.config import ModelConfig
from vil_tracker.data.crops import CropGeometry, crop, geometry_for_box, to_input
from vil_tracker.models.film_temporal import TemporalContext, register_context
from vil_tracker.models.inference import SearchModel
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.network import TargetMemory
from vil_tracker.results import Result
from vil_tracker.runtime import StageTimer

MAX_RESIZE = 2.0


@dataclass(frozen=True)
class SearchRequest:
    """One crop to search."""

    geometry: CropGeometry  # where it lies in the frame
    memory: TargetMemory  # of the target to search for
    context: TemporalContext | None = None  # temporal context of that target, in whatever crop; None modulates nothing


@dataclass(frozen=True)
class SearchOutput:
    """The network's output for one crop."""

    geometry: CropGeometry  # the crop
    pixels: np.ndarray  # (size, size, 3) uint8 RGB
    box: np.ndarray  # (4,) float64 xywh in image pixels; may reach outside the frame
    box_in_crop: np.ndarray  # (4,) x1 y1 x2 y2 in units of the crop
    peak: float  # sigmoid score of the chosen cell
    logits: np.ndarray  # (h, w) score logits
    offsets: np.ndarray  # (2, h, w), x and y of the centre that each cell proposes, in cells from its top left corner
    sizes: np.ndarray  # (2, h, w), width and height that each cell proposes, in [0, 1] of the crop
    features: Tensor  # (h * w, D) search tokens
    context: TemporalContext | None  # the request's, registered to this crop


def search_crop(box: np.ndarray, model: ModelConfig, sure_size: float | None = None) -> CropGeometry:
    """The crop to see a box (4,) xywh in, on the grid of :meth:`CropGeometry.snapped`.

    With ``sure_size``, √(w·h) in pixels of the last sure box, it is made for a target within a factor of
    :data:`MAX_RESIZE` of that: the size of an uncertain box is not relied on.
    """
    if sure_size is not None:
        scale = box_scale(box)
        wanted = min(max(scale, sure_size / MAX_RESIZE), sure_size * MAX_RESIZE)
        box = centred_box(box_centre(box), box[2:] * (wanted / scale))
    return geometry_for_box(box, model.search_factor, model.search_size).snapped()


def run_search(
    model: SearchModel,
    frame: np.ndarray,
    requests: Sequence[SearchRequest],
    window: Tensor,
    timer: StageTimer | None = None,
) -> list[SearchOutput]:
    """Run the crops of all requests, at least one, as one batch through the network.

    The frame is (H, W, 3) uint8 RGB, the window (h, w) weights of the score map, which draw the choice of the best cell
    towards the crop's centre; the timer gets the seconds of the parts ``crop`` and ``network``.
    """
    timer = timer or StageTimer()
    with timer.stage("crop"):
        pixels = np.stack([crop(frame, request.geometry) for request in requests])
    with timer.stage("network"):
        search = to_input(pixels, window.device, window.dtype)
        memory = join_memories([request.memory for request in requests])
        contexts = registered_contexts(requests, (window.shape[0], window.shape[1]))
        output = model.forward_search(search, memory, join_contexts(contexts))
        boxes_B4, peaks_B = model.decode(output, window)
        maps = (output.score_logits, output.offset, output.size)
        # In one copy: each makes the host wait for the device.
        host = to_host(torch.cat([boxes_B4, peaks_B[:, None], *(part.float().flatten(1) for part in maps)], dim=1))
        in_crop, peaks = host[:, :4].astype(np.float64), host[:, 4]
        logits, offsets, sizes = np.split(host[:, 5:].reshape(len(host), 5, *window.shape), [1, 3], axis=1)
    return [
        SearchOutput(
            request.geometry,
            pixels[i],
            request.geometry.to_image(in_crop[i]),
            in_crop[i],
            float(peaks[i]),
            logits[i, 0],
            offsets[i],
            sizes[i],
            output.features[i],
            contexts[i],
        )
        for i, request in enumerate(requests)
    ]


def to_host(values: Tensor) -> np.ndarray:
    """The values in this process's memory: waits for the device."""
    return values.cpu().numpy()


Steps = Generator[list[SearchRequest], list[SearchOutput], Result]
"""One target's way through one frame: yields requests, is sent their outputs, returns the result."""


def run_steps(
    model: SearchModel, frame: np.ndarray, runs: Sequence[Steps], window: Tensor, timer: StageTimer | None = None
) -> list[Result]:
    """Take several targets through one frame, one for each of ``runs``, and return their results.

    The crops that they ask for at the same time are one batch. The other arguments are those of :func:`run_search`.
    """
    views: dict[int, list[SearchOutput] | None] = dict.fromkeys(range(len(runs)))
    results: dict[int, Result] = {}
    while True:
        asked: dict[int, list[SearchRequest]] = {}
        for index, seen in views.items():
            try:
                asked[index] = next(runs[index]) if seen is None else runs[index].send(seen)
            except StopIteration as done:
                results[index] = done.value
        if not asked:
            return [results[index] for index in range(len(runs))]
        requests = [request for part in asked.values() for request in part]
        answers = iter(run_search(model, frame, requests, window, timer))
        views = {index: [next(answers) for _ in part] for index, part in asked.items()}


def join_memories(memories: Sequence[TargetMemory]) -> TargetMemory:
    """One memory for a batch, from memories of one target each."""
    first = memories[0]
    if len(memories) == 1:
        return first
    features = None if first.features is None else torch.cat([_features(memory) for memory in memories])
    if all(memory is first for memory in memories):
        states = (MLSTMState(*(x.repeat_interleave(len(memories), 0) for x in state)) for state in first.states)
        return TargetMemory(tuple(states), features)
    layers = zip(*(memory.states for memory in memories), strict=True)
    joined = (MLSTMState(*(torch.cat(parts) for parts in zip(*states, strict=True))) for states in layers)
    return TargetMemory(tuple(joined), features)


def _features(memory: TargetMemory) -> Tensor:
    assert memory.features is not None  # of one network, all have them or none
    return memory.features


def registered_contexts(requests: Sequence[SearchRequest], grid: tuple[int, int]) -> list[TemporalContext | None]:
    """Every request's context as its crop sees it."""
    found: list[TemporalContext | None] = []
    for request in requests:
        context, geometry = request.context, request.geometry
        if context is not None:
            crops_13 = context.crops.new_tensor([[geometry.cx, geometry.cy, geometry.side]])
            context = register_context(context, crops_13, grid)
        found.append(context)
    return found


def join_contexts(contexts: Sequence[TemporalContext | None]) -> TemporalContext | None:
    """One context for a batch, from registered ones; a missing one is all unreliable, so modulates nothing."""
    known = next((context for context in contexts if context is not None), None)
    if known is None or len(contexts) == 1:
        return known
    nothing = replace(known, features=torch.zeros_like(known.features), valid=torch.zeros_like(known.valid))
    parts = [nothing if context is None else context for context in contexts]
    return TemporalContext(
        torch.cat([part.features for part in parts]),
        torch.cat([part.valid for part in parts]),
        known.grid,
        torch.cat([part.crops for part in parts]),
    )
