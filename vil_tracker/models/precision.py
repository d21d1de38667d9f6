"""Which precision a network runs in: what the device multiplies, and what is fastest there."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import torch

from vil_tracker import __version__
from vil_tracker.errors import UserError, write_json
from vil_tracker.models.exported import is_exported
from vil_tracker.models.film_temporal import updated_context
from vil_tracker.models.inference import InferenceNetwork, Precision
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.models.pretrained import load_model
from vil_tracker.native import processor, unavailable_reason
from vil_tracker.runtime import cache_folder

LEAST_GAIN = 1.05  # times as fast as float32: what less precision has to give
ROUNDS, SECONDS = 3, 2.0  # at least so many and so long

_log = logging.getLogger(__name__)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it; elsewhere it is emulated, in several times the time of float32."""
    if device.type != "cpu":
        return device.type == "mps" or torch.cuda.is_bf16_supported(including_emulation=False)
    if os.environ.get("VIL_ISA"):  # none of the sets that it may name has them
        return False
    if platform.machine() in ("aarch64", "arm64"):
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return supported is not None and bool(supported())
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_bfloat16(device: torch.device, option: str) -> None:
    """Raise UserError where the device cannot multiply in bfloat16; ``option`` asked for it, such as ``--dtype``."""
    if not multiplies_bfloat16(device):
        raise UserError(
            f"{option} bfloat16: this device would emulate it, several times slower than float32: "
            f"use {option} auto or float32"
        )


def fastest_precision(network: ViLTrackerNet) -> Precision:
    """The precision in which frames take the least time on the network's device, with the threads of now.

    float32 where there is no choice (:func:`candidates`). Timed once for each network size, processor, number of
    threads and version, then read from ``precision.json`` in :func:`vil_tracker.runtime.cache_folder`.
    """
    device = next(network.parameters()).device
    precisions = candidates(device)
    if len(precisions) == 1:
        return precisions[0]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    limits = [os.environ.get(key, "") for key in ("VIL_ISA", "ONEDNN_MAX_CPU_ISA")]
    machine = [name, device.type, torch.get_num_threads(), *limits, unavailable_reason("sublayer")]
    what = [*machine, torch.__version__, __version__, str(network.config)]
    key = sha256(json.dumps(what).encode()).hexdigest()[:16]
    path = cache_folder() / "precision.json"
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError):
        read = None
    known = read if isinstance(read, dict) else {}
    kept: Precision | None = known[key].get("precision") if isinstance(known.get(key), dict) else None
    if kept in precisions:
        return kept
    seconds = time_frames(network, precisions)
    best = min(seconds, key=seconds.__getitem__)
    chosen: Precision = best if seconds[best] * LEAST_GAIN <= seconds["float32"] else "float32"
    milliseconds = {precision: round(1e3 * value, 1) for precision, value in seconds.items()}  # of two frames
    _log.info("--dtype auto: %s (milliseconds of two frames: %s)", chosen, milliseconds)
    try:
        write_json(path, {**known, key: {"precision": chosen, "ms": milliseconds}}, indent=1)
    except UserError as error:
        _log.info("the choice is not kept: %s", error)
    return chosen


def choose_precision(weights: str | os.PathLike[str], device: str) -> Precision:
    """:func:`fastest_precision` of weights; an exported tracker has only float32."""
    return "float32" if is_exported(weights) else fastest_precision(load_model(weights, device))


def candidates(device: torch.device) -> list[Precision]:
    """What a device computes in without emulating it, float32 first; int8 costs too much accuracy to be among it."""
    return ["float32", "bfloat16"] if multiplies_bfloat16(device) else ["float32"]


def time_frames(network: ViLTrackerNet, precisions: list[Precision]) -> dict[Precision, float]:
    """Least seconds of two frames in each precision, which take turns."""
    device = next(network.parameters()).device
    frames = {precision: warm_up(InferenceNetwork(network, precision)) for precision in precisions}
    least = dict.fromkeys(precisions, math.inf)
    begin, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - begin < SECONDS:
        rounds += 1
        for precision, run in frames.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            least[precision] = min(least[precision], time.perf_counter() - start)
    return least


def warm_up(network: InferenceNetwork) -> Callable[[], None]:
    """Run a frame without and one with a context, so that whatever happens at the first ones has happened; returns what
    runs both again.
    """
    size, side = network.config.template_size, network.config.search_size
    kind: dict[str, Any] = {"device": network.device, "dtype": network.io_dtype}
    boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]], **kind)
    memory = network.encode_templates(torch.zeros(1, 1, 3, size, size, **kind), boxes)
    search, grid = torch.zeros(1, 3, side, side, **kind), (side // network.config.patch_size,) * 2

    def run() -> None:
        features = network.forward_search(search, memory).features
        if network.uses_context:
            here = torch.tensor([[0.0, 0.0, 1.0]], device=network.device)
            network.forward_search(search, memory, updated_context(None, features, grid, here))

    run()
    return run
