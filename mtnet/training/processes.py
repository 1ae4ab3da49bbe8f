"""What several training processes (``torchrun``) have to agree on."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

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
