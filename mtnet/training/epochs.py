"""The samples of a whole training, in an order that seed and epoch decide."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, Randomizable, RandomizableTrait
from torch.utils.data import Dataset

from mtnet.training.balance import BalancedOrder, kind_of

_GIB = 2**30


class EpochsOfSamples(Dataset[Any]):
    """Every epoch's items behind each other: each epoch as many as there are samples, in a new order, its last step
    filled up from the front. What is random about an item comes from the seed, its epoch and its place in it alone, so
    that ``ItemsInOrder`` can begin anywhere, and several workers or processes see what one would.

    Args:
        data: items for ``transform``.
        transform: deterministic and random steps; ``Randomizable`` where it has random ones (MONAI's ``Compose`` is).
        epochs: of the training.
        items_a_step: of all processes together.
        seed: of order and randomness.
        balance: 0 shows every sample once an epoch, 1 every kind of sample equally often; see ``BalancedOrder``.
        cache_gib: memory for what the steps before the first random one give (of a ``Compose``). They are taken when
            the data set is made, for as many samples as there is memory for; workers share them.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[dict[str, Any]], Any],
        *,
        epochs: int,
        items_a_step: int,
        seed: int = 0,
        balance: float = 0.0,
        cache_gib: float = 0.0,
    ) -> None:
        self.data: Any = data
        self.transform = transform
        self.epochs = epochs
        self.items_a_step = items_a_step
        self.seed = seed
        self.balance = balance
        self._order = lru_cache(maxsize=2)(BalancedOrder([kind_of(item) for item in data], balance, seed))
        if cache_gib and isinstance(transform, Compose):
            steps = transform.flatten().transforms
            first = next((n for n, step in enumerate(steps) if isinstance(step, RandomizableTrait)), len(steps))
            self.data, self.transform = kept_samples(data, Compose(steps[:first]), cache_gib), Compose(steps[first:])
        chain: Any = self.transform
        flat = chain.flatten().transforms if type(chain) is Compose else [chain]
        self._random = [step for step in flat if isinstance(step, Randomizable)]

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
        seed = np.random.SeedSequence((self.seed, epoch, place)).generate_state(1)
        # One generator for all steps of an item: to seed one takes as long as some of the steps.
        state = np.random.RandomState(int(seed[0]))
        for step in self._random:
            step.set_random_state(state=state)
        return self.transform({key: _without_notes(value) for key, value in self.data[number].items()})


def kept_samples(data: Sequence[Mapping[str, Any]], transform: Compose, gib: float) -> CacheDataset:
    """What deterministic steps make of samples, made at once and kept for as many samples as there is memory for.

    Args:
        data: items for ``transform``.
        transform: without random steps.
        gib: memory, 0 for none; workers share it.
    """
    flat = transform.flatten()
    room = 0
    if gib and len(data):
        tensors = [value for value in flat(dict(data[0])).values() if torch.is_tensor(value)]
        room = int(gib * _GIB / max(1, sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
    return CacheDataset(data, flat, cache_num=room, num_workers=1, progress=sys.stderr.isatty())


def _without_notes(value: Any) -> Any:
    """A tensor on the same memory that does not tell what was done to it: steps add to a list of that, which on kept
    samples would grow from epoch to epoch, and with it the time that every step takes to copy it."""
    if not isinstance(value, MetaTensor):
        return value
    return MetaTensor(value.as_tensor(), meta=dict(value.meta), applied_operations=[])
