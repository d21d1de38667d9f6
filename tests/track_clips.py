"""A small random network, a calibration that depends on the score map's peak alone, and short moving scenes."""

from __future__ import annotations

import numpy as np
import torch

from vil_tracker.config import ModelConfig
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.tracking.confidence_model import CONFIDENCE_FEATURES, ConfidenceModel


def small_network(
    seed: int = 0, *, calibrated: bool = True, temporal: bool = True, correlation: bool = False
) -> ViLTrackerNet:
    """32-dimensional, 4 sublayers, FiLM that does something, 5 × 5 score maps that are not flat; with correlation, on
    the mobile stem.
    """
    torch.manual_seed(seed)
    config = ModelConfig(
        name="test",
        dim=32,
        depth=4,
        template_size=32,
        search_size=80,
        modulation_interval=2,
        head_channels=16,
        temporal=temporal,
        stem="mobile" if correlation else "patch",
        correlation=0.5 if correlation else 0.0,
    )
    network = build_network(config).eval()
    with torch.no_grad():
        network.head.score[-1].weight.mul_(100)
        network.head.score[-1].bias.zero_()
        if network.temporal is not None:
            for film in network.temporal.film_layers:
                film.gamma_net[-1].weight.normal_(0, 0.05)
                film.beta_net[-1].weight.normal_(0, 0.05)
    if calibrated:
        network.calibration = peak_calibration().to_json()
    return network


def peak_calibration(bias: float = 0.0, slope: float = 1.0) -> ConfidenceModel:
    """The probability is sigmoid(slope · peak logit + bias)."""
    count = len(CONFIDENCE_FEATURES)
    output = np.zeros(count + 2)
    output[CONFIDENCE_FEATURES.index("peak")], output[-1] = slope, bias
    return ConfidenceModel(np.zeros(count), np.ones(count), np.zeros((1, count + 1)), output)


def scene(seed: int, count: int, size: tuple[int, int] = (120, 90)) -> tuple[list[np.ndarray], np.ndarray]:
    """RGB frames of a textured patch gliding over noise, and its boxes (N, 4)."""
    rng = np.random.default_rng(seed)
    width, height = size
    background = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    patch = rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)
    start, step = rng.uniform(5, 40, 2), rng.uniform(-1.5, 3, 2)
    frames, boxes = [], []
    for index in range(count):
        x, y = (np.clip(start + step * index, 0, (width - 24, height - 18))).astype(int)
        frame = background.copy()
        frame[y : y + 18, x : x + 24] = patch
        frames.append(frame)
        boxes.append([x, y, 24, 18])
    return frames, np.array(boxes, np.float64)
