"""The order in which a training sees its items."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from torch.utils.data import Sampler


class ItemsInOrder(Sampler[int]):
    """Items ``first``, ``first + 1`` and on, for a data set whose items are drawn at random already.

    ``TrainingState`` moves ``first`` to where a training stopped, so that one that goes on sees what it has not seen.
    Of several processes each takes its share of every step: a step's items are the same however many there are.

    Args:
        items: the data set, as long as the whole training.
        first: index to begin with.
        batch: items of one batch.
        shard: number of this process.
        shards: processes.
    """

    def __init__(self, items: Sized, first: int = 0, *, batch: int = 1, shard: int = 0, shards: int = 1) -> None:
        self.items = items
        self.first = first
        self.items_a_step = batch * shards
        self.shard = shard
        self.shards = shards

    def __iter__(self) -> Iterator[int]:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())

    def _own(self) -> range:
        return range(self.first + self.shard, len(self.items), self.shards)
