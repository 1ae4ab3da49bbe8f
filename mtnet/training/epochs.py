"""The samples of a whole training, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from monai.transforms import Randomizable
from numpy.typing import NDArray
from torch.utils.data import Dataset


class EpochsOfSamples(Dataset[Any]):
    """Every epoch's items behind each other: each epoch all samples in a new order, its last step filled up from the
    front. What is random about an item comes from the seed, its epoch and its place in it alone, so that
    ``ItemsInOrder`` can begin anywhere, and several workers or processes see what one would.

    Args:
        data: items for ``transform``.
        transform: deterministic and random steps; ``Randomizable`` where it has random ones (MONAI's ``Compose`` is).
        epochs: of the training.
        items_a_step: of all processes together.
        seed: of order and randomness.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[dict[str, Any]], Any],
        *,
        epochs: int,
        items_a_step: int,
        seed: int = 0,
    ) -> None:
        self.data = data
        self.transform = transform
        self.epochs = epochs
        self.items_a_step = items_a_step
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._drawn_order)

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch."""
        return -(-len(self.data) // self.items_a_step)

    def __len__(self) -> int:
        return self.epochs * self.steps * self.items_a_step

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"Item {index} of {len(self)}.")
        epoch, place = divmod(index, self.steps * self.items_a_step)
        number = int(self._order(epoch)[place % len(self.data)])
        if isinstance(self.transform, Randomizable):
            state = np.random.SeedSequence((self.seed, epoch, place)).generate_state(1)
            self.transform.set_random_state(seed=int(state[0]))
        return self.transform(dict(self.data[number]))

    def _drawn_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.data))
