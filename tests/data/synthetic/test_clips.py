"""Synthetic clips: boxes that follow, absence flags, and dependence on the generator alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from synthetic_pools import square_pool

from vil_tracker.data.synthetic.clips import ClipConfig, SyntheticClips
from vil_tracker.data.synthetic.motion import turned_sideways
from vil_tracker.errors import UserError
from vil_tracker.training.calibrate import training_clips


def test_clips_depend_on_the_generator_alone(pool):
    clips = SyntheticClips(pool)
    first, second = (clips.sample_clip(np.random.default_rng(4), 12) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)
    for a, b in zip(first.frames, second.frames, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("changes", [{}, {"limbs": 1.0, "turns": 1.0}])
def test_clip_boxes_follow_a_bright_square(changes):
    config = ClipConfig(sizes=((160, 120),), occlusion=0, leave=0, jump=0, distractors=0, size=(0.25, 0.3), **changes)
    pool = square_pool()
    clips = SyntheticClips(pool, config)
    clips.material.target = lambda rng, mode: (pool.sprite(0), 0)  # type: ignore[method-assign]
    compared = 0
    for seed in range(6):
        clip = clips.sample_clip(np.random.default_rng(seed), 20, difficulty=0.3)
        for frame, (x, y, w, h) in zip(clip.frames, clip.boxes, strict=True):
            if min(x, y) < 1 or x + w > 159 or y + h > 119 or frame.max() < 200:
                continue
            bright = frame.max() / 2.0 + frame.min() / 2.0
            rows, columns = np.nonzero(frame.mean(2) > bright)
            found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            np.testing.assert_allclose([x, y, x + w, y + h], found, atol=1.6)
            compared += 1
    assert compared > 50


def test_twins_look_like_the_target_and_stay_beside_it():
    quiet = ClipConfig(sizes=((320, 240),), occlusion=0, leave=0, jump=0, distractors=0, size=(0.12, 0.15))
    pool = square_pool()
    alike = []
    for config in (quiet, replace(quiet, twins=1.0)):
        clips = SyntheticClips(pool, config)
        clips.material.target = lambda rng, mode: (pool.sprite(0), 0)  # type: ignore[method-assign]
        bright = [clips.sample_clip(np.random.default_rng(seed), 1).frames[0].mean(2) > 150 for seed in range(12)]
        alike.append([cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in bright])
    assert max(alike[0]) == 1
    assert np.mean(np.array(alike[1]) > 1) > 0.5 and max(alike[1]) <= 4


def test_a_thing_seen_from_its_other_side_was_seen_from_its_end_before():
    for seed in range(20):
        width, other_side = turned_sideways(np.random.default_rng(seed), 400)
        assert 0.3 <= width.min() and width.max() <= 1
        changes = np.flatnonzero(np.diff(other_side))
        assert len(changes) and (width[changes] < 0.75).all()


@pytest.mark.parametrize("event", ["occlusion", "leave"])
def test_absence_flags_mark_the_hidden_frames(pool, event):
    config = ClipConfig(
        sizes=((160, 120),),
        size=(0.1, 0.2),
        distractors=0,
        hidden_frames=(20, 25),
        **{"occlusion": 0, "leave": 0, "jump": 0, event: 1},
    )
    for seed in range(6):
        clip = SyntheticClips(pool, config).sample_clip(np.random.default_rng(seed), 90)
        assert clip.attributes == (event,)
        assert 20 <= clip.absent.sum() <= 60
        assert clip.cover[0] > 0.8 and not clip.absent[0]
        np.testing.assert_array_equal(clip.absent, clip.cover < 0.03)
        np.testing.assert_array_equal(clip.absent, np.isnan(clip.boxes).any(1))
        assert not (clip.visible & clip.absent).any()
        hidden = np.flatnonzero(clip.absent)
        assert (~clip.absent[hidden[-1] + 1 :]).any() or hidden[-1] >= 80  # it comes back


def test_a_jump_moves_the_target_at_once_and_smooth_clips_do_not(pool):
    quiet = dict(sizes=((320, 240),), occlusion=0.0, leave=0.0, distractors=0, size=(0.1, 0.15))
    steps = {}
    for jump in (0.0, 1.0):
        clips = SyntheticClips(pool, ClipConfig(jump=jump, **quiet))
        largest = []
        for seed in range(5):
            clip = clips.sample_clip(np.random.default_rng(seed), 80)
            centres = clip.boxes[:, :2] + clip.boxes[:, 2:] / 2
            largest.append(np.nanmax(np.hypot(*np.diff(centres, axis=0).T)))
        steps[jump] = largest
    assert max(steps[0.0]) < 30 < np.median(steps[1.0])


def test_short_clips_are_whole(pool):
    for n in (1, 2, 5):
        clip = SyntheticClips(pool, ClipConfig(occlusion=1, leave=1, jump=1)).sample_clip(np.random.default_rng(n), n)
        assert len(clip) == len(clip.frames) == n
    with pytest.raises(UserError, match="at least 1"):
        SyntheticClips(pool).sample_clip(np.random.default_rng(0), 0)


def test_clips_for_calibration_have_short_and_then_long_absences() -> None:
    """A score fitted on short ones alone stays high on what hides a target for long."""
    absences = [int(clip.absent.sum()) for clip in training_clips(square_pool(), 10, 34, seed=0)]
    short, long = absences[:5], absences[5:]
    assert 0 < max(short) <= 34 // 2 and max(long) >= 40
