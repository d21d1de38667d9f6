"""Synthetic videos with exact boxes: a cut-out moves through a scene filmed by a moving camera.

They stand in for what stills cannot teach: motion from frame to frame, gradual change of shape and light, and the
target's disappearance, whether behind something, over the frame's edge, or in a cut to another place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vil_tracker.config.sections import Amount, WholeNumber, validate
from vil_tracker.data.augment import Photometry
from vil_tracker.data.sequence import Sequence, make_sequence
from vil_tracker.data.synthetic.assets import AssetSampler
from vil_tracker.data.synthetic.motion import (
    MovingSprite,
    Scene,
    draw_joints,
    half_extent,
    hold,
    smooth_path,
    turned_sideways,
    wander,
)
from vil_tracker.data.synthetic.photo_pool import PhotoPool
from vil_tracker.data.synthetic.sprites import Pose, Sprite, recolour
from vil_tracker.errors import UserError

ABSENT_BELOW = 0.03  # visible share under which nothing can be recognised
_ATTEMPTS = 8
_KNOTS = (25, 70)  # range of the frames between two turning points of a path


@dataclass(frozen=True)
class ClipConfig:
    """What happens in a clip. Probabilities are per clip; frame counts shrink with clips too short for them.

    Attributes:
        sizes: frame sizes (width, height), drawn from evenly.
        occlusion: probability that the target is wholly hidden for a while, behind a wall.
        leave: probability that it leaves the frame and comes back in over an edge.
        jump: probability that it is suddenly somewhere else.
        hidden_frames: range of the number of frames that hiding or being away lasts.
        size: range of the target's √(w·h) in units of the frame's shorter side.
        pose: scale of the target's bending, turning and change of proportions; 1 is a thing that turns by some ten
            degrees and keeps its shape roughly.
        limbs: probability that a moving thing folds at joints, as people and animals do.
        turns: probability that it turns about its upright axis, so that its width changes and its other side is seen.
        twins: probability that up to three things that look like the target move along beside it, in clips in which
            it does not vanish.
        distractors: largest number of other moving things.
    """

    sizes: tuple[tuple[int, int], ...] = ((320, 240), (360, 270), (426, 240), (480, 270), (480, 360))
    occlusion: Amount = 0.3
    leave: Amount = 0.2
    jump: Amount = 0.1
    hidden_frames: tuple[int, int] = (20, 60)
    size: tuple[float, float] = (0.07, 0.45)
    pose: Amount = 1.0
    limbs: Amount = 0.0
    turns: Amount = 0.0
    twins: Amount = 0.0
    distractors: WholeNumber = 4

    def __post_init__(self) -> None:
        validate(self, "clips")
        if not self.sizes:
            raise UserError("clips.sizes is empty: give at least one (width, height)")


class SyntheticClips:
    """Makes clips of a pool's material; holds no random state of its own."""

    def __init__(self, pool: PhotoPool, config: ClipConfig | None = None) -> None:
        self.material = AssetSampler(pool)
        self.config = config or ClipConfig()

    def sample_clip(
        self,
        rng: np.random.Generator,
        num_frames: int,
        difficulty: float = 1.0,
        keep: SequenceABC[int] | np.ndarray | None = None,
    ) -> Sequence:
        """Make one clip of ``num_frames`` frames, of which those in ``keep`` are rendered (ascending; all by default).

        ``difficulty`` scales motion, change of appearance, number of distractors and the probability of events.

        Returns:
            A sequence whose frames are in memory. Boxes are those of the whole target, cut at the frame's edge, even
            where something stands before it; ``cover`` is its visible share; where that is under 3 % the target
            counts as absent and the box is NaN. The first frame shows the target well.
        """
        if num_frames < 1:
            raise UserError(f"a clip of {num_frames} frames was asked for, expected at least 1")
        scene, events = self._script(rng, num_frames, difficulty)
        for _ in range(_ATTEMPTS):
            if scene.render(0, None)[2] > 0.85:
                break
            scene, events = self._script(rng, num_frames, difficulty)
        else:
            scene.before, scene.behind = [], []
        keep = range(num_frames) if keep is None else keep
        frames, boxes, cover = [], np.full((len(keep), 4), np.nan), np.zeros(len(keep))
        for row, i in enumerate(keep):
            frame, box, cover[row] = scene.render(int(i), rng)
            if cover[row] >= ABSENT_BELOW:
                boxes[row] = box
            frames.append(frame)
        return make_sequence(
            "synthetic",
            "synthetic_clips",
            frames,
            boxes,
            absent=cover < ABSENT_BELOW,
            cover=cover,
            attributes=tuple(events),
        )

    # --- script -----------------------------------------------------------------------------------------------------

    def _script(self, rng: np.random.Generator, n: int, difficulty: float) -> tuple[Scene, list[str]]:
        config, material = self.config, self.material
        width, height = config.sizes[int(rng.integers(len(config.sizes)))]
        shorter = min(width, height)
        low, high = config.size
        size = shorter * math.exp(rng.uniform(math.log(low), math.log(high)))
        mode = "cutout" if len(material.pool.cutouts) and rng.random() < 0.75 else "pseudo"
        sprite, group = material.target(rng, mode)
        target = self._mover(rng, sprite, n, width, height, size, difficulty)
        walls, events = self._events(rng, target, n, width, height, difficulty)

        behind: list[MovingSprite] = []
        before: list[MovingSprite] = list(walls)
        for _ in range(int(round(rng.integers(config.distractors + 1) * min(difficulty, 1.0)))):
            other = self.material.distractor(rng, sprite, group)
            mover = self._mover(rng, other, n, width, height, size * math.exp(rng.normal(-0.05, 0.25)), difficulty)
            (before if rng.random() < 0.35 else behind).append(mover)
        if config.twins and not events and rng.random() < config.twins:
            behind += self._twins(rng, target, n)

        photo = material.photo(rng, sprite.origin)
        shake = rng.normal(0.0, rng.uniform(0.2, 1.5), (n, 2)) * (rng.random() < 0.4) * difficulty
        base = Photometry().changed(rng, 0.5 * min(difficulty, 1.0))
        if rng.random() < 0.04:
            base = base.grey()
        light = wander(rng, n, 40, 3) * 0.5 * difficulty
        looks = [
            replace(
                base,
                brightness=base.brightness + 0.12 * a,
                contrast=base.contrast + 0.10 * b,
                temperature=base.temperature + 0.06 * c,
            )
            for a, b, c in light
        ]
        scene = Scene(
            width,
            height,
            photo,
            self._camera(rng, photo, n, width, height, difficulty),
            shake,
            target,
            behind,
            before,
            looks,
            noise=abs(rng.normal(0.0, 4.0)) * difficulty if rng.random() < 0.4 else 0.0,
            quality=int(rng.integers(30, 95)) if rng.random() < 0.4 * difficulty else None,
            shutter=rng.uniform(0.3, 1.0) if rng.random() < 0.4 * difficulty else 0.0,
        )
        return scene, events

    def _mover(
        self, rng: np.random.Generator, sprite: Sprite, n: int, width: int, height: int, size: float, difficulty: float
    ) -> MovingSprite:
        margin = min(0.6 * size, 0.3 * min(width, height))
        xy = smooth_path(
            rng, n, np.array([margin, margin]), np.array([width - margin, height - margin]), rng.uniform(*_KNOTS)
        )
        scale = np.exp(np.clip(0.25 * difficulty * wander(rng, n, 45, 1)[:, 0], -0.8, 0.6))
        pose = self.config.pose
        grid = rng.normal(0.0, min(0.03 * pose, 0.055), (4, 4, 2)) if rng.random() < 0.5 * pose else None
        phase = np.sin(np.arange(n) * rng.uniform(0.1, 0.5) + rng.uniform(0, 6.3)) * min(difficulty, 1.0)
        mover = MovingSprite(
            sprite,
            xy,
            size * scale,
            np.clip(0.18 * pose * difficulty * wander(rng, n, 30, 1)[:, 0], -1.0, 1.0) + rng.normal(0.0, 0.08),
            np.clip(0.15 * pose * difficulty * wander(rng, n, 30, 1)[:, 0], -0.5, 0.5),
            np.full(n, rng.random() < 0.5),
            grid,
            phase,
        )
        if self.config.limbs and rng.random() < self.config.limbs:
            mover.joints, mover.swing = draw_joints(rng, n, min(difficulty, 1.5))
        if self.config.turns and rng.random() < self.config.turns:
            width_factor, other_side = turned_sideways(rng, n)
            mover.stretch, mover.flip = mover.stretch + np.log(width_factor), mover.flip ^ other_side
            mover.size = mover.size * np.sqrt(width_factor)  # it stays as tall as it was
        mover.size = np.clip(mover.size, 6.0, 0.75 * min(width, height))
        return mover

    def _twins(self, rng: np.random.Generator, target: MovingSprite, n: int) -> list[MovingSprite]:
        """Things that look like the target and keep about the same place beside it."""
        twins = []
        for _ in range(int(rng.integers(1, 4))):
            sprite = target.sprite if rng.random() < 0.5 else recolour(target.sprite, rng, 0.2)
            angle, distance = rng.uniform(0, 2 * math.pi), target.size * rng.uniform(1.0, 2.2)
            offset = distance[:, None] * (math.cos(angle), math.sin(angle))
            sway = 0.35 * target.size[:, None] * wander(rng, n, 30, 2)
            later = int(rng.integers(1, max(2, n)))  # the same movements at another time
            twins.append(
                replace(
                    target,
                    sprite=sprite,
                    xy=target.xy + offset + sway,
                    size=target.size * math.exp(rng.normal(0.0, 0.08)),
                    angle=np.roll(target.angle, later),
                    phase=np.roll(target.phase, later),
                    swing=np.roll(target.swing, later, axis=0),
                )
            )
        return twins

    def _camera(
        self, rng: np.random.Generator, photo: np.ndarray, n: int, width: int, height: int, difficulty: float
    ) -> np.ndarray:
        photo_height, photo_width = photo.shape[:2]
        fit = max(width / photo_width, height / photo_height)
        zoom = (
            fit * rng.uniform(1.05, 1.7) * np.exp(np.clip(0.08 * difficulty * wander(rng, n, 60, 1)[:, 0], -0.3, 0.3))
        )
        half = np.stack([width / zoom / 2, height / zoom / 2], axis=1)  # of the window, in photo pixels
        room = np.maximum(np.array([photo_width, photo_height]) / 2 - half, 0)
        still = rng.random() < 0.3
        drift = np.clip(wander(rng, n, rng.uniform(*_KNOTS), 2) * (0.0 if still else 0.6 * difficulty), -1, 1)
        centre = np.array([photo_width, photo_height]) / 2 + room * np.clip(drift + rng.uniform(-0.5, 0.5, 2), -1, 1)
        roll = 0.03 * difficulty * wander(rng, n, 50, 1)[:, 0] * (rng.random() < 0.4)
        flip = bool(rng.random() < 0.5)
        matrices = np.empty((n, 2, 3))
        for i in range(n):
            matrices[i, :, :2] = Pose(float(roll[i]), 0.0, 0.0, flip).linear() * zoom[i]
            matrices[i, :, 2] = np.array([width, height]) / 2 - matrices[i, :, :2] @ centre[i]
        return matrices

    def _events(
        self, rng: np.random.Generator, target: MovingSprite, n: int, width: int, height: int, difficulty: float
    ) -> tuple[list[MovingSprite], list[str]]:
        """Put disappearances into the target's path. Returns the walls that hide it and the events' names."""
        config = self.config
        names = [name for name in ("occlusion", "leave", "jump") if rng.random() < getattr(config, name) * difficulty]
        rng.shuffle(names)
        walls = []
        slot = n // max(len(names), 1)
        done = []
        for k, name in enumerate(names):
            ramp = max(1, min(12, slot // 6))
            shortest, longest = config.hidden_frames
            hidden = min(int(rng.integers(shortest, longest + 1)), slot // 2)
            free = slot - hidden - 2 * ramp - 1
            if free < 1 or hidden < 1:
                continue
            start = k * slot + 1 + ramp + int(rng.integers(free))  # first hidden frame
            stop = start + hidden
            if name == "jump":
                other = self._mover(rng, target.sprite, n, width, height, float(target.size[0]), 0.0)
                target.xy[start:] = other.xy[start:]
            elif name == "leave":
                self._leave(rng, target, start, stop, ramp, width, height)
            else:
                walls.append(self._wall(rng, target, start, stop, ramp, width, height))
            done.append(name)
        return walls, done

    def _leave(
        self, rng: np.random.Generator, target: MovingSprite, start: int, stop: int, ramp: int, width: int, height: int
    ) -> None:
        """Out over one edge before frame ``start``, in over an edge after ``stop``."""
        reach = half_extent(target, slice(None)).max(0) + 4
        weight = hold(len(target.xy), start, stop, ramp)[:, None]
        middle = (start + stop) // 2
        away = np.empty_like(target.xy)
        for part, at in ((slice(None, middle), start), (slice(middle, None), min(stop, len(target.xy)) - 1)):
            spot = target.xy[at].copy()
            axis, side = int(rng.integers(2)), int(rng.integers(2))
            limit = (width, height)[axis]
            spot[axis] = limit + reach[axis] if side else -reach[axis]
            away[part] = spot
        target.xy[:] = (1 - weight) * target.xy + weight * away

    def _wall(
        self, rng: np.random.Generator, target: MovingSprite, start: int, stop: int, ramp: int, width: int, height: int
    ) -> MovingSprite:
        """Lead the target behind a wall that stands in the scene; it stays wholly hidden from ``start`` to ``stop``."""
        n = len(target.xy)
        half = half_extent(target, slice(start, stop)).max(0) + 3
        room = half * rng.uniform(0.0, 0.8, 2)  # how far the target may wander behind it
        # Of a few places the one that the rest of the path avoids most, or a small frame's target would never come out.
        places = rng.uniform(0.15, 0.85, (8, 2)) * (width, height)
        rest = np.delete(target.xy, np.s_[start:stop], axis=0)
        met = [(np.abs(rest - place) < 2 * half + room).all(1).sum() for place in places]
        centre = places[int(np.argmin(met))]
        sway = np.clip(0.6 * wander(rng, n, 25, 2), -1, 1)
        weight = hold(n, start, stop, ramp)[:, None]
        target.xy[:] = (1 - weight) * target.xy + weight * (centre + sway * room)
        size = 2 * (half + room)
        part = self.material.part(rng, shape=False, avoid=target.sprite.origin)
        # The wall keeps its texture's proportions only if those fit: what counts is that it hides the target.
        rgba = cv2.resize(part.rgba, (max(8, int(size[0])), max(8, int(size[1]))), interpolation=cv2.INTER_LINEAR)
        h, w = rgba.shape[:2]
        hull = np.array([[0.0, 0.0], [w, 0.0], [w, h], [0.0, h]])
        fixed = np.zeros(n)
        return MovingSprite(
            Sprite(rgba, hull),
            np.repeat(centre[None], n, 0),
            np.full(n, math.sqrt(float(size[0] * size[1]))),
            fixed,
            np.full(n, math.log(float(size[0] / size[1]) / (w / h))),
            np.zeros(n, bool),
        )
