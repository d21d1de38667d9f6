"""What the runner needs to know of a tracker, and how a name on the command line becomes one.

A tracker has two calls, `init(frame, box)` and `update(frame) -> Result`, on H×W×3 uint8 RGB frames and x, y, w, h
boxes in pixels. Specifications are small and picklable, so that every worker process builds its own tracker.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vil_tracker.config import DEFAULT_WEIGHTS, TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.evaluation import baselines
from vil_tracker.evaluation.nanotrack import NanoTrackV3
from vil_tracker.results import Result, TrackerLike

if TYPE_CHECKING:
    from vil_tracker.models.inference import Precision


class StillTracker:
    """Answers with the first box for ever: the floor that every tracker must beat."""

    def __init__(self) -> None:
        self._box = np.zeros(4)

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        self._box = np.asarray(box, dtype=np.float64)

    def update(self, frame: np.ndarray) -> Result:
        return Result(box=self._box.copy(), score=float("nan"), state="tracking")


@dataclass(frozen=True)
class TrackerSpec:
    """A tracker by name, with what is needed to build it.

    Attributes:
        name: shown in the report, such as "vil" or "opencv:MIL".
        kind: "vil", "opencv", "nanotrack", "still" or "python".
        target: weights (name or file), OpenCV's tracker name, or "module:factory"; empty for "still".
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; for kind "vil".
        config: of the session; for kind "vil".
        dtype: what the network computes in, one of :data:`vil_tracker.models.loading.PRECISIONS`; for kind "vil".
        peers_dir: folder with the networks of OpenCV's trackers and of NanoTrack.
    """

    name: str
    kind: str
    target: str = ""
    device: str = "auto"
    config: TrackConfig | None = None
    dtype: Precision = "float32"
    peers_dir: str | None = None

    @property
    def folder(self) -> str:
        """The name as a folder name."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name)

    @property
    def deterministic(self) -> bool:
        """Whether a second run would give the same boxes."""
        return self.kind != "opencv" or baselines.canonical_name(self.target) not in baselines.RANDOM

    def identity(self) -> dict[str, str]:
        """What decides the boxes; results of another identity must not be mixed with these."""
        identity = {"tracker": self.name, "kind": self.kind, "target": self.target}
        if self.kind == "vil":
            from vil_tracker.models.pretrained import shipped_weights

            identity["dtype"] = self.dtype
            weights = shipped_weights().get(self.target, Path(self.target))
            if weights.is_file():
                identity["target"] = f"sha256:{_sha256(weights)}"
        if self.config is not None and self.config != TrackConfig():
            identity["config"] = json.dumps(asdict(self.config), sort_keys=True)
        return identity

    def build(self) -> TrackerLike:
        """Make the tracker.

        Raises:
            UserError: unknown weights, a tracker that is not installed, a factory that cannot be imported.
        """
        if self.kind == "still":
            return StillTracker()
        peers = Path(self.peers_dir) if self.peers_dir else None
        if self.kind == "opencv":
            return baselines.OpenCvTracker(self.target, peers)
        if self.kind == "nanotrack":
            return NanoTrackV3(peers)
        if self.kind == "python":
            return _build_from_python(self.target)
        from vil_tracker.models.inference import InferenceNetwork
        from vil_tracker.models.pretrained import load_model
        from vil_tracker.tracking.tracker import Tracker

        network = InferenceNetwork(load_model(self.target, device=self.device), self.dtype)
        return Tracker(network, self.config)


def parse_tracker(
    text: str,
    *,
    weights: str = DEFAULT_WEIGHTS,
    device: str = "auto",
    config: TrackConfig | None = None,
    dtype: Precision = "float32",
    peers_dir: str | None = None,
) -> TrackerSpec:
    """Read a tracker as written on the command line: "vil" (with `weights`), "vil:NAME_OR_FILE", "opencv:NAME",
    "nanotrack:v3", "still" or "python:MODULE:FACTORY"; UserError if it is anything else. A dtype of "vil" other than
    float32 becomes part of its name.
    """
    kind, _, target = text.partition(":")
    if kind == "vil":
        name = f"vil:{Path(target).stem}" if target else "vil"
        if dtype != "float32":
            name = f"{name}-{dtype}"
        return TrackerSpec(name, "vil", target or weights, device=device, config=config, dtype=dtype)
    if kind == "opencv" and target:
        target = baselines.canonical_name(target)
        return TrackerSpec(f"opencv:{target}", "opencv", target, peers_dir=peers_dir)
    if kind == "nanotrack" and target.lower() == "v3":
        return TrackerSpec("nanotrack:v3", "nanotrack", "v3", peers_dir=peers_dir)
    if text == "still":
        return TrackerSpec("still", "still")
    if kind == "python" and target.count(":") == 1:
        return TrackerSpec(target.rpartition(":")[2], "python", target)
    raise UserError(
        f"unknown tracker '{text}'; write vil, vil:WEIGHTS, opencv:NAME ({', '.join(baselines.KNOWN)}), "
        "nanotrack:v3, still or python:MODULE:FACTORY"
    )


def _build_from_python(target: str) -> TrackerLike:
    module_name, _, factory_name = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"tracker python:{target} cannot be imported ({error}): check the names, and that PYTHONPATH has its folder"
        ) from error
    if not callable(factory):
        raise UserError(f"tracker python:{target} is no function: give one that returns a tracker")
    return factory()


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
