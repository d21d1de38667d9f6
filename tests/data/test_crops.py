from __future__ import annotations

import numpy as np
import pytest
import torch

from vil_tracker.data.crops import IMAGENET_MEAN, IMAGENET_STD, CropGeometry, crop, mean_colour, to_input

WIDTH, HEIGHT = 640, 360


def slopes() -> np.ndarray:
    """An image whose red channel rises evenly to the right, whose green one rises downwards; float32, unrounded."""
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5) / WIDTH, (np.arange(HEIGHT) + 0.5) / HEIGHT)
    return np.dstack([WIDTH * x, HEIGHT * y, np.zeros_like(x)]).astype(np.float32)


@pytest.mark.parametrize("side", [40.0, 120.3, 255.5, 300.25, 345.0])
@pytest.mark.parametrize("centre", [(320.0, 180.0), (300.4, 176.7)])
def test_pixels_lie_where_the_geometry_says(side: float, centre: tuple[float, float]) -> None:
    """Enlarged, reduced, and averaged over two and three pixels first."""
    size = 112
    found = crop(slopes(), CropGeometry(*centre, side, size)).astype(np.float64)
    for channel, middle in enumerate(centre):
        places = middle + side * ((np.arange(size) + 0.5) / size - 0.5)
        np.testing.assert_allclose(found[:, :, channel].mean(axis=channel), places, atol=1 / 32)  # OpenCV's steps


@pytest.mark.parametrize("side", [50.0, 200.0, 340.0])
def test_what_lies_outside_has_the_mean_colour_and_nothing_inside_has(side: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    fill, size = mean_colour(image), 100
    for cx, cy in [(side / 2 + d, HEIGHT / 2) for d in np.linspace(-20, 20, 41)] + [(WIDTH / 2, HEIGHT - side / 4)]:
        geometry = CropGeometry(cx, cy, side, size)
        np.testing.assert_array_equal(crop(image, geometry), crop(image, geometry, fill))
    corner = crop(image, CropGeometry(0.0, 0.0, side, size))[: size // 3, : size // 3]
    np.testing.assert_allclose(corner.reshape(-1, 3), np.tile(fill, (len(corner) ** 2, 1)), atol=1)


def test_detail_is_averaged_not_skipped() -> None:
    stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stripes[:, ::2] = 200
    for side in (224.0, 301.0, 350.0):
        found = crop(stripes, CropGeometry(320.0, 180.0, side, 100)).astype(np.float64)
        assert abs(found.mean() - 100) < 2 and found.std() < 30


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 16, 16, 3), (1, 2, 4, 4, 3)])
def test_input_is_normalised_per_channel(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = to_input(pixels, dtype=torch.float64)
    expected = (pixels / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(found.numpy(), np.moveaxis(expected, -1, -3), atol=1e-12)
    assert torch.equal(to_input(torch.from_numpy(pixels), dtype=torch.float64), found)
