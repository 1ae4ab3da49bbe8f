"""What several training processes (``torchrun``) have to agree on."""

from __future__ import annotations

import gc
from typing import Any, TypeVar

from torch import distributed, nn

if distributed.is_available():
    # Its functions have the group of the moment of their import as a default. Imported by DistributedDataParallel, thus
    # later than here, they would keep the group and its threads beyond ``leave_processes``.
    import torch.distributed.nn.functional  # noqa: F401

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the one that writes and logs: rank 0, or the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def gathered(own: T) -> list[T]:
    """What each process has, in the order of their ranks; every process has to call this."""
    if not distributed.is_initialized():
        return [own]
    everything: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everything, own)
    return [item for item in everything if item is not None]


def leave_processes(network: nn.Module) -> None:
    """End the group of processes, all at the same time; every process has to call this when its work is done.

    None of the group's threads is left afterwards. One that lets go of a tensor while the interpreter shuts down aborts
    the process ("terminate called without an active exception"), and ``destroy_process_group`` alone ends no thread
    while a network holds the group.

    Args:
        network: that was trained, as ``DistributedDataParallel``; it gives no more gradients to others.
    """
    distributed.barrier()
    distributed.destroy_process_group()
    trained: Any = network
    trained.reducer = trained.logger = trained.process_group = None
    gc.collect()
