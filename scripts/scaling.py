"""How the cost of a frame grows with templates, search size, targets and the length of the video; writes JSON.

example: python scripts/scaling.py --json docs/results/scaling.json       (two CPU cores: about ten minutes)
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vil_tracker import cli
from vil_tracker.benchmarking.end_to_end import paint_clip
from vil_tracker.benchmarking.machine import describe_machine, resident_memory, time_interleaved
from vil_tracker.benchmarking.parts import frame_inputs
from vil_tracker.benchmarking.vit import OneStreamViT
from vil_tracker.config import MODEL_SIZES, ModelConfig
from vil_tracker.errors import write_json
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.network import build_network
from vil_tracker.runtime import keep_freed_memory
from vil_tracker.tracking.tracker import Tracker, update_together

TEMPLATES = (1, 2, 4, 8)
SEARCH_SIZES = (192, 256, 320, 384, 512)
TARGETS = (1, 2, 4, 8, 16)

Clock = Callable[[], float]


def prepare(config: ModelConfig) -> InferenceNetwork:
    """A network of random weights: they cost the same time as trained ones."""
    torch.manual_seed(0)
    return InferenceNetwork(build_network(config).eval())


def against_vit(config: ModelConfig, templates: int, repeats: int, clock: Clock) -> dict[str, float]:
    """Milliseconds of a frame of ours and of the one-stream ViT."""
    network = prepare(config)
    vit, inputs = OneStreamViT(network), frame_inputs(network, templates)
    tokens = vit.tokens_of_templates(templates)
    functions = {
        "ours": lambda: network.decode(network.forward_search(inputs.search, inputs.memory, inputs.context)),
        "vit": lambda: vit.frame(inputs.search, tokens),
    }
    with torch.inference_mode():
        seconds = time_interleaved(functions, repeats, clock=clock)
    return {name: 1e3 * value for name, value in seconds.items()}


def by_targets(config: ModelConfig, repeats: int, clock: Clock) -> dict[str, float]:
    """Milliseconds of a whole tracking step, crops included, by number of targets in one 1280×720 video."""
    network = prepare(config)
    frames, boxes = paint_clip(2)
    groups = {}
    for count in TARGETS:
        trackers = [Tracker(network) for _ in range(count)]
        for index, tracker in enumerate(trackers):
            tracker.init(frames[0], boxes[0] + np.array([7.0 * index, 3.0 * index, 0, 0]))
        groups[str(count)] = trackers
    functions = {count: (lambda group=group: update_together(group, frames[1])) for count, group in groups.items()}
    return {count: 1e3 * value for count, value in time_interleaved(functions, repeats, clock=clock).items()}


def soak(config: ModelConfig, count: int) -> dict[str, Any]:
    """Resident memory in MiB along a video of ``count`` frames, after a start of a tenth."""
    tracker = Tracker(prepare(config))
    frames, boxes = paint_clip(50)
    tracker.init(frames[0], boxes[0])
    seen: dict[str, float] = {}
    for index in range(1, count + 1):
        tracker.update(frames[index % len(frames)])
        if index % max(count // 10, 1) == 0:
            seen[str(index)] = resident_memory()
    return {"resident_mib": seen, "growth_mib": max(seen.values()) - next(iter(seen.values()))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=sorted(MODEL_SIZES), help="size (default tiny)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=10, help="repeats of each timing (default 10)")
    parser.add_argument("--frames", type=int, default=10000, help="length of the long video, 0 for none")
    parser.add_argument("--soak-model", default="nano", choices=sorted(MODEL_SIZES), help="its size (default nano)")
    parser.add_argument("--processor-time", action="store_true", help="of one thread, on a machine that others use")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    return cli.guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    keep_freed_memory()
    if args.threads or args.processor_time:
        torch.set_num_threads(1 if args.processor_time else args.threads)
    clock = time.thread_time if args.processor_time else time.perf_counter
    config = MODEL_SIZES[args.model]
    found: dict[str, Any] = {
        "machine": describe_machine(torch.device("cpu")),
        "clock": "processor time of one thread" if args.processor_time else "wall time",
        "model": args.model,
        "templates": {str(count): against_vit(config, count, args.repeats, clock) for count in TEMPLATES},
        "search_size": {
            str(side): against_vit(dataclasses.replace(config, search_size=side), 1, args.repeats, clock)
            for side in SEARCH_SIZES
        },
        "targets": by_targets(config, args.repeats, clock),
    }
    if args.frames:
        found["soak"] = {"model": args.soak_model, **soak(MODEL_SIZES[args.soak_model], args.frames)}
    write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
