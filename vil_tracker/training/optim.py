"""Optimiser, schedule and averaged weights."""

from __future__ import annotations

import torch
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from vil_tracker.config import TrainConfig

NO_DECAY_MARKS = ("pos_embed", "type_embed", "learnable_skip")


def in_stem(name: str) -> bool:
    """Whether the parameter of this name belongs to the stem, apart from a projection to tokens at its end."""
    stem = "backbone.patch_embed."
    return name.startswith(stem) and not name.startswith(f"{stem}proj.")


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict]:
    """Six groups at most: the stem, the backbone and the rest, each with and without weight decay.

    Norms, biases (all one-dimensional parameters), position and type embeddings are not decayed. The backbone learns
    at ``lr · backbone_lr_scale``, the stem at ``stem_lr_scale`` of that.
    """
    rates = {"stem": config.backbone_lr_scale * config.stem_lr_scale, "backbone": config.backbone_lr_scale, "rest": 1.0}
    groups: dict[tuple[str, bool], dict] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "rest"
        if name.startswith("backbone."):
            part = "stem" if in_stem(name) else "backbone"
        decay = parameter.ndim > 1 and not any(mark in name for mark in NO_DECAY_MARKS)
        group = groups.setdefault(
            (part, decay),
            {
                "params": [],
                "lr": config.lr * rates[part],
                "weight_decay": config.weight_decay if decay else 0.0,
                "name": f"{part}{'' if decay else ', no decay'}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`, in one pass over each parameter."""
    return torch.optim.AdamW(parameter_groups(network, config), betas=(0.9, 0.98), fused=True)


def build_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig) -> Scheduler:
    """Linear warm-up, then timm's schedule of that name; a cosine ends at ``final_lr_scale`` of the slowest peak.

    Call ``step_update(step)`` before each step.
    """
    slowest = min(group["lr"] for group in optimizer.param_groups)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=config.steps,
        decay_epochs=max(round(config.decay_after * config.steps), 1),
        decay_rate=config.decay_rate,
        min_lr=slowest * config.final_lr_scale,
        warmup_lr=slowest * 1e-3,
        warmup_epochs=min(config.warmup_steps, config.steps // 2),
        step_on_epochs=False,
        updates_per_epoch=1,  # so that all of the above are counted in steps
    )
    return scheduler


def build_ema(network: nn.Module, config: TrainConfig) -> ModelEmaV3 | None:
    """Averaged weights, whose decay warms up from 0 so that the random start is soon forgotten; None if turned off."""
    if config.ema_decay == 0:
        return None
    return ModelEmaV3(network, decay=config.ema_decay, use_warmup=True, warmup_power=0.75)
