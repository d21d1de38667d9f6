"""Pairs and clips: reproducible from (seed, epoch, index), cut where they say, of frames that may serve."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vil_tracker.config import Config, DataConfig, ModelConfig, SourceConfig
from vil_tracker.data.clips import ClipCutter, VideoClips, draw_offsets, window
from vil_tracker.data.dataset import SequenceDataset, open_folder
from vil_tracker.data.pairs import PairCutter, SampleAugmentation, VideoPairs, sample_crop
from vil_tracker.data.sampling import ClipBatch, Fault, Loaded, Mixture, PairBatch, Samples, build_loader, step_batches
from vil_tracker.data.sources import build_source
from vil_tracker.data.synthetic.painted import painted_photo
from vil_tracker.data.synthetic.photo_pool import pool_from_arrays
from vil_tracker.data.synthetic.samples import SyntheticVideoClips, SyntheticVideoPairs
from vil_tracker.errors import UserError
from vil_tracker.images import write_image

MODEL = ModelConfig(name="test", dim=32, depth=2, template_size=32, search_size=64, head_channels=16)
WIDTH, HEIGHT, SIDE = 120, 90, 20
RED = (235, 30, 30)
PLAIN = DataConfig(
    grey=0, flip=0, brightness=0, motion_blur=0, negatives=0, rotation=0, aspect_jitter=0, curriculum=0, clip_length=3
)


def box_at(k: int) -> tuple[int, int, int, int]:
    """A target that moves by 3 pixels a frame."""
    return 20 + 3 * k, 30 + k, SIDE, SIDE


@pytest.fixture
def videos(tmp_path: Path) -> SequenceDataset:
    """Two videos of 20 frames with a red square; its box is missing in frames 8 to 11 of the first."""
    for name in ("one", "two"):
        lines = []
        for k in range(20):
            frame = np.full((HEIGHT, WIDTH, 3), 40 + 2 * k, np.uint8)
            x, y, w, h = box_at(k)
            hidden = name == "one" and 8 <= k < 12
            if not hidden:
                frame[y : y + h, x : x + w] = RED
            lines.append("0,0,0,0" if hidden else f"{x},{y},{w},{h}")
            write_image(tmp_path / "data" / name / "img" / f"{k + 1:04d}.png", frame)
        (tmp_path / "data" / name / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    return open_folder(tmp_path / "data", cache_dir=tmp_path / "cache")


def red_extent(crop: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 of the red pixels in units of the crop, half-covered pixels counted by their share."""
    share = np.clip((crop[..., 0].astype(float) - crop[..., 1] - 20) / 180, 0, 1)
    columns, rows = share.max(0), share.max(1)
    n = len(crop)
    ends = []
    for line in (columns, rows):
        inside = np.flatnonzero(line > 0.5)
        ends.append((inside[0] / n, (inside[-1] + 1) / n))
    return np.array([ends[0][0], ends[1][0], ends[0][1], ends[1][1]])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("side", [50.0, 90.0, 300.0])  # enlarged, about as it is, shrunk
def test_one_warp_puts_the_box_where_it_says(flip: bool, side: float) -> None:
    image = np.full((400, 500, 3), 60, np.uint8)
    box = np.array([201.0, 150.0, 40.0, 24.0])
    image[150:174, 201:241] = RED
    crop, found = sample_crop(image, box, (225.5, 160.25), side, 128, flip=flip)
    np.testing.assert_allclose(red_extent(crop), found, atol=1.2 / 128)
    plain, there = sample_crop(image, box, (225.5, 160.25), side, 128)
    if flip:
        np.testing.assert_allclose(found[[0, 2]], 1 - there[[2, 0]], atol=1e-9)
        assert np.abs(crop[:, ::-1].astype(int) - plain).mean() < 3


def test_a_turned_box_is_that_of_the_ellipse_inside_it() -> None:
    image = np.full((200, 200, 3), 60, np.uint8)
    cv2.ellipse(image, ((100, 100), (60, 24), 0), RED, -1, cv2.LINE_AA)
    crop, found = sample_crop(image, np.array([70.5, 88.5, 60.0, 24.0]), (100, 100), 120, 240, angle=math.radians(30))
    np.testing.assert_allclose(red_extent(crop), found, atol=0.02)


def test_outside_the_picture_is_its_mean_colour() -> None:
    image = np.full((50, 50, 3), (10, 20, 30), np.uint8)
    crop, _ = sample_crop(image, np.array([0.0, 0.0, 10.0, 10.0]), (0, 0), 60, 32, angle=0.4, flip=True)
    assert (np.abs(crop.astype(int) - (10, 20, 30)) <= 1).all()


def test_pairs_hold_visible_targets_within_the_gap(videos: SequenceDataset) -> None:
    data = replace(PLAIN, max_gap=4)
    source = VideoPairs(videos, PairCutter(MODEL, data))
    for i in range(60):
        pair = source.sample(np.random.default_rng(i), 1.0)
        assert pair.present and pair.template.shape == (32, 32, 3) and pair.search.shape == (64, 64, 3)
        np.testing.assert_allclose(red_extent(pair.template), pair.template_box, atol=1.6 / 32)
        centre = (pair.search_box[:2] + pair.search_box[2:]) / 2
        assert ((centre > 0) & (centre < 1)).all()
        if ((pair.search_box > 0.02) & (pair.search_box < 0.98)).all():
            np.testing.assert_allclose(red_extent(pair.search), pair.search_box, atol=1.6 / 64)
        # The background's grey tells the frame number.
        first, second = ((int(np.median(c[..., 1][c[..., 0] < 120])) - 40) / 2 for c in (pair.template, pair.search))
        assert abs(first - second) <= 4.6


def test_jitter_and_gap_widen_with_difficulty(videos: SequenceDataset) -> None:
    source = VideoPairs(videos, PairCutter(MODEL, replace(PLAIN, scale_jitter=0)))
    shifts = {}
    for difficulty in (0.25, 1.0):
        boxes = np.array([source.sample(np.random.default_rng(i), difficulty).search_box for i in range(80)])
        shifts[difficulty] = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5).max()
    assert shifts[0.25] < 0.11 and 0.3 < shifts[1.0] < 0.39  # ±1.5 of 4 √(w·h)


def test_every_option_of_the_look_has_its_effect(videos: SequenceDataset) -> None:
    def pair(**changes: float):
        return VideoPairs(videos, PairCutter(MODEL, replace(PLAIN, **changes))).sample(np.random.default_rng(5), 1.0)

    plain = pair()
    assert np.ptp(pair(grey=1.0).search.astype(int), axis=-1).max() == 0
    assert not np.array_equal(pair(flip=1.0).search, plain.search)
    assert not np.array_equal(pair(brightness=0.5).template, plain.template)
    assert not np.array_equal(pair(rotation=20.0).search, plain.search)
    stretched, was = (np.ptp(p.search_box.reshape(2, 2), axis=0) for p in (pair(aspect_jitter=0.4), plain))
    assert abs(math.log(stretched[0] / stretched[1])) > 0.05 and stretched.prod() == pytest.approx(was.prod(), rel=0.01)
    blurred = pair(motion_blur=1.0)
    assert not np.array_equal(blurred.search, plain.search) and np.array_equal(blurred.template, plain.template)
    absent = [
        VideoPairs(videos, PairCutter(MODEL, replace(PLAIN, negatives=1.0))).sample(np.random.default_rng(i), 1.0)
        for i in range(8)
    ]
    assert any(not p.present and not p.search_box.any() for p in absent)  # half of the draws hit the same video


def test_clips_are_causal_and_know_when_the_target_is_away(videos: SequenceDataset) -> None:
    data = replace(PLAIN, clip_stride=3, max_gap=6, clip_length=4)
    source = VideoClips(videos, ClipCutter(MODEL, data, truth_share=0.5))
    away = 0
    for i in range(40):
        clip = source.sample(np.random.default_rng(i), 1.0)
        assert clip.frames.shape[0] == 4 and clip.use_truth[0] and clip.present[0]
        numbers = [(int(np.median(f[..., 1][f[..., 0] < 120])) - 40) / 2 for f in clip.frames]
        steps = np.diff(numbers)
        assert (steps > 0).all() and (steps <= 3.1).all()
        for frame, box, present in zip(clip.frames, clip.boxes, clip.present, strict=True):
            red = (frame[..., 0] > 200) & (frame[..., 1] < 100)
            assert present == bool(red.any())
            if present:
                ys, xs = np.nonzero(red)
                found = (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
                np.testing.assert_allclose(found, box, atol=1.5)
        away += int((~clip.present).sum())
    assert away > 0


def test_a_clip_keeps_the_part_of_the_frame_that_its_crops_can_reach() -> None:
    boxes = np.array([[1000.0, 500.0, 100.0, 100.0], [1050.0, 500.0, 100.0, 100.0]])
    region, scale = window(boxes, 1920, 1080, replace(MODEL, search_size=256))
    assert region.tolist() == [650, 150, 1500, 950]  # 2 search sides around each target
    assert scale == pytest.approx(256 / 400)  # the search crop's 400 pixels become its 256
    assert window(boxes[:1] / 10, 192, 108, replace(MODEL, search_size=256))[1] == 1.0  # never enlarged


def test_offsets_fit_into_the_video() -> None:
    data = replace(PLAIN, clip_stride=5, max_gap=50, clip_length=4)
    rng = np.random.default_rng(0)
    for room in (4, 5, 20, 100):
        for _ in range(50):
            offsets = draw_offsets(rng, data, 1.0, room)
            assert offsets is not None and offsets[0] >= 1 and offsets[-1] <= room and len(offsets) == 4
            assert (np.diff(offsets) == np.diff(offsets)[0]).all() and 1 <= np.diff(offsets)[0] <= 5
    assert draw_offsets(rng, data, 1.0, 3) is None


def test_synthetic_videos_give_clips_and_pairs() -> None:
    pool = pool_from_arrays([painted_photo(np.random.default_rng(i)) for i in range(4)])
    data = replace(PLAIN, clip_length=2, max_gap=10)
    clip = SyntheticVideoClips(pool, ClipCutter(MODEL, data, 0.5)).sample(np.random.default_rng(0), 1.0)
    assert clip.frames.shape[0] == 2 and clip.present[0] and np.isfinite(clip.boxes).all()
    source = SyntheticVideoPairs(pool, PairCutter(MODEL, replace(data, negatives=0.5)))
    pairs = [source.sample(np.random.default_rng(i), 1.0) for i in range(8)]
    assert {pair.present for pair in pairs} == {True, False}


def test_negative_frames_of_clips_look_beside_the_target(videos: SequenceDataset) -> None:
    source = VideoClips(videos, ClipCutter(MODEL, replace(PLAIN, negatives=1.0), truth_share=1.0))
    clip = source.sample(np.random.default_rng(1), 1.0)
    centre = clip.boxes[:, :2] + clip.boxes[:, 2:] / 2
    beside = clip.anchors[:, :2] + clip.anchors[:, 2:] / 2
    assert (np.abs(centre - beside).max(1) > 0.5 * MODEL.search_factor * clip.anchors[:, 2]).all()


def test_a_damaged_frame_is_skipped_and_too_many_stop(videos: SequenceDataset) -> None:
    (videos.folder / "two" / "img" / "0007.png").write_bytes(b"broken")
    source = VideoPairs(videos, PairCutter(MODEL, replace(PLAIN, max_damaged=0.5)))
    for i in range(60):
        source.sample(np.random.default_rng(i), 1.0)
    assert list(source.skipped.reasons) and all("two" in name for name in source.skipped.reasons)
    for path in (videos.folder / "two" / "img").glob("*.png"):
        path.write_bytes(b"")
    strict = VideoPairs(videos, PairCutter(MODEL, replace(PLAIN, max_damaged=0.01)))
    with pytest.raises(UserError, match="over the limit of 1.0%"):
        for i in range(200):
            strict.sample(np.random.default_rng(i), 1.0)


def test_stills_serve_as_pairs_and_as_clips(tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[30:50, 40:60] = RED
    write_image(tmp_path / "photos" / "images" / "a.png", image)
    (tmp_path / "photos" / "annotations.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 90}], "annotations": '
        '[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 30, 20, 20], "area": 400, "iscrowd": 0}], '
        '"categories": [{"id": 1, "name": "square"}]}'
    )
    stills = open_folder(tmp_path / "photos", cache_dir=tmp_path / "cache")
    assert stills.stills
    pair = VideoPairs(stills, PairCutter(MODEL, PLAIN)).sample(np.random.default_rng(0), 1.0)
    np.testing.assert_allclose(red_extent(pair.template), pair.template_box, atol=1.6 / 32)
    clip = VideoClips(stills, ClipCutter(MODEL, PLAIN, 1.0)).sample(np.random.default_rng(0), 1.0)
    assert (clip.boxes == clip.boxes[0]).all() and len({tuple(a) for a in clip.anchors.tolist()}) == 3


def test_samples_depend_on_seed_epoch_and_index_alone(videos: SequenceDataset) -> None:
    data = replace(PLAIN, epoch_samples=10)
    source = Mixture((VideoPairs(videos, PairCutter(MODEL, data)),), (1.0,))
    samples = Samples(source, data, seed=3, total=40)
    again = Samples(source, data, seed=3, total=40)
    order = [17, 4, 31, 4]
    first = {i: samples[i] for i in order}
    for i in reversed(order):
        assert np.array_equal(first[i].search, again[i].search)
    assert not np.array_equal(samples[4].search, samples[14].search)  # the next epoch
    assert not np.array_equal(samples[4].search, Samples(source, data, seed=4, total=40)[4].search)


def test_workers_change_neither_the_batches_nor_their_order(videos: SequenceDataset) -> None:
    source = Mixture((VideoClips(videos, ClipCutter(MODEL, PLAIN, 0.5)),), (1.0,))
    batches = []
    for workers in (0, 2):
        samples = Samples(source, PLAIN, 0, 12, workers)
        loader = build_loader(samples, step_batches(range(3), 4, 2, 0, 1), workers, False)
        batches.append(list(loader))
    assert [b.indices for b in batches[0]] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    for a, b in zip(*batches, strict=True):
        assert isinstance(a, Loaded) and isinstance(a.batch, ClipBatch) and a.indices == b.indices
        assert all((x == y).all() for x, y in zip(a.batch.frames, b.batch.frames, strict=True))
        assert (a.batch.anchors == b.batch.anchors).all() and b.skipped.read > 0


def test_ranks_and_passes_share_the_same_global_batch() -> None:
    whole = list(step_batches(range(2, 4), 8, 1, 0, 1))
    assert whole == [list(range(16, 24)), list(range(24, 32))]
    for world, accumulate in ((2, 1), (2, 2), (4, 2)):
        parts = [list(step_batches(range(2, 4), 8, accumulate, rank, world)) for rank in range(world)]
        for step in range(2):
            used = [i for p in parts for one in p[step * accumulate : (step + 1) * accumulate] for i in one]
            assert sorted(used) == whole[step]


def test_the_mixture_follows_its_weights(videos: SequenceDataset) -> None:
    class Constant:
        skipped = None

        def __init__(self, value: int) -> None:
            self.value = value

        def sample(self, rng: np.random.Generator, difficulty: float) -> int:
            return self.value

    mixture = Mixture((Constant(0), Constant(1)), (3.0, 1.0))  # type: ignore[arg-type]
    drawn = [mixture.sample(np.random.default_rng(i), 1.0) for i in range(800)]
    assert 0.2 < np.mean(drawn) < 0.3


def test_the_curriculum_rises_over_its_share_of_the_run() -> None:
    samples = Samples(Mixture((), ()), replace(PLAIN, curriculum=0.5), 0, 1000)
    assert samples.difficulty(0) == 0.25 and samples.difficulty(250) == pytest.approx(0.625)
    assert samples.difficulty(500) == samples.difficulty(999) == 1.0


def test_a_fault_reaches_the_training_process(videos: SequenceDataset) -> None:
    class Faulty:
        skipped = None

        def sample(self, rng: np.random.Generator, difficulty: float):  # type: ignore[no-untyped-def]
            raise UserError("broken")

    samples = Samples(Faulty(), PLAIN, 0, 4)
    (loaded,) = build_loader(samples, step_batches(range(1), 4, 1, 0, 1), 0, False)
    assert loaded.batch is None and loaded.fault == Fault(0, "broken")


def test_sources_by_name(tmp_path: Path, videos: SequenceDataset) -> None:
    for i in range(3):
        write_image(tmp_path / "root" / "stills" / f"{i}.png", painted_photo(np.random.default_rng(i)))

    def build(mode: str, *names: str):
        data = DataConfig(mode=mode, clip_length=2, sources=tuple(map(SourceConfig, names)))  # type: ignore[arg-type]
        return build_source(Config(model=MODEL, data=data), tmp_path / "root", tmp_path / "cache")

    own = f"folder:{videos.folder}"
    for mode, batch in (("pairs", PairBatch), ("clips", ClipBatch)):
        source = build(mode, "synthetic_clips", own)
        samples = Samples(source, PLAIN, 0, 8)
        (loaded,) = build_loader(samples, step_batches(range(1), 8, 1, 0, 1), 0, False)
        assert isinstance(loaded.batch, batch)
    assert build("pairs", "synthetic_pairs").skipped is None
    with pytest.raises(UserError, match="synthetic_pairs makes no clips"):
        build("clips", "synthetic_pairs")
    with pytest.raises(UserError, match="did you mean lasot"):
        build("pairs", "lasott")
    with pytest.raises(UserError, match="data.sources is empty"):
        build("pairs")


def test_the_same_look_for_all_frames_of_a_clip() -> None:
    look = SampleAugmentation(flip=False, grey=False, brightness=0.5)
    stack = np.full((3, 8, 8, 3), 100, np.uint8)
    changed = look.apply(np.random.default_rng(0), stack)
    assert len(np.unique(changed)) == 1 and changed[0, 0, 0, 0] != 100


_ORPHANS = """
import sys, time
from torch.utils.data import DataLoader
from vil_tracker.data.sampling import start_worker
if __name__ == "__main__":
    loader = DataLoader(range(10**5), num_workers=2, worker_init_fn=start_worker, multiprocessing_context=sys.argv[1])
    batches = iter(loader)
    next(batches)
    print(*(worker.pid for worker in batches._workers), flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of processes from /proc")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_killed_training(tmp_path: Path, method: str) -> None:
    script = tmp_path / "training.py"
    script.write_text(_ORPHANS)
    with subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        workers = [int(pid) for pid in training.stdout.readline().split()]
        training.kill()
    assert len(workers) == 2

    deadline = time.monotonic() + 30
    while (waiting := [pid for pid in workers if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    assert not waiting


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
