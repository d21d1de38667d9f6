"""ViL-Tracker for the public vot-toolkit: a TraX server that reports boxes.

The toolkit starts this script as a program of its own and talks to it over the TraX protocol (package vot-trax, BSD);
nothing of the toolkit, which is GPL, is imported. It serves the challenges whose answers are boxes: short-term (STb),
real-time, long-term and the multi-object variants of the protocol. README.md beside it has the commands.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
import trax
from trax.image import Image
from trax.region import Rectangle, Region
from trax.server import Request, Server

from vil_tracker.errors import UserError
from vil_tracker.evaluation.trackers import TrackerSpec, parse_tracker
from vil_tracker.images import read_image
from vil_tracker.results import Result, TrackerLike


def serve(spec: TrackerSpec) -> None:
    """Answer the toolkit's requests until it says that it is done; every target gets a tracker of its own."""
    spare = spec.build()  # loading is slow: done before the toolkit starts its clock
    trackers: list[TrackerLike] = []
    with Server([Region.RECTANGLE], [Image.PATH], tracker_name="ViL-Tracker", multiobject=True) as server:
        while True:
            request: Request = server.wait()
            if request.type == trax.TraxStatus.QUIT:
                return
            frame = read_image(request.image["color"].path())
            if request.type == trax.TraxStatus.INITIALIZE:
                trackers = []
            answers = [_answer(tracker.update(frame)) for tracker in trackers]
            for region, _ in request.objects or []:
                tracker = spare if not trackers else spec.build()
                tracker.init(frame, _box(region))
                trackers.append(tracker)
                answers.append((region, {}))
            server.status(answers)


def _box(region: Rectangle) -> np.ndarray:
    x, y, width, height = region.bounds()
    return np.array([x, y, width, height])


def _answer(result: Result) -> tuple[Rectangle, dict[str, object]]:
    x, y, width, height = (float(value) for value in result.box)
    properties: dict[str, object] = {} if math.isnan(result.score) else {"confidence": float(result.score)}
    return Rectangle.create(x, y, width, height), properties


def main() -> int:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracker", default="vil", help="as for  vil-tracker evaluate  (default vil)")
    parser.add_argument("--weights", default="nano", help="weights of vil: a name or a file (default nano)")
    parser.add_argument("--config", help="YAML whose track section configures vil")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto)")
    parser.add_argument("--peers-dir", help="folder with the networks of OpenCV's trackers")
    options = parser.parse_args()
    try:
        serve(
            parse_tracker(
                options.tracker,
                weights=options.weights,
                device=options.device,
                config=options.config,
                peers_dir=options.peers_dir,
            )
        )
    except UserError as error:
        print(f"vil_vot: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
