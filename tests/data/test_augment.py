"""Photometric augmentation on uint8 against plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vil_tracker.data.augment import Photometry, add_noise, degrade, jpeg, light_gradient, motion_kernel


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def test_neutral_look_changes_nothing(image):
    np.testing.assert_array_equal(Photometry().apply(image), image)


def test_look_up_equals_the_formula(image):
    look = Photometry(brightness=0.2, contrast=-0.3, gamma=0.1, temperature=0.2, tint=-0.05)
    curve = ((image / 255.0) ** math.exp(0.1) - 0.5) * math.exp(-0.3) + 0.5
    expected = curve * np.exp([0.1, -0.05, -0.1]) * math.exp(0.2) * 255
    difference = look.apply(image).astype(float) - np.clip(expected, 0, 255)
    assert np.abs(difference).max() <= 0.51


def test_hue_turns_colours_and_keeps_luma_and_greys():
    grey = np.full((4, 4, 3), 120, np.uint8)
    np.testing.assert_allclose(Photometry(hue=0.5, saturation=0.3).apply(grey), grey, atol=1)
    colour = np.full((4, 4, 3), (140, 110, 90), np.uint8)
    turned = Photometry(hue=0.5).apply(colour)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(turned.astype(int) - colour).max() > 10
    assert abs(float(turned[0, 0] @ luma) - float(colour[0, 0] @ luma)) < 1.5


def test_grey_has_equal_channels(image):
    grey = Photometry(brightness=0.1).grey().apply(image)
    assert (grey == grey[..., :1]).all()


def test_changed_look_scales_with_strength():
    base = Photometry(hue=0.3)
    assert base.changed(np.random.default_rng(1), 0.0) == base
    assert base.changed(np.random.default_rng(1), 1.0) != base


def test_noise_has_the_requested_deviation():
    flat = np.full((700, 200, 3), 128, np.uint8)  # higher than the stored noise: it is repeated
    noisy = add_noise(flat, np.random.default_rng(0), 8.0)
    assert noisy.shape == flat.shape
    assert noisy.std() == pytest.approx(8.0, rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


@pytest.mark.parametrize("length", [1.5, 4.0, 11.0])
@pytest.mark.parametrize("angle", [0.0, 0.7, 1.57])
def test_motion_kernel_is_a_centred_line(length, angle):
    kernel = motion_kernel(length, angle)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    c = (kernel.shape[0] - 1) / 2
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[0]] - c
    assert abs((kernel * x).sum()) < 0.25 and abs((kernel * y).sum()) < 0.25
    across = -x * math.sin(angle) + y * math.cos(angle)
    assert np.abs(across[kernel > 0.3 * kernel.max()]).max() < 1.0


def test_jpeg_loses_more_at_low_quality(image):
    loss = [np.abs(jpeg(image, quality).astype(int) - image).mean() for quality in (95, 25)]
    assert loss[0] < loss[1]


def test_jpeg_keeps_the_channel_order():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    assert jpeg(red, 90)[16, 16, 0] > 180 and jpeg(red, 90)[16, 16, 2] < 30


def test_light_gradient_is_smooth():
    flat = np.full((60, 80, 3), 100, np.uint8)
    lit = light_gradient(flat, np.random.default_rng(3), 0.2).astype(int)
    assert lit.std() > 1
    assert max(np.abs(np.diff(lit, axis=0)).max(), np.abs(np.diff(lit, axis=1)).max()) <= 6


def test_degrade_depends_on_the_generator_alone(image):
    for seed in range(30):
        first, second = (degrade(image, np.random.default_rng(seed), 1.0) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == image.shape and first.dtype == np.uint8


def test_degrade_without_difficulty_is_the_identity(image):
    np.testing.assert_array_equal(degrade(image, np.random.default_rng(0), 0.0), image)
