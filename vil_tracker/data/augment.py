"""Photometric augmentation of uint8 crops, cheap enough to share a core with training.

torchvision.transforms.v2 offers the same operations, but each costs several passes over floats: for one pair of crops
more than the whole budget of a few milliseconds. Here brightness, contrast, gamma and colour temperature are one
look-up per byte, hue and saturation one 3×3 matrix, and noise one saturating addition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

# Rec. 601 luma, as used by JPEG and by OpenCV's grey conversion.
_LUMA = np.array([0.299, 0.587, 0.114])
_SPREAD = (0.14, 0.12, 0.14, 0.10, 0.04, 0.10, 0.22)  # of the fields of a Photometry, in changed()


@dataclass(frozen=True)
class Photometry:
    """Photometric changes of one image. Values are neutral by default.

    Attributes:
        brightness: factor on all channels, as log.
        contrast: factor around mid-grey, as log.
        gamma: exponent, as log.
        temperature: log gain of red minus that of blue, shared between them.
        tint: log gain of green.
        hue: rotation of the colour plane in radians.
        saturation: factor on the distance from grey, as log; -inf is grey.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    temperature: float = 0.0
    tint: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0

    def changed(self, rng: np.random.Generator, strength: float) -> Photometry:
        """Photometry that differs from this one by a random amount."""
        change = rng.normal(0.0, strength, 7)
        return Photometry(*(v + s * d for v, s, d in zip(vars(self).values(), _SPREAD, change, strict=True)))

    def grey(self) -> Photometry:
        """This photometry without colour."""
        return replace(self, saturation=-math.inf)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Apply to an (H, W, 3) uint8 RGB image."""
        if self.saturation == -math.inf:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        elif abs(self.hue) > 0.06 or abs(self.saturation) > 0.15:
            image = cv2.transform(image, self._matrix())
        return cv2.LUT(image, self._tables())

    def _tables(self) -> np.ndarray:
        levels = np.linspace(0.0, 1.0, 256)
        curve = levels ** math.exp(self.gamma)
        curve = (curve - 0.5) * math.exp(self.contrast) + 0.5
        gains = np.exp([self.temperature / 2, self.tint, -self.temperature / 2]) * math.exp(self.brightness)
        return np.clip(curve[:, None] * gains * 255 + 0.5, 0, 255).astype(np.uint8)[None]

    def _matrix(self) -> np.ndarray:
        s = math.exp(min(self.saturation, 0.7))
        c, d = s * math.cos(self.hue), s * math.sin(self.hue) / math.sqrt(3)
        # Rotation of the colour about the grey axis, then the luma put back.
        turn = c * np.eye(3) + (1 - c) / 3 + d * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
        return turn + np.outer(np.ones(3), _LUMA - _LUMA @ turn)


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    """Standard normal noise × 16 as int8; samples take windows of it, which is far cheaper than drawing afresh."""
    return np.clip(np.random.default_rng(20).normal(0, 16, (640, 640, 3)).round(), -127, 127).astype(np.int8)


def add_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Add Gaussian noise of standard deviation ``sigma`` (grey levels) to an (H, W, 3) uint8 image."""
    bank = _noise_bank()
    h, w = image.shape[:2]
    if h > bank.shape[0] or w > bank.shape[1]:
        bank = np.tile(bank, (h // bank.shape[0] + 1, w // bank.shape[1] + 1, 1))
    y, x = int(rng.integers(bank.shape[0] - h + 1)), int(rng.integers(bank.shape[1] - w + 1))
    return np.asarray(cv2.addWeighted(image, 1.0, bank[y : y + h, x : x + w], sigma / 16, 0.0, dtype=cv2.CV_8U))


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """Line-shaped blur kernel (K, K) float32 of the given length in pixels and direction in radians."""
    k = 2 * int(math.ceil(length / 2)) + 1
    kernel = np.zeros((k, k), np.uint8)
    c = (k - 1) / 2
    dx, dy = math.cos(angle) * length / 2, math.sin(angle) * length / 2
    ends = [(int(round((c + s * dx) * 16)), int(round((c + s * dy) * 16))) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, shift=4)
    return kernel.astype(np.float32) / max(int(kernel.sum()), 1)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode as JPEG. Channel order does not change the result visibly, so RGB passes as it is."""
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "a JPEG that was just encoded decodes"
    return decoded


def light_gradient(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Uneven light: a smooth random gain over the picture, such as a shadow or a lamp at one side."""
    h, w = image.shape[:2]
    corners = np.clip(1.0 + rng.normal(0.0, strength, (3, 3)), 0.35, 1.6) * 100
    gain = cv2.resize(corners.astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, cv2.cvtColor(gain, cv2.COLOR_GRAY2RGB), scale=0.01)


def degrade(image: np.ndarray, rng: np.random.Generator, difficulty: float = 1.0) -> np.ndarray:
    """Faults of a camera and its recording in an (H, W, 3) uint8 picture, each with its own probability: blur, motion,
    light, noise, JPEG. ``difficulty`` scales probabilities and strengths; 0 leaves the image as it is.
    """
    size = min(image.shape[:2])
    chance = rng.random(6)
    if chance[0] < 0.12 * difficulty:
        image = light_gradient(image, rng, 0.18 * difficulty)
    if chance[1] < 0.12 * difficulty:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6) * size / 192)
    elif chance[2] < 0.12 * difficulty:
        length = rng.uniform(2.5, 9.0) * size / 192
        if length > 1.2:
            image = cv2.filter2D(image, -1, motion_kernel(length, rng.uniform(0, math.pi)))
    if chance[3] < 0.10 * difficulty:
        h, w = image.shape[:2]
        scale = rng.uniform(0.35, 0.75)
        small = cv2.resize(image, (int(w * scale) + 1, int(h * scale) + 1), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    if chance[4] < 0.25 * difficulty:
        image = add_noise(image, rng, abs(rng.normal(0.0, 7.0)) * difficulty)
    if chance[5] < 0.30 * difficulty:
        image = jpeg(image, int(rng.integers(25, 96)))
    return image
