"""The pool that tests of synthetic material share."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_pools import disc, texture

from vil_tracker.data.synthetic.photo_pool import PhotoPool, pool_from_arrays


@pytest.fixture(scope="session")
def pool() -> PhotoPool:
    photos = [texture(seed) for seed in range(8)]
    objects = [
        (0, np.array([50.0, 30.0, 60.0, 60.0]), disc(), "animal"),
        (1, np.array([50.0, 30.0, 60.0, 60.0]), disc(), "animal"),
        (2, np.array([40.0, 40.0, 30.0, 20.0]), None, "animal"),
    ]
    clips = [([6, 7], np.array([[20.0, 20.0, 40.0, 30.0], [60.0, 40.0, 30.0, 30.0]]))]
    return pool_from_arrays(photos, objects, clips)
