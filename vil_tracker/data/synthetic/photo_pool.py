"""The material that synthetic samples are made of: photos, boxed objects, cut-outs and short clips, decoded once.

A tree of photos is decoded into memory, or into one cache file that every process maps, so that making a sample never
waits for a JPEG. The layout read by :func:`load_photo_pool`::

    stills/*.jpg                     photos without annotation
    objects/annotations.json         COCO layout; an annotation may name its ``mask_file``
    objects/images/  objects/masks/
    <any other folder>/*/groundtruth.txt + *.jpg     short clips in GOT-10k layout
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vil_tracker.data.sequence import read_boxes_file
from vil_tracker.data.synthetic.sprites import Sprite, outline
from vil_tracker.errors import UserError, atomic_write
from vil_tracker.images import IMAGE_EXTENSIONS, read_image

CACHE_VERSION = 3
MAX_SPRITE = 192  # pixels; a target fills a quarter of the search crop, so larger cut-outs would be thrown away
MIN_SPRITE = 12
_FIFTH = 5
_PEOPLE = ("ccp", "human", "person")
_WORK_SIZE = 112  # pixels on the long side; GrabCut's time grows with the area and the edge is softened anyway
_MARGIN = 0.25  # of the box's sides: what surrounds it teaches GrabCut the background's colours


@dataclass(frozen=True)
class PhotoPool:
    """Decoded material. Indices below refer to ``images``.

    Attributes:
        images: (H, W, 3) uint8 RGB photos; behind them the (h, w, 4) RGBA cut-outs.
        photos: (P,) indices of the photos that may serve as background or for same-photo pairs.
        boxed: (B,) indices of photos with a boxed object; ``boxes``: (B, 4) xywh in pixels.
        cutouts: (C,) indices of cut-outs; ``groups``: (C,) number of their class, for distractors of the same kind.
        origins: (len(images),) number of the photo or video that each image comes from: two of one origin may show the
            very same thing.
        clips: one (N,) array of indices per clip; ``clip_boxes``: one (N, 4) xywh array per clip.
        cache: the cache file that the images are mapped from, if any.
    """

    images: list[np.ndarray]
    photos: np.ndarray
    boxed: np.ndarray
    boxes: np.ndarray
    cutouts: np.ndarray
    groups: np.ndarray
    origins: np.ndarray
    clips: tuple[np.ndarray, ...] = ()
    clip_boxes: tuple[np.ndarray, ...] = ()
    cache: Path | None = None

    def __post_init__(self) -> None:
        if len(self.photos) == 0:
            raise UserError("the photo pool is empty: synthetic samples need at least one photo")

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader process started by spawn maps the cache file again instead of receiving a copy of every pixel.
        if self.cache is not None:
            return open_cache, (self.cache,)
        return super().__reduce__()  # type: ignore[return-value]

    def sprite(self, number: int) -> Sprite:
        """Cut-out ``number`` (0 to C-1), ready to be placed."""
        index = self.cutouts[number]
        rgba = self.images[index]
        return Sprite(rgba, outline(rgba[..., 3]), int(self.origins[index]))


def part_of(pool: PhotoPool, *, aside: bool) -> PhotoPool:
    """Every fifth origin's photos and cut-outs, which are held aside (the verifier does not learn from them, and the
    score is calibrated on them), or the others; the whole pool if there are no such photos.
    """
    chosen = (pool.origins % _FIFTH == 0) == aside
    if not chosen[pool.photos].any():
        return pool
    cutouts, boxed = chosen[pool.cutouts], chosen[pool.boxed]
    return replace(
        pool,
        photos=pool.photos[chosen[pool.photos]],
        boxed=pool.boxed[boxed],
        boxes=pool.boxes[boxed],
        cutouts=pool.cutouts[cutouts],
        groups=pool.groups[cutouts],
        cache=None,
    )


def pool_from_arrays(
    photos: list[np.ndarray],
    objects: list[tuple[int, np.ndarray, np.ndarray | None, str]] | None = None,
    clips: list[tuple[list[int], np.ndarray]] | None = None,
    *,
    origins: list[int] | None = None,
    segment: bool = False,
) -> PhotoPool:
    """Build a pool from decoded material.

    Args:
        photos: (H, W, 3) uint8 RGB each.
        objects: (photo number, box xywh, mask (H, W) bool or None, class name) each.
        clips: (photo numbers, boxes (N, 4) xywh) each; their photos do not serve as backgrounds.
        origins: number of the video that each photo comes from; by default each is of its own.
        segment: guess the masks of objects that have none (20 ms each).
    """
    objects, clips = objects or [], clips or []
    images = list(photos)
    origins = list(range(len(photos)) if origins is None else origins)
    cutouts, names = [], []
    boxed, boxes = [], []
    for number, box, mask, name in objects:
        height, width = photos[number].shape[:2]
        box = np.asarray(box, np.float64)
        low, high = np.maximum(box[:2], 0), np.minimum(box[:2] + box[2:], (width, height))
        if (high - low).min() < MIN_SPRITE / 2:
            continue
        boxed.append(number)
        boxes.append([*low, *(high - low)])
        if mask is None and segment:
            mask = mask_from_box(photos[number], box)
        rgba = None if mask is None else cut_out(photos[number], mask)
        if rgba is not None:
            cutouts.append(len(images))
            names.append("person" if name in _PEOPLE else name)
            images.append(rgba)
            origins.append(origins[number])
    in_clips = {index for indices, _ in clips for index in indices}
    order = {name: i for i, name in enumerate(sorted(set(names)))}
    return PhotoPool(
        images,
        photos=np.array([i for i in range(len(photos)) if i not in in_clips], np.int64),
        boxed=np.array(boxed, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        cutouts=np.array(cutouts, np.int64),
        groups=np.array([order[name] for name in names], np.int64),
        origins=np.array(origins, np.int64),
        clips=tuple(np.array(indices, np.int64) for indices, _ in clips),
        clip_boxes=tuple(np.asarray(b, np.float64) for _, b in clips),
    )


def mask_from_box(photo: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """Guess the mask (H, W) bool of an object, boxed xywh in pixels, in a photo (H, W, 3) uint8 RGB by GrabCut (Rother,
    Kolmogorov and Blake, 2004).

    None where the result is not to be trusted: hardly any background beside the box, less than 30 % of the box covered,
    or an extent that does not reach the box's sides. About half of the boxes pass.
    """
    height, width = photo.shape[:2]
    x, y, w, h = (float(v) for v in box)
    mx, my = _MARGIN * w + 4, _MARGIN * h + 4
    left, top = max(0, int(x - mx)), max(0, int(y - my))
    part = photo[top : min(height, int(y + h + my)), left : min(width, int(x + w + mx))]
    scale = min(1.0, _WORK_SIZE / max(part.shape[:2]))
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = (int(round(v * scale)) for v in (x - left, y - top, x + w - left, y + h - top))
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y1:y2, x1:x2] = cv2.GC_PR_FGD
    if min(x2 - x1, y2 - y1) < 10 or (labels == cv2.GC_BGD).mean() < 0.05:
        return None
    cv2.setRNGSeed(1)  # its colour clusters start from OpenCV's own generator; equal input must give equal masks
    cv2.grabCut(small, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    left_, top_, w_, h_ = cv2.boundingRect(found)
    if w_ * h_ < 0.8 * (x2 - x1) * (y2 - y1) or found.sum() < 0.3 * (x2 - x1) * (y2 - y1):
        return None
    mask = np.zeros((height, width), bool)
    full = cv2.resize(found * 255, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = full > 127
    return mask


def cut_out(photo: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Cut the object of a mask (H, W) bool out of a photo (H, W, 3) uint8 RGB, with soft edges.

    Returns:
        (h, w, 4) uint8 RGBA, at most MAX_SPRITE on its long side; None where the mask is a poor one: many fragments,
        a mere sliver of its box, or so full a box that it is the box rather than the object.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = int(areas.argmax()) + 1
    if areas.max() < 0.7 * areas.sum():
        return None
    keep = labels == largest
    x, y, w, h = (int(v) for v in stats[largest, :4])
    share = float(areas.max()) / (w * h)
    if not 0.12 < share < 0.9 or min(w, h) < MIN_SPRITE or w * h < 0.004 * mask.size:
        return None
    x0, y0 = max(0, x - 3), max(0, y - 3)
    x1, y1 = min(mask.shape[1], x + w + 3), min(mask.shape[0], y + h + 3)
    alpha = np.where(keep[y0:y1, x0:x1], np.uint8(255), np.uint8(0))
    # One pixel inwards, then softened: the rim of a mask carries the old background's colour.
    alpha = cv2.GaussianBlur(cv2.erode(alpha, np.ones((3, 3), np.uint8), borderValue=255), (3, 3), 0)
    rgba = np.dstack([photo[y0:y1, x0:x1], alpha])
    scale = MAX_SPRITE / max(rgba.shape[:2])
    if scale < 1:
        rgba = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(rgba)


def load_photo_pool(root: str | os.PathLike[str], cache_folder: str | os.PathLike[str] | None = None) -> PhotoPool:
    """Decode every photo under ``root`` (layout above; any of its folders may be missing).

    ``cache_folder`` keeps the decoded pixels (about 1.3 GB for 6,000 photos of 320 pixels) in one file that all
    processes map; it is written once (a minute or two, most of it for guessing masks) and found again while the files
    under ``root`` stay the same.

    Raises:
        UserError: no photo below ``root``, a damaged annotation, or a photo that cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no folder {root}: give the folder that holds stills/ and objects/")
    if cache_folder is None:
        return _build(root)
    path = Path(cache_folder) / f"photo_pool_{_digest(root)}.bin"
    if not (path.exists() and path.with_suffix(".npz").exists()):
        _write_cache(_build(root), path)
    return open_cache(path)


def open_cache(path: Path) -> PhotoPool:
    """Map a cache file written by :func:`load_photo_pool`; UserError if it is missing or damaged."""
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as index:
            content = {key: index[key] for key in index.files}
        pixels = np.memmap(path, np.uint8, mode="r")
        shapes, offsets = content.pop("shapes"), content.pop("offsets")
        if len(pixels) != offsets[-1]:
            raise ValueError(f"{len(pixels)} bytes instead of {offsets[-1]}")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"the photo cache {path} cannot be used ({error}): delete it, it will be made again") from error
    base = pixels.view(np.ndarray)  # plain views: slicing a memmap object costs more than the warp that follows
    images = [base[offsets[i] : offsets[i + 1]].reshape(shapes[i]) for i in range(len(shapes))]
    lengths, indices, boxes = (content.pop(key) for key in ("clip_lengths", "clip_indices", "clip_boxes"))
    ends = np.cumsum(lengths)[:-1]
    clips = tuple(np.split(indices, ends)) if len(lengths) else ()
    clip_boxes = tuple(np.split(boxes, ends)) if len(lengths) else ()
    return PhotoPool(images, clips=clips, clip_boxes=clip_boxes, cache=path, **content)


def _write_cache(pool: PhotoPool, path: Path) -> None:
    shapes = np.array([image.shape for image in pool.images], np.int64)
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(1))])
    with atomic_write(path) as stream:
        for image in pool.images:
            stream.write(np.ascontiguousarray(image).data)
    with atomic_write(path.with_suffix(".npz")) as stream:
        np.savez(
            stream,
            shapes=shapes,
            offsets=offsets,
            **{name: getattr(pool, name) for name in ("photos", "boxed", "boxes", "cutouts", "groups", "origins")},
            clip_lengths=np.array([len(clip) for clip in pool.clips], np.int64),
            clip_indices=np.concatenate([np.zeros(0, np.int64), *pool.clips]),
            clip_boxes=np.concatenate([np.zeros((0, 4)), *pool.clip_boxes]),
        )


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS) if folder.is_dir() else []


def _digest(root: Path) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION}".encode())
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _build(root: Path) -> PhotoPool:
    photos = [read_image(path) for path in _image_files(root / "stills")]
    objects: list[tuple[int, np.ndarray, np.ndarray | None, str]] = []
    for photo, entries in _annotated(root / "objects"):
        objects += [(len(photos), box, mask, name) for box, mask, name in entries]
        photos.append(photo)
    clips: list[tuple[list[int], np.ndarray]] = []
    for folder in sorted(path.parent for path in root.glob("*/*/groundtruth.txt")):
        files, boxes = _image_files(folder), read_boxes_file(folder / "groundtruth.txt")
        if len(files) != len(boxes):
            raise UserError(f"{folder}: {len(files)} images but {len(boxes)} lines in groundtruth.txt")
        usable = [i for i in range(len(files)) if np.isfinite(boxes[i]).all() and (boxes[i, 2:] > 2).all()]
        if len(usable) >= 2:
            clips.append((list(range(len(photos), len(photos) + len(usable))), boxes[usable]))
            photos += [read_image(files[i]) for i in usable]
    if not photos:
        raise UserError(f"no photo found under {root}: expected {root / 'stills'}/*.jpg or {root / 'objects'}/images")
    return pool_from_arrays(photos, objects, clips, segment=True)


def _annotated(folder: Path) -> Iterator[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray | None, str]]]]:
    """Yield every photo of a COCO-layout folder with its (box, mask or None, class) entries."""
    path = folder / "annotations.json"
    if not path.exists():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        entries = [(e["file_name"], e.get("source", "object"), by_image.get(e["id"], [])) for e in content["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {error!r}") from error
    for name, source, marked in entries:
        photo, solid = read_image(folder / "images" / name), [a for a in marked if not a.get("iscrowd")]
        masks = [_read_mask(folder, a.get("mask_file"), photo) for a in solid]
        yield photo, [(np.array(a["bbox"], np.float64), mask, source) for a, mask in zip(solid, masks, strict=True)]


def _read_mask(folder: Path, name: str | None, photo: np.ndarray) -> np.ndarray | None:
    if not name:
        return None
    mask = read_image(folder / "masks" / name)[..., 0]
    if mask.shape != photo.shape[:2]:
        raise UserError(f"{folder / 'masks' / name} is {mask.shape[::-1]}, its photo {photo.shape[1::-1]}")
    return mask > 127
