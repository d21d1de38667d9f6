"""Everything that a run needs to go on after an interruption."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3

from vil_tracker.config import Config, config_to_dict
from vil_tracker.errors import UserError
from vil_tracker.models.growth import grow_network
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model, load_weights
from vil_tracker.training import checkpoint
from vil_tracker.training.deep_supervision import ForegroundProbes
from vil_tracker.training.optim import build_ema, build_optimizer, in_stem
from vil_tracker.training.teacher import TeacherProjections

log = logging.getLogger(__name__)

# What may differ between the parts of a run without a word: it changes neither the samples nor the optimisation.
FREE_KEYS = {
    *("workers", "log_every", "checkpoint_minutes", "keep_every", "wandb"),
    *("validate_every", "validation_pairs", "validation_sequences"),
}


@dataclass
class TrainingState:
    """What a checkpoint holds, apart from the configuration.

    Attributes:
        ema: the averaged weights, None where weights are not averaged.
        step: optimiser steps done.
        best: the best validation score so far, None before the first.
        probes: deep supervision, None where the configuration asks for none.
        projections: what a teacher is compared through, None where there is no teacher.
    """

    network: ViLTrackerNet
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    step: int = 0
    best: float | None = None
    probes: ForegroundProbes | None = None
    projections: TeacherProjections | None = None

    def _parts(self) -> dict[str, Any]:
        averages = None if self.ema is None else averaged(self.ema)
        parts = {"network": self.network, "probes": self.probes, "projections": self.projections}
        return {**parts, "optimizer": self.optimizer, "ema": averages}

    def to_dict(self, config: Config) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it loads with ``weights_only=True``."""
        content = {name: None if part is None else part.state_dict() for name, part in self._parts().items()}
        return {"step": self.step, "best": self.best, "config": json.dumps(config_to_dict(config)), **content}

    def restore(self, content: dict[str, Any]) -> None:
        """The inverse of :meth:`to_dict`, into a state that was built from the same configuration."""
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(content[name])
        self.step, self.best = content["step"], content.get("best")

    @property
    def best_network(self) -> ViLTrackerNet:
        """The averaged weights where there are any."""
        return self.network if self.ema is None else averaged(self.ema)


def averaged(ema: ModelEmaV3) -> ViLTrackerNet:
    """The network inside timm's wrapper."""
    return ema.module  # type: ignore[return-value]


def build_state(config: Config, device: torch.device) -> TrainingState:
    """A network, fresh or started from ``train.init_from`` or ``train.grow_from``, its optimiser and averaged weights.

    Raises:
        UserError: the weights to start from do not fit, or a teacher is asked of clips.
    """
    torch.manual_seed(config.train.seed)
    if config.train.grow_from:
        network = grow_network(load_model(config.train.grow_from, "cpu"), config.model).train()
    else:
        network = build_network(config.model)
    if config.train.init_from:
        load_weights(network, config.train.init_from)
    network.set_grad_checkpointing(config.train.grad_checkpointing)
    network.to(device)
    if network.temporal is not None:
        # A pair has no frame before it, and without a FiLM layer nothing is modulated: the temporal part gets no
        # gradient there, and DDP must know.
        modulates = config.track.temporal and len(network.temporal.film_layers) > 0
        network.temporal.requires_grad_(config.data.mode == "clips" and modulates)
    if config.train.backbone_lr_scale == 0:
        network.backbone.requires_grad_(False)
    if config.train.stem_lr_scale == 0:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not in_stem(name))
    probes = None
    if config.train.loss_foreground > 0 and config.data.mode == "pairs":
        probes = ForegroundProbes(config.model.dim, config.model.depth).to(device)
    projections = None
    if config.train.teacher:
        if config.data.mode != "pairs" or config.model.scan != "prefix":
            raise UserError(
                "train.teacher compares pairs of scan prefix: set data.mode pairs, or leave the teacher out"
            )
        projections = TeacherProjections(config.model.dim, config.model.depth).to(device)
    optimizer = build_optimizer(network, config.train)
    for name, part in (("probes", probes), ("teacher", projections)):
        if part is not None:
            group = {"params": list(part.parameters()), "lr": config.train.lr, "weight_decay": 0.0, "name": name}
            optimizer.add_param_group(group)
    return TrainingState(network, optimizer, build_ema(network, config.train), probes=probes, projections=projections)


def resume_state(state: TrainingState, folder: Path, config: Config) -> None:
    """Restore the newest intact checkpoint of ``folder``, if there is one.

    Raises:
        UserError: it belongs to another run, or there are checkpoints and none is intact.
    """
    content = checkpoint.load_newest_state(folder)
    if content is None:
        return
    stored, current = json.loads(content["config"]), config_to_dict(config)
    changed = [
        f"{section}.{key}"
        for section in ("model", "data", "train")
        for key in current[section]
        if key not in FREE_KEYS and stored[section].get(key) != current[section][key]
    ]
    fatal = [key for key in changed if key.startswith("model.") or key in ("data.mode", "train.batch_size")]
    if fatal:
        section, key = fatal[0].split(".")
        raise UserError(
            f"{folder} holds another run ({fatal[0]} is {stored[section].get(key)!r} there, "
            f"{current[section][key]!r} here): choose another --output"
        )
    if changed:
        log.warning("going on with other settings than the run began with: %s", ", ".join(changed))
    try:
        state.restore(content)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{folder} does not fit this configuration ({first}): choose another --output") from error
    log.info("resumed from step %d", state.step)
