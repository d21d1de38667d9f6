"""Several processes under torchrun: joining them, averaging gradients, and what all of them must agree on.

The engine is torch.distributed with DistributedDataParallel.
"""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vil_tracker.errors import UserError
from vil_tracker.runtime import Ranks

#: How long a process waits for the others before it takes them for dead. Longer than any share of a validation, since
#: its shares are as good as equal; shorter than a night, so that a run that hangs is restarted by torchrun.
TIMEOUT = datetime.timedelta(minutes=60)


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join torchrun's process group if this process was started by it; returns its place, and where it computes.

    NCCL connects GPUs, gloo CPUs. On a GPU each process takes the one of its local rank. A process that hears nothing
    of the others for :data:`TIMEOUT` ends.
    """
    ranks = Ranks.from_environment()
    if "RANK" not in os.environ:
        return ranks, device
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local)
        torch.cuda.set_device(device)
    store, rank, world = next(dist.rendezvous("env://"))
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.PrefixStore(_attempt(), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    return ranks, device


def _attempt() -> str:
    """What tells the processes' entries in torchrun's store from those of processes that died.

    The store outlives a restart (pytorch/pytorch#135712): a process that is back before its peers would connect to the
    addresses of the dead. torchrun counts restarts per node, so its count tells them apart on one node; several nodes
    need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which gives every attempt a store of its own.
    """
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "") if os.environ.get("GROUP_WORLD_SIZE") == "1" else ""


def wrap(objective: nn.Module, ranks: Ranks) -> nn.Module:
    """Average gradients over the processes; the objective itself where there is only one.

    Batches reach the objective as they are: frames stay on the host until their crops are cut.
    """
    return objective if ranks.world == 1 else DistributedDataParallel(objective)


def check_same(value: int, what: str, ranks: Ranks, device: torch.device) -> None:
    """Check that all processes hold the same number.

    Raises:
        UserError: they do not; all of them raise it.
    """
    if ranks.world == 1:
        return
    own = torch.tensor([value, -value], device=device)
    dist.all_reduce(own, dist.ReduceOp.MAX)
    highest, lowest = int(own[0]), -int(own[1])
    if highest != lowest:
        raise UserError(
            f"the processes disagree about the {what} ({lowest} and {highest}): --output must be a folder that all "
            "nodes share"
        )
