"""Every file in configs/ says how it is run, is built, and is trained for one step."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from training_fakes import source_for

from vil_tracker.config import Config, load_config, override
from vil_tracker.data.sampling import collate
from vil_tracker.data.sources import READERS, SYNTHETIC_CLIPS, SYNTHETIC_PAIRS
from vil_tracker.training.objectives import build_objective
from vil_tracker.training.optim import in_stem
from vil_tracker.training.state import build_state

#: What OSTrack's recipes say, in our words. Its schedule drops once, at four fifths.
OSTRACK = {
    "vitb_256_mae_32x4_ep300": {
        **{"model.drop_path": 0.1, "model.template_size": 128, "model.search_size": 256},
        **{"model.template_factor": 2.0, "model.search_factor": 4.0},
        **{"data.max_gap": 200, "data.centre_jitter": 3.0, "data.scale_jitter": 0.25, "data.aspect_jitter": 0.0},
        **{"data.rotation": 0.0, "data.epoch_samples": 60000, "data.curriculum": 0.0, "data.grey": 0.05},
        **{"data.flip": 0.5, "data.brightness": 0.2, "data.motion_blur": 0.0, "data.negatives": 0.0},
        **{"train.steps": 140400, "train.batch_size": 128, "train.lr": 4e-4, "train.backbone_lr_scale": 0.1},
        **{"train.weight_decay": 1e-4, "train.schedule": "step", "train.warmup_steps": 0, "train.decay_rate": 0.1},
        **{"train.decay_after": 0.8, "train.clip_grad": 0.1, "train.ema_decay": 0.0, "train.precision": "float32"},
        **{"train.loss_focal": 1.0, "train.loss_giou": 2.0, "train.loss_l1": 5.0, "train.loss_foreground": 0.0},
        "data.sources": "lasot got10k:vot_train trackingnet coco",
    },
}
OSTRACK["vitb_256_mae_ce_32x4_got10k_ep100"] = {
    **OSTRACK["vitb_256_mae_32x4_ep300"],
    **{"train.steps": 46800, "data.sources": "got10k:train"},
}
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_says_how_it_is_run_and_names_known_data(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    for word in (f"configs/{path.name}", "--data-root", "--output", "Hardware:"):
        assert word in header, f"{path.name} lacks {word}"
    assert "not run" in header or "Time:" in header
    config = load_config(path)
    known = {SYNTHETIC_CLIPS, SYNTHETIC_PAIRS, *READERS}
    names = {source.name for source in (*config.data.sources, *config.data.validation)}
    assert {name for name in names if not name.startswith("folder:")} <= known
    assert config.data.sources
    for source in (*config.data.sources, *config.data.validation):
        if source.name in READERS:
            assert source.split in READERS[source.name].splits


def differences(config: Config, recipe: str) -> dict[str, tuple[str, str]]:
    """Key by key, our value and OSTrack's where they are not the same."""
    found = {}
    for key, theirs in OSTRACK[recipe].items():
        section, name = key.split(".")
        ours = getattr(getattr(config, section), name)
        if key == "data.sources":
            weights = {source.weight for source in ours}
            ours = "+".join(s.name + ("" if s.split == "train" else f":{s.split}") for s in ours)
            theirs = "+".join(str(theirs).replace(":train", "").split())
            assert weights == {1.0} or ours != theirs
        if ours != theirs:
            shown = [f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in (ours, theirs)]
            found[key] = (shown[0], shown[1])
    return found


@pytest.mark.parametrize("name", ["small_pairs", "tiny_pairs", "nano_pairs", "small_got10k"])
def test_the_header_states_every_difference_from_ostrack(name: str) -> None:
    path = next(path for path in CONFIGS if path.stem == name)
    header = " ".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    recipe = next(recipe for recipe in OSTRACK if recipe in header)
    stated = {key: (ours, theirs) for key, ours, theirs in re.findall(r"(\w+\.\w+) (\S+) \(([^)]+)\)", header)}
    assert stated == differences(load_config(path), recipe)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_trains_for_one_step(path: Path) -> None:
    small = ["train.batch_size=2", "train.accumulate=1", "train.compile=false", "data.clip_length=2"]
    small += ['train.init_from=""', 'train.grow_from=""']
    config = override(load_config(path), small)
    state = build_state(config, torch.device("cpu"))
    batch = collate([source_for(config).sample(np.random.default_rng(i), 1.0) for i in range(2)])
    with torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bfloat16"):
        loss, _ = build_objective(state.network, config, state.probes)(batch)
    loss.backward()
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    assert torch.isfinite(loss) and all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    everything = [*state.network.parameters(), *(state.probes.parameters() if state.probes else ())]
    still = 0
    if config.data.mode == "pairs":  # a pair has no frame before it
        still += len(list(state.network.temporal.parameters()))
    if config.train.stem_lr_scale == 0:
        still += sum(in_stem(name) for name, _ in state.network.named_parameters())
    assert len(trained) == len(everything) - still
    state.optimizer.step()
    assert all(p.isfinite().all() for p in everything)
