"""Synthetic training pairs: a template crop and a search crop composed from still photos.

Nothing larger than the crops is ever rendered: backgrounds, targets, distractors and occluders are warped straight into
crop coordinates, so that a pair costs a few milliseconds of one core. Five kinds are mixed:

* still: two views of one random textured part of an unlabelled photo;
* boxed: the same with an annotated box, its context kept;
* cutout: an object cut out by its mask, moving against backgrounds of other photos, among distractors;
* pseudo: the same with a randomly shaped part of any photo as the object;
* clip: two real frames of a short annotated clip.

Any of them may be seen from afar: composed with few pixels and then enlarged, as a crop around a small target is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vil_tracker.config.sections import Amount, validate
from vil_tracker.data.augment import Photometry, degrade
from vil_tracker.data.sampling import PairSample
from vil_tracker.data.synthetic.assets import AssetSampler
from vil_tracker.data.synthetic.compose import (
    CompositeCrop,
    match_background,
    occlude,
    paste,
    paste_occluder,
    random_frame,
    relight,
)
from vil_tracker.data.synthetic.photo_pool import PhotoPool
from vil_tracker.data.synthetic.sprites import Pose, Sprite, bend, blend, bounds, ellipse_outline, place, warp
from vil_tracker.errors import UserError

MODES = ("still", "boxed", "cutout", "pseudo", "clip")


@dataclass(frozen=True)
class SyntheticConfig:
    """The mixture and its strengths.

    Attributes:
        still, boxed, cutout, pseudo, clip: relative weights of the kinds of pairs (see the module).
        negatives: share of pairs whose search crop does not hold the target.
        far: share of pairs seen from afar, with the target 8 to 40 pixels large before enlargement.
        fill: share of crops that reach beyond the frame's edge.
        occlusion: share of search crops whose target is partly covered.
        grey: share of pairs that are grey.
        central: share of search crops whose target is near the centre; in the others it is anywhere.
        centre_jitter: standard deviation of the target's distance from the crop's centre, in crop sides, for the
            ``central`` ones.
        scale_jitter: standard deviation of the log of the target's size against its expected one.
        aspect_jitter: standard deviation of the log of the target's aspect against the template's.
        rotation: standard deviation of the turn between template and search, in degrees.
        bend: how far a cut-out is bent at most: standard deviation of the displacements, in units of its size.
        box_noise: standard deviation of the template box's sides, in units of the target's.
    """

    still: Amount = 0.14
    boxed: Amount = 0.18
    cutout: Amount = 0.48
    pseudo: Amount = 0.17
    clip: Amount = 0.03
    negatives: Amount = 0.03
    far: Amount = 0.2
    fill: Amount = 0.18
    occlusion: Amount = 0.2
    grey: Amount = 0.06
    central: Amount = 0.3
    centre_jitter: Amount = 0.09
    scale_jitter: Amount = 0.25
    aspect_jitter: Amount = 0.12
    rotation: Amount = 7.0
    bend: Amount = 0.05
    box_noise: Amount = 0.035

    def __post_init__(self) -> None:
        validate(self, "synthetic")

    def only(self, kinds: str) -> SyntheticConfig:
        """The same mixture with only these kinds of pairs, joined by commas; an empty string leaves it as it is.

        Raises:
            UserError: one of them is no kind.
        """
        chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
        for kind in chosen:
            if kind not in MODES:
                raise UserError(f"synthetic_pairs has no kind {kind!r}: choose from {', '.join(MODES)}")
        return replace(self, **{kind: 0.0 for kind in MODES if chosen and kind not in chosen})


class SyntheticPairs:
    """Makes pairs of a pool's material; holds no random state of its own. Sizes are sides of the crops in pixels,
    factors those sides in units of the target's √(w·h).
    """

    skipped = None  # everything is decoded beforehand: no picture can turn out to be damaged

    def __init__(
        self,
        pool: PhotoPool,
        template_size: int = 128,
        search_size: int = 256,
        template_factor: float = 2.0,
        search_factor: float = 4.0,
        config: SyntheticConfig | None = None,
    ) -> None:
        self.material = AssetSampler(pool)
        self.template_size, self.search_size = template_size, search_size
        self.template_factor, self.search_factor = template_factor, search_factor
        self.config = config or SyntheticConfig()
        weights = np.array([getattr(self.config, mode) for mode in MODES])
        available = [True, len(pool.boxed) > 0, len(pool.cutouts) > 0, True, len(pool.clips) > 0]
        weights = weights * available
        if weights.sum() <= 0:
            raise UserError("the synthetic mixture has no kind of pair with a weight above 0 and material for it")
        self._thresholds = np.cumsum(weights / weights.sum())

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample:
        """Make one pair; equal states of ``rng`` give equal pairs.

        ``difficulty`` scales jitter, change of look, distractors and faults; 0 is two almost equal, clean views. The
        template box is slightly wrong, as a user's is; the search box is exact, may reach beyond the crop but not
        beyond the frame, and is zeros where the target is not present.
        """
        return self.sample_mode(rng, self.draw_mode(rng), difficulty)

    def draw_mode(self, rng: np.random.Generator) -> str:
        """One of MODES, by the mixture's weights."""
        return MODES[min(int(np.searchsorted(self._thresholds, rng.random())), len(MODES) - 1)]

    def sample_mode(self, rng: np.random.Generator, mode: str, difficulty: float) -> PairSample:
        """Make one pair of the given kind; otherwise as :meth:`sample`."""
        present = bool(rng.random() >= self.config.negatives)
        resolution = math.exp(rng.uniform(math.log(8), math.log(40))) if rng.random() < self.config.far else math.inf
        sizes = (
            max(16, round(min(self.template_size, self.template_factor * resolution))),
            max(32, round(min(self.search_size, self.search_factor * resolution))),
        )
        make = self._composed if mode in ("cutout", "pseudo") else self._photographed
        template, template_box, search = make(rng, mode, sizes, difficulty, present)

        look = Photometry().changed(rng, 0.6 * min(difficulty, 1.0))
        grey = bool(rng.random() < self.config.grey)
        images = []
        for view, size in ((template, self.template_size), (search, self.search_size)):
            own = look.changed(rng, 0.5 * difficulty)
            images.append(self._finish(rng, view, size, own.grey() if grey else own, difficulty))
        search_box = search.box / search.canvas.shape[0] if present else np.zeros(4)
        return PairSample(images[0], template_box.astype(np.float32), images[1], search_box.astype(np.float32), present)

    # --- where things lie -------------------------------------------------------------------------------------------

    def _template_target(
        self, rng: np.random.Generator, width: float, height: float, n: int, difficulty: float
    ) -> tuple[tuple[float, float], float, np.ndarray]:
        """Place a target of this aspect in a template crop that is centred on a slightly wrong box.

        Returns:
            The target's centre and √(w·h) in canvas pixels, and the wrong box, xyxy in units of the crop.
        """
        root = math.sqrt(width * height)
        w, h = width / root, height / root
        noise = np.clip(rng.normal(0.0, self.config.box_noise * min(difficulty, 1.0), 4), -0.1, 0.1)
        x1, y1, x2, y2 = noise * (w, h, w, h) + (-w / 2, -h / 2, w / 2, h / 2)
        side = self.template_factor * math.sqrt((x2 - x1) * (y2 - y1))
        centre = (n / 2 - (x1 + x2) / 2 * n / side, n / 2 - (y1 + y2) / 2 * n / side)
        half_w, half_h = (x2 - x1) / side / 2, (y2 - y1) / side / 2
        return centre, n / side, np.array([0.5 - half_w, 0.5 - half_h, 0.5 + half_w, 0.5 + half_h])

    def _search_target(self, rng: np.random.Generator, n: int, difficulty: float) -> tuple[tuple[float, float], float]:
        """The target's centre and √(w·h) in canvas pixels of a search crop."""
        config = self.config
        # Wide at every difficulty: where the centre is a good guess, nothing makes the network read the template.
        if rng.random() < config.central:
            shift = rng.normal(0.0, config.centre_jitter, 2)
        else:
            shift = rng.uniform(-0.38, 0.38, 2)
        x, y = np.clip(shift, -0.44, 0.44)
        # Within three deviations, and smaller than the crop.
        limit = min(3 * config.scale_jitter, 1.1)
        scale = math.exp(min(max(rng.normal(0.0, config.scale_jitter * difficulty), -limit), limit))
        return (n * (0.5 + x), n * (0.5 + y)), n / self.search_factor * scale

    def _turn(self, rng: np.random.Generator, difficulty: float, flip: bool, free: bool) -> Pose:
        """A pose relative to upright; ``free`` allows what a cut-out may do and a whole photo may not."""
        sigma = math.radians(self.config.rotation) * difficulty
        angle = rng.normal(0.0, sigma)
        if free and rng.random() < 0.12 * difficulty:
            angle = rng.uniform(-math.pi / 3, math.pi / 3)
        limit = 1.2 if free else math.radians(15)
        angle = min(max(angle, -limit), limit)
        stretch, shear = rng.normal(0.0, self.config.aspect_jitter * difficulty), rng.normal(0.0, 0.05 * difficulty)
        return Pose(angle, min(max(stretch, -0.7), 0.7), min(max(shear, -0.15), 0.15), flip)

    # --- views of whole photos --------------------------------------------------------------------------------------

    def _photographed(
        self, rng: np.random.Generator, mode: str, sizes: tuple[int, int], difficulty: float, present: bool
    ) -> tuple[CompositeCrop, np.ndarray, CompositeCrop]:
        flip = bool(rng.random() < 0.5)
        fill = bool(rng.random() < 2 * self.config.fill)
        (first, first_box), (second, second_box) = self.material.photo_pair(rng, mode, present)
        # A camera's frame is never turned inside the crop, so a view that shows the frame's edge stays upright.
        poses = [
            Pose(flip=flip, stretch=rng.normal(0, 0.1 * difficulty)) if fill else self._turn(rng, d, flip, False)
            for d in (0.4 * difficulty, difficulty)
        ]
        points = ellipse_outline(first_box)
        w, h = np.ptp(points @ poses[0].linear().T, axis=0)
        centre, size, template_box = self._template_target(rng, w, h, sizes[0], difficulty)
        matrix = place(points, poses[0].linear(), centre, size)
        template = self._photo_view(rng, first, matrix, points, sizes[0], fill)

        points = ellipse_outline(second_box)
        centre, size = self._search_target(rng, sizes[1], difficulty)
        matrix = place(points, poses[1].linear(), centre, size)
        search = self._photo_view(rng, second, matrix, points, sizes[1], fill)
        if rng.random() < 0.3 * difficulty:
            self._scatter(rng, search, None, -1, size, int(rng.integers(1, 3)), front=0.7)
        if present and rng.random() < self.config.occlusion * difficulty:
            occlude(rng, search, self.material.occluder(rng))
        return template, template_box, search

    def _photo_view(
        self, rng: np.random.Generator, photo: np.ndarray, matrix: np.ndarray, points: np.ndarray, n: int, fill: bool
    ) -> CompositeCrop:
        """Warp a photo into an n × n canvas; what lies outside becomes filled later, mirrored, or another photo."""
        height, width = photo.shape[:2]
        corners = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
        frame = bounds(corners, matrix)
        inside = np.prod(np.clip(np.minimum(frame[2:], n) - np.maximum(frame[:2], 0), 0, None)) / n**2
        if not fill and inside < 0.85:
            canvas = self.material.background(rng, n)
            framed = warp(photo, matrix, (n, n))
            # A soft transition: the photo's hard edge would give the target's whereabouts away.
            solid = np.zeros((n, n), np.uint8)
            inner = corners * 0.96 + corners.mean(0) * 0.04
            polygon = inner @ matrix[:, :2].T + matrix[:, 2]
            cv2.fillConvexPoly(solid, polygon.round().astype(np.int32), 255)
            ramp = int(0.04 * (frame[2:] - frame[:2]).min()) | 1
            alpha = cv2.blur(solid, (ramp, ramp))
            blend(canvas, (slice(0, n), slice(0, n)), np.dstack([framed, alpha]))
        else:
            canvas = warp(photo, matrix, (n, n))
        return CompositeCrop(canvas, bounds(points, matrix), None, frame if fill else None)

    # --- views composed of cut-outs ---------------------------------------------------------------------------------

    def _composed(
        self, rng: np.random.Generator, mode: str, sizes: tuple[int, int], difficulty: float, present: bool
    ) -> tuple[CompositeCrop, np.ndarray, CompositeCrop]:
        config, material, strength = self.config, self.material, min(difficulty, 1.0)
        sprite, group = material.target(rng, mode)
        if rng.random() < 0.3:
            sprite = relight(sprite, Photometry().changed(rng, 0.8))
        flip = bool(rng.random() < 0.5)
        base = Pose(rng.normal(0.0, 0.1), rng.normal(0.0, 0.12), 0.0, flip).linear()
        backgrounds = material.background_pair(rng, sizes, self.template_factor / self.search_factor)
        if rng.random() < 0.5:
            # What stands in a place shares its light; a target that always shines out would be too easy.
            sprite = match_background(sprite, backgrounds[1], rng.uniform(0.1, 0.5) * strength)

        w, h = np.ptp(sprite.hull @ base.T, axis=0)
        centre, size, template_box = self._template_target(rng, w, h, sizes[0], strength)
        template = CompositeCrop(backgrounds[0], np.zeros(4))
        if rng.random() < 0.25 * difficulty:
            self._scatter(rng, template, sprite, group, size, 1, front=0.0)
        paste(template, sprite, place(sprite.hull, base, centre, size))
        if rng.random() < config.fill:
            limits = template_box * sizes[0]
            template.frame = random_frame(rng, limits, sizes[0], cut=0.0)

        # Things turn round: now and then the far side, which looks much like a mirror image.
        pose = self._turn(rng, difficulty, bool(rng.random() < 0.1 * difficulty), True).linear() @ base
        seen = sprite
        if rng.random() < 0.6 * difficulty:
            seen = bend(sprite, rng.normal(0.0, rng.uniform(0.2, 1.0) * config.bend * strength, (4, 4, 2)))
        centre, size = self._search_target(rng, sizes[1], difficulty)
        search = CompositeCrop(backgrounds[1], np.zeros(4))
        count = int(np.searchsorted((0.2, 0.5, 0.72, 0.86, 0.94), rng.random())) if rng.random() < difficulty else 0
        behind = int(rng.binomial(count, 0.6))
        self._scatter(rng, search, sprite, group, size, behind, front=0.0)
        if present:
            paste(search, seen, place(seen.hull, pose, centre, size))
        self._scatter(rng, search, sprite, group, size, count - behind, front=1.0)
        if present and rng.random() < config.occlusion * difficulty:
            occlude(rng, search, self.material.occluder(rng))
        if rng.random() < config.fill:
            box = search.box if present else np.array([0.4, 0.4, 0.6, 0.6]) * sizes[1]
            search.frame = random_frame(rng, box, sizes[1], cut=0.35)
        return template, template_box, search

    def _scatter(
        self,
        rng: np.random.Generator,
        view: CompositeCrop,
        target: Sprite | None,
        group: int,
        size: float,
        count: int,
        front: float,
    ) -> None:
        """Add ``count`` distractors about as large as the target, each in front of it with probability ``front``.

        One in front may cover a part of the target, never most of it. Where the view already holds the target, one
        that is not in front stays clear of it.
        """
        n = view.canvas.shape[0]
        for _ in range(count):
            sprite = self.material.distractor(rng, target, group)
            pose = Pose(rng.normal(0, 0.2), rng.normal(0, 0.2), 0.0, bool(rng.random() < 0.5)).linear()
            scale = size * math.exp(min(max(rng.normal(-0.05, 0.3), -0.8), 0.6))
            x, y = rng.uniform(-0.05, 1.05, 2) * n
            allowed = 0.3 if rng.random() < front else 0.02
            paste_occluder(view, sprite, place(sprite.hull, pose, (x, y), scale), allowed)

    # --- from canvas to crop ----------------------------------------------------------------------------------------

    def _finish(
        self, rng: np.random.Generator, view: CompositeCrop, size: int, look: Photometry, difficulty: float
    ) -> np.ndarray:
        """Look, camera faults, enlargement and the fill outside the frame. Clips ``view.box`` to the frame."""
        n = view.canvas.shape[0]
        image = look.apply(view.canvas)
        image = degrade(image, rng, difficulty)
        if n != size:
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        if view.frame is not None:
            # The tracker fills what lies outside the frame with its mean colour, after the camera's noise.
            x1, y1, x2, y2 = (int(round(min(max(v * size / n, 0), size))) for v in view.frame)
            if x2 - x1 > 2 and y2 - y1 > 2 and (x1, y1, x2, y2) != (0, 0, size, size):
                mean = cv2.mean(image[y1:y2, x1:x2])[:3]
                image = cv2.copyMakeBorder(
                    image[y1:y2, x1:x2], y1, size - y2, x1, size - x2, cv2.BORDER_CONSTANT, value=mean
                )
                low, high = view.frame[:2], view.frame[2:]
                view.box = np.concatenate([np.clip(view.box[:2], low, high), np.clip(view.box[2:], low, high)])
        return image
