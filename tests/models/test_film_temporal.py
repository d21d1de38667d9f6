from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vil_tracker.models.film_temporal import (
    FiLMTemporalModulation,
    TemporalContext,
    TemporalModulationManager,
    TemporalReliabilityCalibrator,
    register_context,
    resize_context,
    resize_tokens,
    unregistered_context,
    updated_context,
)

DIM = 16
GRID = (4, 4)


def crops(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def trained_manager(depth: int = 12, interval: int = 6) -> TemporalModulationManager:
    """A manager whose FiLM layers are no longer the identity."""
    torch.manual_seed(0)
    manager = TemporalModulationManager(DIM, depth, interval)
    with torch.no_grad():
        for parameter in manager.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return manager


def features(batch: int = 1, grid: tuple[int, int] = GRID) -> Tensor:
    return torch.randn(batch, grid[0] * grid[1], DIM)


def context_of(tokens: Tensor, grid: tuple[int, int] = GRID, crop: tuple[float, float, float] = (50, 50, 40)):  # type: ignore[no-untyped-def]
    return updated_context(None, tokens, grid, crops(*[crop] * len(tokens)))


def token_positions(grid: tuple[int, int], crop: tuple[float, float, float]) -> Tensor:
    """Image x and y of each token's centre, (1, S, 2)."""
    cx, cy, side = crop
    y, x = torch.meshgrid(
        (torch.arange(grid[0]) + 0.5) / grid[0], (torch.arange(grid[1]) + 0.5) / grid[1], indexing="ij"
    )
    return torch.stack([cx + (x - 0.5) * side, cy + (y - 0.5) * side], dim=-1).view(1, -1, 2)


def test_blocks_that_are_modulated() -> None:
    manager = TemporalModulationManager()
    assert [index for index in range(-3, 30) if manager.should_modulate(index)] == [5, 11, 17, 23]
    assert len(manager.film_layers) == 4
    assert [manager.get_film_layer(index) for index in (5, 11, 17, 23)] == list(manager.film_layers)
    assert manager.get_film_layer(4) is None and manager.get_film_layer(29) is None
    odd = TemporalModulationManager(DIM, num_blocks=10, modulation_interval=4)
    assert [index for index in range(12) if odd.should_modulate(index)] == [3, 7]
    assert len(odd.film_layers) == 2


def test_modulation_is_the_identity_at_initialisation() -> None:
    torch.manual_seed(0)
    film, x, context = FiLMTemporalModulation(DIM), features(2), features(2)
    torch.testing.assert_close(film(x, context), x, rtol=0, atol=0)
    reliability = TemporalReliabilityCalibrator(DIM)(context)
    assert reliability.shape == (2, 16, 1) and (reliability >= 0).all() and (reliability <= 1).all()
    torch.testing.assert_close(film(x, context, reliability), x)


def test_reliability_draws_the_modulation_to_the_identity() -> None:
    film = trained_manager().film_layers[0]
    x, context = features(), features()
    full = film(x, context)
    assert not torch.allclose(full, x)
    torch.testing.assert_close(film(x, context, torch.zeros(1, 16, 1)), x, rtol=0, atol=0)
    torch.testing.assert_close(film(x, context, torch.ones(1, 16, 1)), full)
    torch.testing.assert_close(film(x, context, torch.full((1, 16, 1), 0.25)), x + 0.25 * (full - x))


def test_running_context_is_a_moving_average_that_reset_forgets() -> None:
    manager = trained_manager()
    x, first, second = features(), features(), features()
    assert manager._temporal_context is None
    assert manager.modulate(x, 5) is x
    manager.update_temporal_context(first)
    manager.update_temporal_context(second)
    torch.testing.assert_close(manager._temporal_context, 0.7 * first + 0.3 * second)
    assert manager.modulate(x, 4) is x
    assert not torch.allclose(manager.modulate(x, 5), x)
    manager.reset()
    assert manager._temporal_context is None
    assert manager.modulate(x, 5) is x


# 1. The projection learns, and yet nothing flows from one frame to the next.


def test_every_parameter_learns_on_the_second_frame() -> None:
    manager = trained_manager()
    first = features().requires_grad_()
    manager.update_temporal_context(first)
    x = features().requires_grad_()
    out = manager.modulate(manager.modulate(x, 5), 11)
    out.square().sum().backward()
    for name, parameter in manager.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert first.grad is None
    assert x.grad is not None


def test_explicit_contexts_teach_the_same_parameters_and_hold_no_gradient() -> None:
    manager = trained_manager()
    first = features().requires_grad_()
    context = context_of(first)
    assert not context.features.requires_grad
    condition = manager.condition(context, GRID)
    x = features()
    for block in (5, 11):
        x = manager.apply_film(x, block, condition)
    x.square().sum().backward()
    for name, parameter in manager.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert first.grad is None


def test_projecting_late_is_the_same_function_as_averaging_projections() -> None:
    manager = trained_manager()
    frames = [features() for _ in range(4)]
    average = manager.context_proj(frames[0])
    for frame in frames:
        manager.update_temporal_context(frame)
    for frame in frames[1:]:
        average = 0.7 * average + 0.3 * manager.context_proj(frame)
    torch.testing.assert_close(manager.context_proj(manager._temporal_context), average, rtol=1e-4, atol=1e-5)


# 2. The context is no parameter and enters no checkpoint.


def test_checkpoints_hold_no_context() -> None:
    manager = trained_manager()
    before = set(manager.state_dict())
    manager.update_temporal_context(features())
    assert set(manager.state_dict()) == before
    assert not list(manager.buffers())
    assert not any(parameter is manager._temporal_context for parameter in manager.parameters())
    fresh = TemporalModulationManager(DIM, 12, 6)
    fresh.load_state_dict(manager.state_dict())
    assert fresh._temporal_context is None


# 3. Tokens are a grid.


def test_another_grid_is_resized_in_two_dimensions() -> None:
    columns = torch.arange(4.0).expand(4, 4).reshape(1, 16, 1).expand(1, 16, DIM)
    resized = resize_tokens(columns, (4, 4), (8, 8)).view(8, 8, DIM)
    torch.testing.assert_close(resized, resized[:1].expand_as(resized))
    assert (resized[0, 1:, 0] >= resized[0, :-1, 0]).all()
    wide = resize_context(context_of(columns), (2, 8))
    assert wide.grid == (2, 8) and wide.features.shape == (1, 16, DIM) and wide.valid.shape == (1, 16, 1)
    torch.testing.assert_close(wide.features.view(2, 8, DIM)[0], wide.features.view(2, 8, DIM)[1])

    manager = trained_manager()
    manager.update_temporal_context(columns)
    x = torch.zeros(1, 64, DIM)
    modulated = manager.modulate(x, 5).view(8, 8, DIM)
    torch.testing.assert_close(modulated, modulated[:1].expand_as(modulated), rtol=1e-4, atol=1e-5)
    explicit = manager.apply_film(x, 5, manager.condition(context_of(columns), (8, 8)))
    torch.testing.assert_close(explicit.view(8, 8, DIM), modulated, rtol=1e-4, atol=1e-5)


def test_a_grid_that_is_no_square_must_be_named() -> None:
    manager = trained_manager()
    with pytest.raises(ValueError, match="pass their grid"):
        manager.update_temporal_context(torch.randn(1, 12, DIM))
    manager.update_temporal_context(torch.randn(1, 12, DIM), grid=(3, 4))
    assert manager.modulate(torch.randn(1, 48, DIM), 5, grid=(6, 8)).shape == (1, 48, DIM)


# 4. The context is registered to the new crop's geometry.


@pytest.mark.parametrize("grid", [(8, 8), (6, 10)])
def test_registration_follows_places_in_the_image(grid: tuple[int, int]) -> None:
    old_crop, new_crop = (50.0, 40.0, 80.0), (58.0, 36.0, 60.0)
    context = context_of(token_positions((8, 8), old_crop), (8, 8), old_crop)
    registered = register_context(context, crops(new_crop), grid)
    where = token_positions(grid, new_crop)
    # Between the old tokens' centres the interpolation of image coordinates is those coordinates.
    inside = ((where - torch.tensor(old_crop[:2])).abs() <= 35).all(dim=-1)
    assert inside.sum() > 20
    torch.testing.assert_close(registered.features[inside], where[inside], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(registered.valid[inside], torch.ones(int(inside.sum()), 1))
    assert registered.grid == grid and torch.equal(registered.crops, crops(new_crop))


def test_the_same_crop_changes_nothing() -> None:
    context = context_of(features(2))
    registered = register_context(context, context.crops, GRID)
    torch.testing.assert_close(registered.features, context.features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(registered.valid, torch.ones_like(registered.valid))
    assert registered is context
    resampled = register_context(context, context.crops.clone(), GRID)
    torch.testing.assert_close(resampled.features, context.features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(resampled.valid, torch.ones_like(registered.valid))


def test_a_context_that_is_registered_already_learns_the_same() -> None:
    context, new, where = context_of(features(), crop=(50, 50, 40)), features(), crops((58, 46, 44))
    registered = register_context(context, where, GRID)
    other = updated_context(registered, new, GRID, registered.crops)
    for weight_B in (None, torch.tensor([1.0])):
        one = updated_context(context, new, GRID, where, weight_B)
        torch.testing.assert_close(one.features, other.features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.valid, other.valid)


def test_places_out_of_view_are_not_modulated() -> None:
    manager = trained_manager()
    context = context_of(features(), crop=(50, 50, 40))
    registered = register_context(context, crops((70, 50, 40)), GRID)  # half a crop to the right
    valid = registered.valid.view(GRID)
    assert valid[:, :2].eq(1).all() and valid[:, 2:].eq(0).all()
    x = features()
    out = manager.apply_film(x, 5, manager.condition(registered, GRID)).view(*GRID, DIM)
    torch.testing.assert_close(out[:, 2:], x.view(*GRID, DIM)[:, 2:], rtol=0, atol=0)
    assert (out[:, :2] - x.view(*GRID, DIM)[:, :2]).abs().amax(dim=-1).min() > 1e-3

    # What comes into view is learned at once, what was in view goes on averaging.
    new = features()
    updated = updated_context(context, new, GRID, crops((70, 50, 40)))
    torch.testing.assert_close(updated.features.view(*GRID, DIM)[:, 2:], new.view(*GRID, DIM)[:, 2:])
    old = context.features.view(*GRID, DIM)
    expected = 0.7 * old[:, 2:] + 0.3 * new.view(*GRID, DIM)[:, :2]
    torch.testing.assert_close(updated.features.view(*GRID, DIM)[:, :2], expected, rtol=1e-4, atol=1e-5)
    assert updated.valid.eq(1).all()


def test_without_registration_a_token_stands_for_the_one_at_its_index() -> None:
    """The ablation's switch: whatever the new crop, features and reliability stay where they are in the grid."""
    context = context_of(torch.randn(1, 64, DIM), (8, 8), (50.0, 40.0, 80.0))
    new_crop = crops((95.0, 20.0, 60.0))
    kept = register_context(unregistered_context(context, new_crop), new_crop, (8, 8))
    torch.testing.assert_close(kept.features, context.features, rtol=1e-5, atol=1e-5)
    assert torch.equal(kept.valid, context.valid)
    moved = register_context(context, new_crop, (8, 8))
    assert (moved.valid == 0).any() and not torch.allclose(moved.features, context.features, atol=0.1)
    assert unregistered_context(None, new_crop) is None


# 5. The context belongs to the video.


class Session:
    """The least a caller keeps for one video."""

    def __init__(self, manager: TemporalModulationManager) -> None:
        self.manager = manager
        self.context: TemporalContext | None = None

    def step(self, x: Tensor, crop: tuple[float, float, float]) -> Tensor:
        where = crops(*[crop] * len(x))
        out = x
        if self.context is not None:
            registered = register_context(self.context, where, GRID)
            out = self.manager.apply_film(x, 5, self.manager.condition(registered, GRID))
        self.context = updated_context(self.context, x, GRID, where)
        return out


def test_two_interleaved_videos_give_what_each_gives_alone() -> None:
    manager = trained_manager()
    videos = [[(features(batch), (50.0 + 3 * t, 50.0, 40.0 + t)) for t in range(4)] for batch in (1, 3)]
    alone = []
    for video in videos:
        session = Session(manager)
        alone.append([session.step(*frame) for frame in video])
    sessions = [Session(manager), Session(manager)]
    for t in range(4):
        for which in (0, 1):
            assert torch.equal(sessions[which].step(*videos[which][t]), alone[which][t])
    assert manager._temporal_context is None


def test_a_running_context_of_another_batch_is_an_error_not_a_broadcast() -> None:
    manager = trained_manager()
    manager.update_temporal_context(features(1))
    with pytest.raises(ValueError, match="reset"):
        manager.modulate(features(2), 5)
    with pytest.raises(ValueError, match="reset"):
        manager.update_temporal_context(features(2))
    manager.reset()
    manager.update_temporal_context(features(2))


def test_a_copy_of_the_model_has_its_own_running_context() -> None:
    manager = trained_manager()
    twin = copy.deepcopy(manager)
    manager.update_temporal_context(features())
    assert twin._temporal_context is None
    assert isinstance(twin, nn.Module)


# 6. A lost target does not teach the context.


def test_an_unconfident_frame_leaves_the_context_as_it_was() -> None:
    context = context_of(features(2))
    weight = torch.tensor([0.0, 1.0])
    new, moved = features(2), crops((60, 55, 50), (60, 55, 50))
    updated = updated_context(context, new, GRID, moved, weight)
    assert torch.equal(updated.features[0], context.features[0])
    assert torch.equal(updated.valid[0], context.valid[0])
    assert torch.equal(updated.crops, torch.stack([context.crops[0], moved[1]]))
    confident = updated_context(context, new, GRID, moved)
    torch.testing.assert_close(updated.features[1], confident.features[1], rtol=0, atol=0)

    manager = trained_manager()
    manager.update_temporal_context(features())
    before = manager._temporal_context
    manager.update_temporal_context(features(), weight=0.0)
    assert manager._temporal_context is before


def test_a_doubtful_frame_teaches_less() -> None:
    old, new = features(), features()
    context = context_of(old)
    half = updated_context(context, new, GRID, context.crops, torch.tensor([0.5]))
    torch.testing.assert_close(half.features, 0.85 * old + 0.15 * new, rtol=1e-4, atol=1e-5)
    assert half.valid.eq(1).all()


def test_a_video_that_begins_unconfidently_modulates_nothing_yet() -> None:
    manager = trained_manager()
    context = updated_context(None, features(), GRID, crops((50, 50, 40)), torch.tensor([0.0]))
    x = features()
    torch.testing.assert_close(manager.apply_film(x, 5, manager.condition(context, GRID)), x, rtol=0, atol=0)
    first = features()
    taught = updated_context(context, first, GRID, crops((50, 50, 40)), torch.tensor([0.5]))
    torch.testing.assert_close(taught.features, first)
    assert taught.valid.eq(0.5).all()
