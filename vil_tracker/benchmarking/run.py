"""Everything that ``vil-tracker benchmark`` measures, in one dictionary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vil_tracker.benchmarking.end_to_end import paint_clip, run_peers, run_tracker, run_video, time_states
from vil_tracker.benchmarking.machine import copy_rate, describe_machine, matmul_rate, peak_memory, time_interleaved
from vil_tracker.benchmarking.parts import count_bytes, count_operations, frame_inputs, time_parts
from vil_tracker.benchmarking.vit import OneStreamViT
from vil_tracker.config import MODEL_SIZES
from vil_tracker.models.inference import InferenceNetwork, Precision
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model, resolve_device
from vil_tracker.runtime import keep_freed_memory
from vil_tracker.tracking.tracker import Tracker

RATIO_SIZES = ("tiny", "small")
RATIO_TEMPLATES = (1, 4, 8)


@dataclass(frozen=True)
class Settings:
    """What to measure; see ``vil-tracker benchmark --help``."""

    model: str = "nano"
    weights: str | None = None
    precisions: tuple[Precision, ...] = ("float32",)
    threads: int | None = None
    device: str = "cpu"
    compiled: bool = False
    repeats: int = 20
    frames: int = 120
    peers: bool = False
    peers_dir: Path | None = None
    processor_time: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """Of the parts and ratios; whole videos, whose parts are threads, always take wall time."""
        return time.thread_time if self.processor_time else time.perf_counter


def measure(settings: Settings, log: Callable[[str], object] | None = None) -> dict[str, Any]:
    """Run all measurements; ``log`` gets a line on what is being measured. UserError where something of it is not here.

    JSON-ready: ``machine``, ``model``, per precision ``dtypes`` (parts, operations, rates, ``end_to_end`` and, with
    peers, ``against_vit``), ``peers``, ``peak_memory_mib``.
    """
    say = log or (lambda line: None)
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or before)
    try:
        return _measure(settings, say)
    finally:
        torch.set_num_threads(before)


def _measure(settings: Settings, say: Callable[[str], object]) -> dict[str, Any]:
    device = resolve_device(settings.device)
    network = _network(settings.model, settings.weights, device)
    measured: dict[str, Any] = {"machine": describe_machine(device), "model": _describe(network, settings)}
    dtypes: dict[str, Any] = {}
    measured["dtypes"] = dtypes
    for precision in settings.precisions:
        say(f"{settings.model}, {precision}: parts of a frame")
        dtypes[precision] = _parts(network, precision, settings)
        if settings.peers:
            dtypes[precision]["against_vit"] = {}
            for size in RATIO_SIZES:
                say(f"{size}, {precision}: beside a one-stream ViT")
                dtypes[precision]["against_vit"][size] = _ratios(size, precision, device, settings)
    measured["clock"] = "processor time of one thread" if settings.processor_time else "wall time"
    if settings.frames == 0:
        measured["peak_memory_mib"] = peak_memory()
        return measured
    frames, boxes = paint_clip(settings.frames)
    for precision in settings.precisions:
        say(f"{settings.model}, {precision}: a video of 1280×720")
        prepared = InferenceNetwork(network, precision, compiled=settings.compiled)
        run_tracker(Tracker(prepared), frames[:4], boxes[0])  # whatever happens at the first frames, outside the timing
        dtypes[precision]["end_to_end"] = {
            "boxes_and_video": run_video(prepared, frames, boxes[0], write=True),
            "boxes": run_video(prepared, frames, boxes[0], write=False),
            "tracker_alone": {
                "frames_per_second": run_tracker(Tracker(prepared), frames, boxes[0]),
                "milliseconds": time_states(prepared, frames, boxes[0]),
            },
        }
    measured["peak_memory_mib"] = peak_memory()
    if settings.peers:
        say("OpenCV's trackers")
        measured["peers"] = run_peers(frames, boxes[0], settings.peers_dir)
    return measured


def _network(size: str, weights: str | None, device: torch.device) -> ViLTrackerNet:
    if weights is not None:
        return load_model(weights, device)
    torch.manual_seed(0)
    return build_network(MODEL_SIZES[size]).eval().to(device)


def _describe(network: ViLTrackerNet, settings: Settings) -> dict[str, Any]:
    config = network.config
    side, template_side = config.search_size // config.patch_size, config.template_size // config.patch_size
    return {
        "name": config.name,
        "weights": settings.weights or "random",
        "compiled": settings.compiled,
        "dim": config.dim,
        "depth": config.depth,
        "search_tokens": side**2,
        "template_tokens": template_side**2,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _parts(network: ViLTrackerNet, precision: Precision, settings: Settings) -> dict[str, Any]:
    """Milliseconds, operations, and how near the machine's limits a frame comes."""
    prepared = InferenceNetwork(network, precision)
    seconds = time_parts(prepared, settings.repeats, settings.clock)
    if settings.compiled:
        inputs = frame_inputs(prepared)
        fast = InferenceNetwork(network, precision, compiled=True)
        with torch.inference_mode():
            timed = time_interleaved(
                {"frame": lambda: fast.forward_search(inputs.search, inputs.memory, inputs.context)},
                settings.repeats,
                prepared.device,
                settings.clock,
            )
        seconds["compiled frame"] = timed["frame"]
    kernel = prepared.sublayers[0].kernel is not None
    operations = count_operations(network, kernel)
    read = count_bytes(network, precision)
    rate, copied = (
        matmul_rate(prepared.dtype, prepared.device, clock=settings.clock),
        copy_rate(prepared.device, clock=settings.clock),
    )
    total = sum(operations.values())
    frame = seconds["compiled frame"] if settings.compiled else seconds["frame"]
    return {
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "gflop": {name: value / 1e9 for name, value in operations.items()} | {"frame": total / 1e9},
        "matmul_gflops": rate / 1e9,
        "copy_gbytes_per_second": copied / 1e9,
        "mbytes_read": read / 1e6,
        "floor_milliseconds": 1e3 * max(total / rate, read / copied),
        "share_of_matmul_rate": total / frame / rate,
    }


def _ratios(size: str, precision: Precision, device: torch.device, settings: Settings) -> dict[str, Any]:
    """The one-stream ViT's time over ours for each number of templates, all of them interleaved.

    An int8 network stands beside a float32 ViT.
    """
    network = InferenceNetwork(_network(size, None, device), precision, compiled=settings.compiled)
    vit = OneStreamViT(network)
    inputs = {count: frame_inputs(network, count) for count in RATIO_TEMPLATES}
    templates = {count: vit.tokens_of_templates(count) for count in RATIO_TEMPLATES}

    def ours(count: int) -> object:
        given = inputs[count]
        return network.decode(network.forward_search(given.search, given.memory, given.context))

    functions: dict[str, Callable[[], object]] = {}
    for count in RATIO_TEMPLATES:
        functions[f"ours {count}"] = lambda count=count: ours(count)  # type: ignore[misc]
        functions[f"vit {count}"] = lambda count=count: vit.frame(  # type: ignore[misc]
            inputs[count].search, templates[count]
        )
    with torch.inference_mode():
        seconds = time_interleaved(functions, settings.repeats, device, settings.clock)
    return {
        str(count): {
            "ours_milliseconds": 1e3 * seconds[f"ours {count}"],
            "vit_milliseconds": 1e3 * seconds[f"vit {count}"],
            "vit_blocks_gflop": vit.operations(count) / 1e9,
            "ratio": seconds[f"vit {count}"] / seconds[f"ours {count}"],
        }
        for count in RATIO_TEMPLATES
    }
