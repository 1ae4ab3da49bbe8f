"""The order in which a training sees its items."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from torch.utils.data import Sampler


class ItemsInOrder(Sampler[int]):
    """Items ``first``, ``first + 1`` and on, for a data set whose items are drawn at random already.

    ``TrainingState`` moves ``first`` to where a training stopped, so that one that goes on sees what it has not seen.

    Args:
        items: the data set, as long as the whole training.
        first: index to begin with.
    """

    def __init__(self, items: Sized, first: int = 0) -> None:
        self.items = items
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, len(self.items)))

    def __len__(self) -> int:
        return len(self.items) - self.first
