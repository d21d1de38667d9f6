"""Large matrices of a weights file as int8, which takes half the space of float16.

Each row is divided by its greatest magnitude / 127 and rounded ("symmetric per-channel quantisation" in Nagel et al.,
"A white paper on neural network quantization", 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vil_tracker.errors import UserError

ROW_SCALE = ".row_scale"  # behind the name of a matrix stored as int8: its rows' scales, (rows,) float32
SMALLEST = 2**15  # numbers in a matrix that is stored as int8; in smaller ones there is little to gain


def to_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors, float16, with the large matrices as int8 and the scales of their rows beside them."""
    stored = dict(tensors)
    for name, value in tensors.items():
        if value.dim() == 2 and value.numel() >= SMALLEST:
            scale = (value.float().abs().amax(1) / 127).clamp(min=1e-12)  # of rows that are all 0
            stored[name] = (value.float() / scale[:, None]).round().to(torch.int8)
            stored[name + ROW_SCALE] = scale
    return stored


def from_int8(path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`to_int8`, for the tensors of the file ``path``, in float32 where they were int8; UserError
    where scales are missing.
    """
    tensors = dict(stored)
    for name, value in stored.items():
        if value.dtype == torch.int8:
            scale = tensors.pop(name + ROW_SCALE, None)
            if scale is None or value.dim() != 2 or scale.shape != value.shape[:1]:
                raise UserError(f"{path} does not say what the int8 values of {name} stand for: save it again")
            tensors[name] = value.float() * scale[:, None]
    return tensors
