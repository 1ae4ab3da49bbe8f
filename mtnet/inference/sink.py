"""Finished planes of a dense output to its answer on the target grid: activate, interpolate, reduce, let go.

The blend is of the network's raw values, as MONAI's is. Their mean is divided by the temperature and activated on the
image grid; what is interpolated to the target grid are probabilities, and labels are taken there. So no label comes
from labels of neighbours, and no more than a few planes of all classes exist at native resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mtnet.inference.answer import Answer
from mtnet.inference.bands import Band
from mtnet.inference.grids import REACH_VOXELS, SNAP_TOLERANCE_VOXELS, AxisTable, TargetMap
from mtnet.inference.memory import Memory
from mtnet.inference.plan import DenseOutput
from mtnet.inference.windows import Mask


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the answers of one image go: the target grid, the size of the valid image, and the region in it or None."""

    target: TargetMap
    valid_shape: tuple[int, ...]
    region: Mask | None


class Sink(Protocol):
    """Takes the planes of one dense output as they become final."""

    def take(self, band: Band) -> None:
        """Use the planes of ``band`` that became final since the last call."""

    def finish(self) -> DenseOutput:
        """The answer on the target grid, once all planes have been taken."""


def make_sink(answer: Answer, place: Place, memory: Memory) -> Sink:
    """The sink for one dense output: plane by plane where the grids are aligned, else through a half-precision copy."""
    return AlignedSink(answer, place, memory) if place.target.aligned else ObliqueSink(answer, place, memory)


class AlignedSink:
    """Restores onto a target whose axes run along the image's: separable linear interpolation, a few planes at once."""

    def __init__(self, answer: Answer, place: Place, memory: Memory) -> None:
        self._answer = answer
        self._memory = memory
        tables = place.target.tables(place.valid_shape, answer.spec.strides[0])
        # From here on, axes run from the last target axis to the first.
        self._slab, *self._others = reversed(tables)
        self._image_axes = tuple(reversed(place.target.axes))
        self._region: Mask | None = None if place.region is None else place.region.transpose(self._image_axes)
        self._order = self._needed_planes()
        self._next = 0
        self._as_is = all(table.copies for table in tables)

    def take(self, band: Band) -> None:
        """Restore every target plane whose planes in ``band`` are final."""
        ready = int(np.searchsorted(self._slab.upper[self._order], band.done))
        while self._next < ready:
            self._next = self._memory.until_it_fits(partial(self._restore, band, ready))

    def finish(self) -> DenseOutput:
        """The answer on the target grid."""
        return self._answer.finish()

    def _needed_planes(self) -> NDArray[np.int64]:
        """Target planes, counted from the table's first, in the order in which image planes come."""
        order = np.argsort(self._slab.lower + self._slab.weight, kind="stable").astype(np.int64)
        if any(len(table) == 0 for table in self._others):
            return order[:0]
        if self._region is None:
            return order
        occupied = np.asarray(self._region.any(axis=tuple(range(1, self._region.ndim))))
        return order[occupied[self._slab.nearest[order]]]

    def _restore(self, band: Band, ready: int) -> int:
        """Restore the next few target planes, not beyond ``ready``; returns the first that is still to come."""
        stop = min(ready, self._next + self._planes_at_once())
        targets = self._order[self._next : stop]
        lower, upper = self._slab.lower[targets], self._slab.upper[targets]
        first, last = int(lower.min()), int(upper.max())
        slab = AxisTable(0, lower - first, upper - first, self._slab.weight[targets], self._slab.nearest[targets])
        planes = band.planes(self._answer.spec.name, first, last + 1)
        # From (C, image axes) to (C, axes from the last target axis to the first).
        raw = planes.permute(0, *(1 + axis for axis in self._image_axes)).contiguous()
        if self._answer.needs_probabilities or not self._as_is:
            raw = self._answer.activate(raw, 0)
        place = (_run(self._slab.first + targets), *(slice(t.first, t.first + len(t)) for t in self._others))
        self._answer.write(place, self._interpolated(raw, slab), self._inside(slab, raw.device))
        return stop

    def _interpolated(self, classes: Tensor, slab: AxisTable) -> Iterator[Tensor]:
        # Axes that grow come late, so that most of the work is on few values.
        tables = sorted(enumerate((slab, *self._others)), key=lambda t: -t[0])
        if len(slab) < classes.shape[1]:
            tables = [tables[-1], *tables[:-1]]
        for planes in classes:
            fine = planes
            for axis, table in tables:
                fine = _interpolate(fine, axis, table)
            yield fine

    def _inside(self, slab: AxisTable, device: torch.device) -> Tensor | None:
        if self._region is None:
            return None
        mask: Mask = self._region[slab.nearest]
        for axis, table in enumerate(self._others, start=1):
            mask = np.take(mask, table.nearest, axis=axis)
        return torch.from_numpy(mask).to(device)

    def _planes_at_once(self) -> int:
        """Target planes whose temporaries fit into a slab: thrice all classes coarse, four times one class fine."""
        fine = int(np.prod([len(t) for t in self._others]))
        coarse = int(np.prod([int(t.upper.max(initial=0)) + 1 for t in self._others])) * self._answer.channels
        coarse_planes = (int(self._slab.upper.max(initial=0)) + 1) / max(len(self._slab), 1)
        return max(int(self._memory.slab_bytes / (4 * (3 * coarse * coarse_planes + 4 * fine))), 1)


def _run(planes: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A list of planes as a slice where they are consecutive: plain copies instead of gathers."""
    return slice(int(planes[0]), int(planes[-1]) + 1) if (np.diff(planes) == 1).all() else planes


def _interpolate(values: Tensor, axis: int, table: AxisTable) -> Tensor:
    """Linear interpolation of ``values`` along ``axis`` by ``table``; a view where nothing is to be done."""
    if table.is_slice:
        return values.narrow(axis, int(table.lower[0]), len(table))
    lower = _taken(values, axis, torch.from_numpy(table.lower).to(values.device))
    if table.copies:
        return lower
    upper = _taken(values, axis, torch.from_numpy(table.upper).to(values.device))
    weight = torch.from_numpy(table.weight).to(values.device)
    return lower.lerp_(upper, weight.reshape([-1 if a == axis else 1 for a in range(values.ndim)]))


def _taken(values: Tensor, axis: int, index: Tensor) -> Tensor:
    # index_select copies whole rows along outer axes, but is several times slower than indexing along the last.
    return values[..., index] if axis == values.ndim - 1 else values.index_select(axis, index)


class ObliqueSink:
    """Restores onto a target at an angle to the image: keeps probabilities in half precision on the host, then goes
    over the target block by block."""

    def __init__(self, answer: Answer, place: Place, memory: Memory) -> None:
        self._answer = answer
        self._target = place.target
        self._valid = place.valid_shape
        self._region = place.region
        self._memory = memory
        self._stride = answer.spec.strides[0]
        self._cells = tuple(-(-n // self._stride) for n in self._valid)
        self._kept = torch.zeros((answer.channels, *self._cells), dtype=torch.float16)
        self._done = 0

    def take(self, band: Band) -> None:
        """Keep the planes of ``band`` that became final."""
        self._done = max(self._done, band.low)
        stop = min(band.done, band.high, self._cells[band.axis])
        while self._done < stop:
            self._done = self._memory.until_it_fits(partial(self._keep, band, stop))

    def finish(self) -> DenseOutput:
        """Interpolate, reduce and store the target block by block."""
        self._restore(tuple(slice(0, n) for n in self._target.shape))
        return self._answer.finish()

    def _keep(self, band: Band, stop: int) -> int:
        plane_bytes = 8 * self._kept.numel() // self._cells[band.axis]
        first = self._done
        stop = min(stop, first + max(self._memory.slab_bytes // plane_bytes, 1))
        cut = (slice(None), *(slice(None) if axis == band.axis else slice(n) for axis, n in enumerate(self._cells)))
        values = self._answer.activate(band.planes(self._answer.spec.name, first, stop)[cut], 0)
        self._kept.narrow(band.axis + 1, first, stop - first).copy_(values)
        return stop

    def _restore(self, block: tuple[slice, ...]) -> None:
        """Restore a block at once where it is small enough, else in parts."""
        edge = self._edge()
        if all(part.stop - part.start <= edge for part in block):
            self._restore_at_once(block)
            return
        cuts = [[slice(a, min(a + edge, part.stop)) for a in range(part.start, part.stop, edge)] for part in block]
        for smaller in product(*cuts):
            self._memory.until_it_fits(partial(self._restore, smaller))

    def _edge(self) -> int:
        """Edge of a cubic block whose temporaries fit into a slab: two of all classes, float64 coordinates thrice."""
        voxels = self._memory.slab_bytes / (4 * (2 * self._answer.channels + 6 * len(self._valid)))
        return max(int(voxels ** (1 / len(self._valid))), 4)

    def _restore_at_once(self, block: tuple[slice, ...]) -> None:
        x = self._image_coordinates(block)
        limit = torch.tensor(self._valid, dtype=torch.float64).reshape(-1, *[1] * len(block)) - 1
        held = x.clamp_min(0).minimum(limit)
        inside = ((x - held).abs() <= REACH_VOXELS).all(0)
        if self._region is not None:
            nearest = (held + 0.5 + SNAP_TOLERANCE_VOXELS).floor().minimum(limit).long()
            inside &= torch.from_numpy(self._region)[tuple(nearest)]
        if not bool(inside.any()):
            return
        cells = torch.tensor(self._cells, dtype=torch.float64).reshape(limit.shape) - 1
        values = self._sample(((held + 0.5) / self._stride - 0.5).clamp_min(0).minimum(cells))
        backwards = tuple(reversed(range(len(block))))
        self._answer.write(tuple(reversed(block)), (v.permute(backwards) for v in values), inside.permute(backwards))

    def _image_coordinates(self, block: tuple[slice, ...]) -> Tensor:
        """Image index ``(D, *block)`` of every voxel of a target block."""
        axes = [torch.arange(s.start, s.stop, dtype=torch.float64) for s in block]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        offset = torch.from_numpy(self._target.offset).reshape(-1, *[1] * len(block))
        return torch.einsum("de,e...->d...", torch.from_numpy(self._target.matrix), index) + offset

    def _sample(self, u: Tensor) -> Tensor:
        """Linear interpolation ``(C, *block)`` of the kept values at cells ``u`` ``(D, *block)``."""
        low = u.flatten(1).min(1).values.floor().long()
        high = u.flatten(1).max(1).values.ceil().long() + 1
        cut = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        crop = self._kept[cut].float()
        span = (high - low - 1).clamp_min(1).double().reshape(-1, *[1] * (u.ndim - 1))
        within = (u - low.reshape(span.shape)) / span * 2 - 1
        grid = within.flip(0).movedim(0, -1).float()
        return F.grid_sample(crop[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
