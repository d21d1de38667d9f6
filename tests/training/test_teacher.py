"""A teacher's features and score maps as targets: where they lie, what they teach, and that nothing of it ships."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from training_fakes import NoisePairs, tiny_config

from vil_tracker.config import ModelConfig
from vil_tracker.data.sampling import collate
from vil_tracker.errors import UserError
from vil_tracker.models.network import build_network
from vil_tracker.training import objectives
from vil_tracker.training.loop import train
from vil_tracker.training.state import build_state
from vil_tracker.training.teacher import (
    Teacher,
    TeacherProjections,
    TeacherTargets,
    on_grid,
    score_on_grid,
)

MODEL = ModelConfig(dim=32, depth=4, template_size=32, search_size=64, head_channels=16, modulation_interval=2)


class FixedTeacher:
    """Stands for the networks: random features, and a box that is right for even pairs alone."""

    def __init__(self, folder: Path) -> None:
        self.generator = torch.Generator().manual_seed(2)

    def targets(self, templates: np.ndarray, searches: np.ndarray) -> TeacherTargets:
        count = len(searches)
        draw = torch.randn(count, 96, 16, 16, generator=self.generator)
        boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.7, 0.7, 0.9, 0.9]]).repeat(count, 1)[:count]
        return TeacherTargets(draw[..., :8, :8], draw, draw[:, 0, :15, :15].sigmoid(), boxes)


def _compare(boxes: torch.Tensor, present: torch.Tensor) -> tuple:
    torch.manual_seed(0)
    network, projections = build_network(MODEL), TeacherProjections(MODEL.dim, MODEL.depth)
    seen = projections.register_hooks(network)
    network(
        torch.randn(2, 1, 3, 32, 32), torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(2, 1, 4), torch.randn(2, 3, 64, 64)
    )
    targets = FixedTeacher(Path()).targets(np.zeros(2), np.zeros(2))
    return network, projections, projections(seen, targets, boxes, present, 2, 4)


def test_both_losses_reach_the_network() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).expand(2, 4)
    for part in ("features", "score"):
        network, _, losses = _compare(boxes, torch.tensor([True, True]))
        getattr(losses, part).backward()
        gradient = network.backbone.patch_embed.proj.weight.grad
        assert gradient is not None and gradient.abs().max() > 0, part


def test_the_score_map_counts_only_where_the_teacher_is_right() -> None:
    right = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).expand(2, 4)  # the second pair's box is elsewhere
    assert _compare(right, torch.tensor([True, True]))[2].agreement == 0.5
    assert _compare(right, torch.tensor([True, False]))[2].agreement == 0.5
    none = _compare(right, torch.tensor([False, True]))[2]
    assert none.agreement == 0 and none.score == 0 and none.features > 0


def test_features_lie_over_the_same_cells() -> None:
    spot = torch.zeros(2, 96, 16, 16)
    spot[:, :, 2, 13] = 1.0  # second row from the top of eight, second column from the right
    cells = on_grid(spot, 8).reshape(2, 8, 8, 96)[0, :, :, 0]
    assert divmod(int(cells.argmax()), 8) == (1, 6)
    np.testing.assert_allclose(on_grid(torch.randn(4, 96, 16, 16), 16).mean((0, 1)), 0, atol=1e-5)


def test_scores_lie_over_the_same_cells() -> None:
    score = torch.zeros(1, 15, 15)
    score[0, 7, 11] = 1.0  # 64 px right of the centre of 255
    cells = score_on_grid(score, 16).reshape(16, 16)
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centre = [float((part * cells).sum() / cells.sum() + 0.5) / 16 for part in (column, row)]
    np.testing.assert_allclose(centre, [0.5 + 64 / 255, 0.5], atol=0.01)


def test_a_run_learns_from_the_teacher_and_ships_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "Teacher", FixedTeacher)
    config = tiny_config(teacher="anywhere", steps=3)
    weights = train(config, NoisePairs(), tmp_path, device=torch.device("cpu"), progress=False)
    log = (tmp_path / "log.jsonl").read_text()
    assert "teacher_features" in log and "teacher_score" in log
    with safetensors.safe_open(weights, framework="pt") as stored:
        assert set(stored.keys()) == set(build_network(config.model).state_dict())
    resumed = train(
        dataclasses.replace(config, train=dataclasses.replace(config.train, steps=4)),
        NoisePairs(),
        tmp_path,
        device=torch.device("cpu"),
        progress=False,
    )
    assert resumed == weights


def test_clips_have_no_teacher() -> None:
    with pytest.raises(UserError, match=r"train\.teacher compares pairs"):
        build_state(tiny_config("clips", teacher="anywhere"), torch.device("cpu"))


def test_the_real_teacher_finds_a_square(shared: Path) -> None:
    pytest.importorskip("onnxruntime")
    if not (shared / "peers" / "nanotrack_v3").is_dir():
        pytest.skip("no NanoTrack V3 in the research data")
    batch = collate([NoisePairs(ModelConfig(template_size=112, search_size=224)).sample(np.random.default_rng(0), 1.0)])
    targets = Teacher(shared / "peers").targets(batch.templates[:, 0].numpy(), batch.search.numpy())
    assert targets.template.shape == (1, 96, 8, 8) and targets.search.shape == (1, 96, 16, 16)
    assert targets.score.shape == (1, 15, 15)
    found = (targets.boxes[0, :2] + targets.boxes[0, 2:]) / 2
    truth = (batch.search_boxes[0, :2] + batch.search_boxes[0, 2:]) / 2
    assert (found - truth).abs().max() < 0.1
