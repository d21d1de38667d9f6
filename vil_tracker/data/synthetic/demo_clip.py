"""The demo clip: a small film that the project paints itself, so that a demonstration needs no download.

A red car drives along a winding track seen from above. The camera pans, zooms and turns; a second red car comes the
other way and passes close by; a tree hides the car for a moment; a cloud's shadow dims the scene. Everything derives
from a seed, and the car's box and visible share are known for every frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from vil_tracker.data.sequence import Sequence, make_sequence

Colour = tuple[int, int, int]

FPS = 30.0
_WORLD = (1400, 900)  # width and height of the painted ground, in world pixels
_CAR = (62, 32)  # length and width of a car, in world pixels
_DETAIL = 4  # cars are painted larger by this factor
_STORED = 0.5  # world pixels per pixel of a finished sprite


@dataclass(frozen=True)
class _Sprite:
    """A painted object: premultiplied colour and opacity (h, w, 4) float32, to be placed by its centre."""

    pixels: np.ndarray
    scale: float  # world pixels per sprite pixel

    def placed(
        self, camera: np.ndarray, x: float, y: float, turn: float, size: tuple[int, int]
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the frame (rows, columns; empty where it is out of sight) that the sprite touches at world
        position (x, y), turned by ``turn``, and its layer (h, w, 4) there, as the camera (3, 3) sees it.
        """
        h, w = self.pixels.shape[:2]
        c, s = self.scale * np.cos(turn), self.scale * np.sin(turn)
        to_world = np.array([[c, -s, x - c * w / 2 + s * h / 2], [s, c, y - s * w / 2 - c * h / 2], [0, 0, 1]])
        matrix = (camera @ to_world)[:2]
        corners = np.array([[0, 0], [w, 0], [0, h], [w, h]]) @ matrix[:, :2].T + matrix[:, 2]
        left, top = np.clip(np.floor(corners.min(0)), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0)) + 1, (left, top), size).astype(int)
        part = slice(top, bottom), slice(left, right)
        if right == left or bottom == top:
            return part, np.zeros((bottom - top, right - left, 4), np.float32)
        matrix[:, 2] -= (left, top)
        return part, cv2.warpAffine(self.pixels, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)


def _noise(rng: np.random.Generator, width: int, height: int, octaves: tuple[int, ...]) -> np.ndarray:
    """Smooth random values, mean 0: octaves of the given cell sizes in pixels, coarse ones stronger."""
    total = np.zeros((height, width), np.float32)
    for cell in octaves:
        grid = rng.standard_normal((height // cell + 3, width // cell + 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * cell**0.5
    return total / total.std()


def _track(x: np.ndarray | float) -> np.ndarray:
    """The winding track: its y at world x."""
    return 450 + 130 * np.sin((np.asarray(x) - 150) / 190) + 24 * np.sin(np.asarray(x) / 71)


def _paint_ground(rng: np.random.Generator) -> np.ndarray:
    width, height = _WORLD
    patches, fine = _noise(rng, width, height, (120, 45)), _noise(rng, width, height, (9, 4, 2))
    dry = np.clip(0.5 + 0.35 * patches, 0, 1)[..., None]
    ground = (1 - dry) * np.array([92, 138, 62], np.float32) + dry * np.array([152, 160, 84], np.float32)
    ground *= 1 + 0.10 * fine[..., None]
    xs = np.arange(-50, width + 50, 4)
    road = np.stack([xs, _track(xs)], 1).round().astype(np.int32)
    for wide, colour, grain in ((92, (196, 172, 128), 0.07), (80, (134, 128, 122), 0.05)):  # sandy edge, gravel
        mask = np.zeros((height, width), np.uint8)
        cv2.polylines(mask, [road], False, 255, wide, cv2.LINE_AA)
        cover = np.clip(cv2.GaussianBlur(mask, (0, 0), 1.5).astype(np.float32) / 255, 0, 1)[..., None]
        ground = ground * (1 - cover) + cover * np.array(colour, np.float32) * (1 + grain * fine[..., None])
    for begin in range(0, len(road) - 6, 12):  # dashes along the middle
        cv2.polylines(ground, [road[begin : begin + 6]], False, (222, 216, 190), 3, cv2.LINE_AA)
    for _ in range(900):  # flowers and stones beside the track
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if abs(y - _track(x)) > 60:
            colours = ((236, 226, 120), (240, 240, 236), (206, 128, 176), (150, 148, 142))
            cv2.circle(ground, (int(x), int(y)), int(rng.integers(1, 4)), colours[rng.integers(4)], -1, cv2.LINE_AA)
    return np.clip(ground, 0, 255).astype(np.uint8)


def _paint_car(body: Colour, trim: Colour, roof: Colour) -> _Sprite:
    length, width = _CAR[0] * _DETAIL, _CAR[1] * _DETAIL
    image = np.zeros((width, length, 3), np.float32)
    image[:] = body
    half = width // 2
    for offset in (-width // 7, width // 7):  # two stripes from bumper to bumper
        cv2.rectangle(image, (0, half + offset - 7), (length, half + offset + 7), trim, -1)
    glass = (38, 48, 60)
    cv2.rectangle(image, (length * 58 // 100, width // 8), (length * 73 // 100, width * 7 // 8), glass, -1)
    cv2.rectangle(image, (length * 14 // 100, width // 6), (length * 24 // 100, width * 5 // 6), glass, -1)
    cv2.rectangle(image, (length * 26 // 100, width // 9), (length * 57 // 100, width * 8 // 9), roof, -1)
    for y in (width // 5, width * 4 // 5):
        cv2.circle(image, (length - 10, y), 11, (255, 246, 200), -1)
        cv2.circle(image, (7, y), 9, (110, 12, 16), -1)
    across = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[:, None, None]
    image *= 1.08 - 0.30 * across**3  # the sides fall off
    alpha = np.zeros((width, length), np.uint8)
    outline = _car_outline() * _DETAIL + np.array([length / 2, width / 2])
    cv2.fillPoly(alpha, [np.round(outline).astype(np.int32)], 255)
    return _sprite(image, alpha)


def _car_outline() -> np.ndarray:
    """Corner points (K, 2) of a car's rounded outline around its centre, in world pixels."""
    radius, (length, width) = 9.0, _CAR
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    arcs = radius * np.stack([np.cos(turns), np.sin(turns)], 1)
    return arcs + np.sign(arcs.round(9)) * (np.array([length, width]) / 2 - radius)


def _paint_tree(rng: np.random.Generator, radius: int) -> _Sprite:
    side = 2 * radius * 2
    image, alpha = np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.uint8)
    for layer in range(5):  # leaves from dark and wide to light and narrow
        for _ in range(140):
            turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1) ** 0.6 * (0.86 - 0.14 * layer)
            x, y = side / 2 * (1 + far * np.array([np.cos(turn), np.sin(turn)]))
            light = 0.55 + 0.13 * layer + rng.uniform(-0.08, 0.08) - 0.08 * np.sin(turn)
            colour = tuple(float(v) for v in light * np.array([86, 128, 58]) + rng.uniform(-7, 7, 3))
            axes = (int(rng.integers(7, 15)), int(rng.integers(4, 9)))
            spot = (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0.0, 360.0
            cv2.ellipse(image, *spot, colour, -1, cv2.LINE_AA)
            cv2.ellipse(alpha, *spot, 255, -1)
    return _sprite(image, alpha, scale=0.5)


def _sprite(image: np.ndarray, alpha: np.ndarray, scale: float = 1 / _DETAIL) -> _Sprite:
    opacity = cv2.GaussianBlur(alpha, (0, 0), 0.35 / scale).astype(np.float32)[..., None] / 255
    border = int(np.ceil(2 / scale))
    pixels = np.concatenate([np.clip(image, 0, 255) * opacity, opacity], axis=2)
    pixels = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_CONSTANT)
    h, w = (round(n * scale / _STORED) for n in pixels.shape[:2])  # what is stored is shrunk by two at most when placed
    return _Sprite(cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA), _STORED)


class DemoClip:
    """The film, frame by frame: ``clip[i]`` is (H, W, 3) uint8 RGB, painted when asked for. The story takes the whole
    length, whatever it is.

    Attributes:
        boxes: (N, 4) float64 xywh in pixels, the car's whole extent even where it is hidden.
        cover: (N,) float64, the share of the car that is visible.
    """

    def __init__(self, seed: int = 0, frames: int = 150, width: int = 640, height: int = 360) -> None:
        rng = np.random.default_rng(seed)
        self._seed, self._size = seed, (width, height)
        self._ground = _paint_ground(rng)
        self._car = _paint_car(body=(204, 44, 46), trim=(246, 242, 232), roof=(176, 30, 36))
        self._other = _paint_car(body=(212, 76, 44), trim=(58, 42, 46), roof=(188, 60, 36))
        self._car_shadow = _shadow_of(self._car)
        self._trees = self._plant(rng)
        shadows = {id(tree): _shadow_of(tree) for tree, *_ in self._trees}
        self._shadows = [(shadows[id(tree)], x + 12, y + 15, turn) for tree, x, y, turn in self._trees]
        self._sway = rng.uniform(0, 2 * np.pi, 3)
        self._time = np.linspace(0, 1, frames)
        self.boxes = np.stack([self._box(t) for t in self._time]) if frames else np.empty((0, 4))
        self.cover = np.array([self._cover(t) for t in self._time])

    def __len__(self) -> int:
        return len(self._time)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        t = float(self._time[index])
        camera = self._camera(t)
        picture = cv2.warpAffine(
            self._ground, camera[:2], self._size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        ).astype(np.float32)
        cars = [(self._other, *self._other_pose(t)), (self._car, *self._car_pose(t))]
        layers = [(self._car_shadow, x + 4, y + 5, turn) for _, x, y, turn in cars] + cars
        for sprite, x, y, turn in layers + self._shadows + self._trees:
            part, layer = sprite.placed(camera, x, y, turn, self._size)
            picture[part] *= 1 - layer[..., 3:]
            picture[part] += layer[..., :3]
        picture *= self._light(t, camera)
        noise = np.random.default_rng((self._seed, index)).standard_normal(picture.shape, np.float32)
        return np.clip(picture + 2.5 * noise, 0, 255).round().astype(np.uint8)

    def _plant(self, rng: np.random.Generator) -> list[tuple[_Sprite, float, float, float]]:
        """Trees: one whose crown reaches over the track, the others beside it."""
        kinds = [_paint_tree(rng, radius) for radius in (52, 44, 36)]
        trees = [(kinds[0], 742.0, float(_track(742)) - 8, 0.4)]
        while len(trees) < 26:
            x, y = rng.uniform(0, _WORLD[0]), rng.uniform(0, _WORLD[1])
            free = all(np.hypot(x - other[1], y - other[2]) > 78 for other in trees)
            if free and abs(y - _track(x)) > 118:
                trees.append((kinds[rng.integers(3)], x, y, rng.uniform(0, 6)))
        return trees

    def _car_pose(self, t: float) -> tuple[float, float, float]:
        """The car's world position and heading; it drives on the right and slows down in the bends."""
        x = 230 + 880 * (t + 0.018 * np.sin(4 * np.pi * t))
        return self._on_lane(x, side=1)

    def _other_pose(self, t: float) -> tuple[float, float, float]:
        x = 1075 - 900 * t
        x, y, turn = self._on_lane(x, side=-1)
        return x, y, turn + np.pi

    @staticmethod
    def _on_lane(x: float, side: int) -> tuple[float, float, float]:
        turn = float(np.arctan2(_track(x + 1) - _track(x - 1), 2))
        return x - side * 19 * np.sin(turn), float(_track(x)) + side * 19 * np.cos(turn), turn

    def _camera(self, t: float) -> np.ndarray:
        """The 3×3 matrix from world to frame: a pan that does not quite keep up, a slow zoom, a hand that sways."""
        width, height = self._size
        a, b, c = self._sway
        x = 400 + 560 * t + 16 * np.sin(9 * t + a)
        y = 450 + 0.55 * (float(_track(x)) - 450) + 12 * np.sin(11 * t + b)
        zoom = width / 640 * (0.92 + 0.38 * np.sin(np.pi * t) ** 2)
        turn = 0.07 * np.sin(7 * t + c)
        cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
        return np.array(
            [[cos, -sin, width / 2 - cos * x + sin * y], [sin, cos, height / 2 - sin * x - cos * y], [0, 0, 1]]
        )

    def _light(self, t: float, camera: np.ndarray) -> np.ndarray:
        """Brightness (H, W, 1): a cloud's shadow that drifts over the scene in the last third."""
        width, height = self._size
        world = np.linalg.inv(camera)
        xs = world[0, 0] * np.arange(width)[None] + world[0, 1] * np.arange(height)[:, None] + world[0, 2]
        edge = 1250 - 420 * t
        return (1.04 - 0.38 / (1 + np.exp(-(xs - edge) / 45)))[..., None].astype(np.float32)

    def _box(self, t: float) -> np.ndarray:
        x, y, turn = self._car_pose(t)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = _car_outline() @ rotation.T + np.array([x, y])
        camera = self._camera(t)
        seen = points @ camera[:2, :2].T + camera[:2, 2]
        low, high = seen.min(0), seen.max(0)
        return np.concatenate([low, high - low])

    def _cover(self, t: float) -> float:
        camera = self._camera(t)
        car = np.zeros(self._size[::-1], np.float32)
        part, layer = self._car.placed(camera, *self._car_pose(t), self._size)
        car[part] = layer[..., 3]
        visible = car.copy()
        part, layer = self._trees[0][0].placed(camera, *self._trees[0][1:], self._size)  # no other reaches the track
        visible[part] *= 1 - layer[..., 3]
        return float(visible.sum() / max(car.sum(), 1e-6))


def _shadow_of(sprite: _Sprite) -> _Sprite:
    """A soft dark copy of a sprite's outline."""
    opacity = 0.42 * cv2.GaussianBlur(sprite.pixels[..., 3], (0, 0), 1.6 / sprite.scale)
    pixels = np.zeros_like(sprite.pixels)
    pixels[..., 3] = opacity
    return _Sprite(pixels, sprite.scale)


def demo_sequence(seed: int = 0, frames: int = 150) -> Sequence:
    """The demo clip with its truth, as every data set gives its sequences."""
    clip = DemoClip(seed, frames)
    return make_sequence("demo", "demo", clip, clip.boxes, cover=clip.cover)
