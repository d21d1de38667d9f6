"""The verifier: cutting looks, the form prepared for inference, and how it is stored."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vil_tracker.errors import UserError
from vil_tracker.models.verifier import (
    EMBEDDING,
    PATCH_MARGIN,
    PATCH_SIZE,
    SCAN_STEP,
    FastVerifier,
    VerifierNet,
    crop_patch,
)


def network(seed: int = 0) -> VerifierNet:
    """Random weights and running statistics, in evaluation mode."""
    torch.manual_seed(seed)
    made = VerifierNet()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
    return made.eval()


def test_a_look_is_the_box_with_its_margin_stretched_to_a_square() -> None:
    """A box of 60 × 20 with a grey bar in its right half: where the bar stands in the look follows by hand."""
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[50:70, 100:130] = 200  # the right half of the box x 70..130, y 50..70
    look = crop_patch(picture, np.array([70.0, 50.0, 130.0, 70.0]))
    assert look.shape == (PATCH_SIZE, PATCH_SIZE, 3) and look.dtype == np.uint8
    inside = PATCH_SIZE / PATCH_MARGIN / 2  # half of the box, in pixels of the look
    columns, rows = np.flatnonzero(look[PATCH_SIZE // 2, :, 0] > 100), np.flatnonzero(look[:, 30, 0] > 100)
    assert columns[0] == pytest.approx(PATCH_SIZE / 2, abs=1.5)
    assert columns[-1] == pytest.approx(PATCH_SIZE / 2 + inside, abs=1.5)
    assert rows[0] == pytest.approx(PATCH_SIZE / 2 - inside, abs=1.5)
    assert rows[-1] == pytest.approx(PATCH_SIZE / 2 + inside, abs=1.5)


def test_beyond_the_picture_its_edge_is_repeated() -> None:
    picture = np.zeros((50, 50, 3), np.uint8)
    picture[:, 0] = 255
    look = crop_patch(picture, np.array([-30.0, 10.0, 30.0, 40.0]))
    assert (look[:, :20] == 255).all() and (look[:, 30:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 60),
    st.integers(2, 60),
    st.tuples(*[st.floats(-500, 500)] * 2),
    st.tuples(*[st.floats(0, 900)] * 2),
)
def test_any_box_gives_a_look(width: int, height: int, low: tuple[float, float], sides: tuple[float, float]) -> None:
    box = np.array([*low, low[0] + sides[0], low[1] + sides[1]])
    assert crop_patch(np.zeros((height, width, 3), np.uint8), box).shape == (PATCH_SIZE, PATCH_SIZE, 3)


def test_the_prepared_form_is_the_same_function() -> None:
    """Against the network in float64, batch norms and all."""
    made = network()
    fast, exact = FastVerifier(made), VerifierNet().double().eval()
    exact.load_state_dict(made.state_dict())
    looks = np.random.default_rng(0).integers(0, 256, (4, PATCH_SIZE, PATCH_SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        embeddings = exact.embed(torch.from_numpy(looks))
        answers = exact.compare(embeddings[:1].expand(4, -1), embeddings).numpy()
    found = [fast.embed(look) for look in looks]
    assert found[0].shape == (EMBEDDING,)
    np.testing.assert_allclose(found, embeddings.numpy(), atol=1e-5)
    np.testing.assert_allclose([fast.compare(found[0], other) for other in found], answers, atol=1e-5)


def test_preparing_leaves_the_network_alone() -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    FastVerifier(made)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_text_round_trip_and_damage() -> None:
    made = network(1)
    again = VerifierNet.from_text(made.to_text())
    for name, value in made.state_dict().items():
        assert torch.equal(
            again.state_dict()[name], value.half().to(value.dtype) if value.is_floating_point() else value
        )
    assert not again.training
    text = made.to_text()
    for damaged in ("", "no base64!", text[: len(text) // 2 // 4 * 4], base64.b64encode(b"other").decode()):
        with pytest.raises(UserError, match="verifier cannot be read"):
            VerifierNet.from_text(damaged)


def test_a_scan_is_one_convolution_over_the_whole_picture() -> None:
    """Against PyTorch in float64: a patch is 48 px here, so the boxes of a scan are 16 px apart."""
    made = network()
    picture = np.random.default_rng(3).integers(0, 256, (96, 160, 3), np.uint8)
    centres, embeddings = FastVerifier(made).scan(picture, np.full(2, PATCH_SIZE / PATCH_MARGIN))
    assert len(centres) == 6 * 10
    np.testing.assert_allclose(centres[[0, 1, 10, -1]], [(8, 8), (24, 8), (8, 24), (152, 88)])
    padded = torch.from_numpy(np.pad(picture, ((16, 16), (16, 16), (0, 0)), mode="edge"))
    reference = made.double()
    with torch.no_grad():
        maps = reference.stages(padded.movedim(-1, 0)[None].double().sub(127.5).div(64))[0]
        for index in (0, 23, 59):
            row, column = divmod(index, 10)
            wanted = reference.embedding(maps[:, row : row + 3, column : column + 3].flatten())
            np.testing.assert_allclose(embeddings[index], wanted, rtol=1e-4, atol=1e-4)


def test_a_target_is_found_by_its_embedding_in_place() -> None:
    """Cut out with what surrounds it, the box that a scan sees in the middle has the same embedding."""
    picture = np.random.default_rng(4).integers(0, 256, (144, 144, 3), np.uint8)
    verifier, side = FastVerifier(network()), PATCH_SIZE / PATCH_MARGIN
    _, embeddings = verifier.scan(picture, np.full(2, side))
    box = np.array([72 - side / 2, 72 - side / 2, 72 + side / 2, 72 + side / 2])
    assert len(embeddings) == 81
    np.testing.assert_allclose(verifier.embed_in_place(picture, box), embeddings[40], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(1, 400), st.floats(1, 400))
def test_a_scan_covers_any_picture(width: int, height: int, box_width: float, box_height: float) -> None:
    box_size = np.array([max(box_width, width / 20), max(box_height, height / 20)])
    centres, embeddings = FastVerifier(VerifierNet().eval()).scan(np.zeros((height, width, 3), np.uint8), box_size)
    assert len(centres) == len(embeddings) and np.isfinite(embeddings).all()
    assert centres.min() > 0 and np.all(centres < (width, height))
    for axis in (0, 1):
        places = np.unique(centres[:, axis])
        assert places[0] <= 0.75 * SCAN_STEP * box_size[axis] or len(places) == 1
        assert len(places) == 1 or np.diff(places).max() <= 1.5 * SCAN_STEP * box_size[axis]
