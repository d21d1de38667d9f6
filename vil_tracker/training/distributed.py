"""Several processes under torchrun: who am I, and how is a global batch shared.

The engine is torch.distributed with DistributedDataParallel; this file only reads torchrun's environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: 0 … world - 1; rank 0 logs, averages weights and writes checkpoints.
        world: number of processes.
        device: where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0


def join(device: torch.device) -> Ranks:
    """Join torchrun's process group if this process was started by it; otherwise be alone on ``device``.

    NCCL connects GPUs, gloo CPUs. On a GPU each process takes the one of its local rank.
    """
    if "RANK" not in os.environ:
        return Ranks(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(network: nn.Module, ranks: Ranks) -> nn.Module:
    """Average gradients over the processes; the network itself where there is only one."""
    if ranks.world == 1:
        return network
    ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids)
