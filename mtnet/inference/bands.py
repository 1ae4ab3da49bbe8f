"""Float32 accumulators that hold only the planes that windows can still touch, and one before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

_TINY = 1e-30
"""Instead of the weight of a cell that no window covered; its sum is 0, so it comes out as 0."""


class Band:
    """Weighted sums of the dense outputs of one stride, as a ring of planes along the slab axis.

    Planes are cells of that axis. Those below ``done`` are final: they hold means, not sums. The last of them stays for
    interpolation; those below ``low`` have left the ring.

    Args:
        cells: ``(*S / stride)`` of the whole image.
        importance: ``(*window / stride)`` weights.
        slab_axis: axis of ``cells`` along which windows come in rising order.
        channels: name of each output to its channels.
        device: where the sums lie.
    """

    def __init__(
        self,
        cells: Sequence[int],
        importance: Tensor,
        slab_axis: int,
        channels: Mapping[str, int],
        device: torch.device,
    ) -> None:
        self.axis = slab_axis
        self.done = 0
        self._planes = min(cells[slab_axis], importance.shape[slab_axis] + 1)
        self.low = 0
        self._flat = bool((importance == 1).all())
        self._importance = importance[None].to(device)
        shape = [*cells]
        shape[slab_axis] = self._planes
        self._weights = torch.zeros([1, *shape], device=device)
        self._sums = {name: torch.zeros([n, *shape], device=device) for name, n in channels.items()}

    @property
    def device(self) -> torch.device:
        """Where the sums lie."""
        return self._weights.device

    @property
    def high(self) -> int:
        """First plane that has no place in the ring yet."""
        return self.low + self._planes

    def move(self, device: torch.device) -> None:
        """Carry the sums to another device."""
        self._importance = self._importance.to(device)
        self._weights = self._weights.to(device)
        self._sums = {name: values.to(device) for name, values in self._sums.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of sums and weights."""
        return self._weights.nbytes + sum(values.nbytes for values in self._sums.values())

    def add(self, start: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Add one window's ``(C, *window / stride)`` float32 values at the cells from ``start``. Allocates nothing."""
        size = self._importance.shape[1:]
        for part, ring in self._parts(start[self.axis], start[self.axis] + size[self.axis]):
            others = [slice(first, first + n) for first, n in zip(start, size, strict=True)]
            place = (slice(None), *others[: self.axis], ring, *others[self.axis + 1 :])
            cut = self._only(part)
            weight = self._importance[cut]
            self._weights[place] += weight
            for name, window in values.items():
                total = self._sums[name][place]
                if self._flat:
                    total += window[cut]
                else:
                    total.addcmul_(window[cut], weight)

    def finish_below(self, plane: int) -> None:
        """Turn the planes below ``plane`` into means. No window may touch them any more."""
        stop = min(plane, self.high)
        for _, ring in self._parts(max(self.done, self.low), stop):
            weight = self._weights[self._only(ring)].clamp_min_(_TINY)
            for total in self._sums.values():
                total[self._only(ring)] /= weight
        self.done = plane

    def release(self) -> None:
        """Let go of all finished planes but the last."""
        low = max(self.done - 1, self.low)
        for _, ring in self._parts(self.low, min(low, self.high)):
            for values in (self._weights, *self._sums.values()):
                values[self._only(ring)] = 0
        self.low = low

    def planes(self, name: str, first: int, stop: int) -> Tensor:
        """Planes ``first`` to ``stop - 1`` of an output, ``(C, *cells)`` with so many along the slab axis.

        A view where they lie together in the ring.
        """
        parts = [self._sums[name][self._only(ring)] for _, ring in self._parts(first, stop)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.axis + 1)

    def _parts(self, first: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Planes ``first..stop`` as one or two runs: a slice counted from ``first``, and the slice of the ring."""
        plane = first
        while plane < stop:
            place = plane % self._planes
            length = min(stop - plane, self._planes - place)
            yield slice(plane - first, plane - first + length), slice(place, place + length)
            plane += length

    def _only(self, planes: slice) -> tuple[slice, ...]:
        """All channels and cells of some planes."""
        return (*[slice(None)] * (self.axis + 1), planes)
