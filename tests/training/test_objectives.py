"""The losses of pairs and clips: a clip is run as a session runs it, and everything that should learn does."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from training_fakes import NoiseClips, NoisePairs, source_for, tiny_config

from vil_tracker.config import Config, TrackConfig
from vil_tracker.data.crops import crop, geometry_for_box
from vil_tracker.data.sampling import ClipSample, collate
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training import objectives
from vil_tracker.training.objectives import ClipObjective, build_objective
from vil_tracker.training.state import build_state

CPU = torch.device("cpu")


def network_for(config: Config, noise: float = 0.1) -> ViLTrackerNet:
    """A network whose temporal part is not at its neutral start."""
    torch.manual_seed(3)
    network = build_network(config.model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return network


def batch_for(config: Config, count: int = 2):
    return collate([source_for(config).sample(np.random.default_rng(i), 1.0) for i in range(count)])


def test_a_clip_is_run_as_a_session_runs_it(monkeypatch) -> None:
    config = tiny_config("clips")
    config = Config(config.model, config.data, config.train, TrackConfig(context_confidence=0.0, smooth=False))
    network = network_for(config).eval()
    clips, expected = [], []
    for seed in range(3):  # of different sizes: each session must stay on its own picture
        video = NoiseClips(length=5, side=80 + 16 * seed).sample(np.random.default_rng(seed), 1.0)
        tracker = Tracker(network, config.track)
        tracker.init(video.frames[0], video.boxes[0])
        expected.append([tracker.update(frame).box for frame in video.frames[1:]])
        geometry = geometry_for_box(video.boxes[0], config.model.template_factor, config.model.template_size)
        clips.append(
            ClipSample(
                crop(video.frames[0], geometry),
                geometry.to_crop(video.boxes[0]).astype(np.float32),
                video.frames[1:],
                video.boxes[1:],
                video.present[1:],
                np.repeat(video.boxes[:1], 4, 0),  # the session begins on the first box
                np.array([True, False, False, False]),
            )
        )
    found = []
    ordinary = objectives.boxes_in_frames
    monkeypatch.setattr(objectives, "boxes_in_frames", lambda *a: found.append(ordinary(*a)) or found[-1])
    objective = ClipObjective(network, config)
    for clip, boxes in zip(clips, expected, strict=True):
        found.clear()
        with torch.no_grad():
            objective(collate([clip]))
        # The session runs the same function with folded weights, whose last bits differ, and OpenCV places crops in
        # steps of 1/32 pixel, which makes a step of a last bit now and then.
        np.testing.assert_allclose(np.stack(found, 1)[0], boxes, atol=0.2)
    found.clear()
    with torch.no_grad():
        objective(collate(clips))
    # A batch rounds otherwise too.
    np.testing.assert_allclose(np.stack(found, 1), np.array(expected), atol=0.2)


def test_truth_centred_frames_are_cut_around_the_anchor_and_labelled_there(monkeypatch) -> None:
    config = tiny_config("clips")
    objective = ClipObjective(network_for(config), config)
    source = NoiseClips(free=False)
    sample = source.sample(np.random.default_rng(0), 1.0)
    far = sample.anchors.copy()
    far[1, :2] += 200  # misses the target
    located = list(objective.locate(collate([sample._replace(anchors=far)])))
    for k, (_, box, present) in enumerate(located):
        region = geometry_for_box(far[k], config.model.search_factor, config.model.search_size)
        np.testing.assert_allclose(box[0], region.to_crop(sample.boxes[k]), atol=1e-5)
        assert bool(present[0]) == (k != 1)


@pytest.mark.parametrize("mode", ["pairs", "clips"])
def test_every_parameter_that_is_to_learn_receives_a_gradient(mode: str) -> None:
    config = tiny_config(mode)
    config = Config(config.model, config.data, config.train, TrackConfig(context_confidence=0.0, smooth=False))
    state = build_state(config, CPU)
    with torch.no_grad():  # at its neutral start the temporal part passes a gradient to its last layers alone
        for parameter in state.network.temporal.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loss, terms = build_objective(state.network, config)(batch_for(config))
    loss.backward()
    assert set(terms) == {"focal", "giou", "l1", "iou"} and torch.isfinite(loss)
    still = [n for n, p in state.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    temporal = [n for n, _ in state.network.named_parameters() if n.startswith("temporal.")]
    assert still == ([] if mode == "clips" else temporal)


def test_no_gradient_crosses_from_one_frame_to_the_next() -> None:
    config = tiny_config("clips")
    config = Config(config.model, config.data, config.train, TrackConfig(context_confidence=0.0, smooth=False))
    network = network_for(config)
    contexts = []
    plain = network.forward_search

    def watched(search, memory, context=None):
        contexts.append(context)
        return plain(search, memory, context)

    network.forward_search = watched  # type: ignore[method-assign]
    ClipObjective(network, config)(batch_for(config))[0].backward()
    assert contexts[0] is None and len(contexts) == 3
    assert all(not context.features.requires_grad and context.valid.any() for context in contexts[1:])


def test_a_frozen_backbone_and_a_network_without_the_temporal_part() -> None:
    frozen = tiny_config("clips", backbone_lr_scale=0.0)
    state = build_state(frozen, CPU)
    assert not any(p.requires_grad for p in state.network.backbone.parameters())
    assert {group["name"] for group in state.optimizer.param_groups} == {"rest", "rest, no decay"}
    build_objective(state.network, frozen)(batch_for(frozen))[0].backward()

    off = tiny_config("clips", model={"temporal": False})
    state = build_state(off, CPU)
    assert state.network.temporal is None
    build_objective(state.network, off)(batch_for(off))[0].backward()
    assert all(p.grad is not None for p in state.network.parameters())


def test_phase_two_learns_the_backbone_more_slowly_and_decays_only_matrices() -> None:
    config = tiny_config("clips", lr=1e-3, backbone_lr_scale=0.1, weight_decay=0.05)
    groups = {g["name"]: g for g in build_state(config, CPU).optimizer.param_groups}
    assert groups["backbone"]["lr"] == pytest.approx(1e-4) and groups["rest"]["lr"] == 1e-3
    for name, group in groups.items():
        assert group["weight_decay"] == (0.0 if "no decay" in name else 0.05)
        assert all(p.ndim > 1 for p in group["params"]) or "no decay" in name


@pytest.mark.parametrize("mode", ["pairs", "clips"])
def test_activation_checkpointing_changes_nothing_but_memory(mode: str) -> None:
    gradients = []
    for recompute in (False, True):
        config = tiny_config(mode, grad_checkpointing=recompute)
        network = network_for(config)
        network.set_grad_checkpointing(recompute)
        build_objective(network, config)(batch_for(config))[0].backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clips_need_a_network_that_can_track() -> None:
    with pytest.raises(UserError, match="model.scan"):
        build_objective(build_network(tiny_config(model={"scan": "flip"}).model), tiny_config("clips"))


def test_pairs_are_predicted_jointly() -> None:
    config = tiny_config()
    network = network_for(config).eval()
    batch = collate([NoisePairs().sample(np.random.default_rng(i), 1.0) for i in range(2)])
    ((output, boxes, present),) = build_objective(network, config).locate(batch)
    assert output.score_logits.shape == (2, 1, 4, 4) and boxes.shape == (2, 4) and present.tolist() == [True, True]


@pytest.mark.parametrize("mode", ["pairs", "clips"])
def test_a_compiled_network_gives_the_same_losses(monkeypatch, mode: str) -> None:
    """The graph is captured as for the compiler proper, and run without it: that takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found = []
    for compiled in (False, True):
        config = tiny_config(mode, compile=compiled)
        loss, _ = build_objective(network_for(config), config)(batch_for(config))
        loss.backward()
        found.append(loss.item())
    assert found[1] == pytest.approx(found[0], abs=1e-5)
