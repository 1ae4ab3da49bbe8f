"""Which samples an epoch has: classes, and what is known of samples, each with a fair share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.training.samples import CLASS

_NO_TARGETS = ("id", "image")


def kind_of(item: Mapping[str, Any]) -> Hashable:
    """What balancing tells apart in an item of ``samples_of``: its class, which targets it has, and whether its masks
    and boxes are known to be empty."""
    known = frozenset(key for key in item if key not in _NO_TARGETS)
    empty = frozenset(key for key in ("masks", "boxes") if key in item and not item[key])
    return item.get(CLASS), known, empty


class BalancedOrder:
    """The order of the samples of every epoch, each epoch as long as the data.

    A kind of ``n`` samples gets a share of each epoch that is proportional to ``n ** (1 - balance)``: 0 leaves kinds as
    frequent as they are (every epoch then has every sample once), 1 makes them equally frequent. Within a kind all
    samples come before one comes again, over the bounds of epochs too.

    Args:
        kinds: of the samples, in their order; see ``kind_of``.
        balance: 0 to 1.
        seed: of the order.

    Raises:
        ValueError: ``balance`` lies outside 0..1.
    """

    def __init__(self, kinds: Sequence[Hashable], balance: float = 0.0, seed: int = 0) -> None:
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is {balance}; expected 0 (as frequent as they are) to 1 (equally frequent).")
        places: dict[Hashable, list[int]] = {}
        for number, kind in enumerate(kinds):
            places.setdefault(kind, []).append(number)
        self._kinds = [np.asarray(numbers) for numbers in places.values()]
        self._shares = _shares([len(numbers) for numbers in self._kinds], balance)
        self._seed = seed

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the samples of epoch ``epoch`` (from 0), in order."""
        drawn = [
            self._of_kind(kind, numbers, share * epoch, share)
            for kind, (numbers, share) in enumerate(zip(self._kinds, self._shares, strict=True))
        ]
        everything = np.concatenate(drawn) if drawn else np.zeros(0, np.int64)
        return np.random.default_rng((self._seed, epoch)).permutation(everything)

    def _of_kind(self, kind: int, numbers: NDArray[np.int64], first: int, count: int) -> NDArray[np.int64]:
        """``count`` of a kind's samples from place ``first`` of its endless row of permutations."""
        size = len(numbers)
        rounds = range(first // size, -(-(first + count) // size))
        row = [np.random.default_rng((self._seed, kind, turn)).permutation(numbers) for turn in rounds]
        begin = first - rounds.start * size
        return np.concatenate(row)[begin : begin + count] if row else numbers[:0]


def _shares(sizes: Sequence[int], balance: float) -> list[int]:
    """Whole numbers with the sum of ``sizes``, as near as can be to what ``balance`` asks for, at least 1 each."""
    total = sum(sizes)
    wanted = np.asarray(sizes, dtype=np.float64) ** (1 - balance)
    wanted *= total / wanted.sum() if total else 1.0
    shares = np.maximum(np.floor(wanted), 1).astype(int)
    while shares.sum() != total:
        step = 1 if shares.sum() < total else -1
        lack = np.where((shares > 1) | (step > 0), (wanted - shares) * step, -np.inf)
        shares[int(lack.argmax())] += step
    return [int(share) for share in shares]
