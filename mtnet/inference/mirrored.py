"""Test-time augmentation: the same image asked again mirrored along its axes, and the answers made one.

Probabilities and values are averaged, labels told from the mean; boxes are fused (``mtnet.detection.fusion``): one that
few views saw counts less. The cost is that of twice as many passes for each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtnet.detection.fusion import fuse
from mtnet.inference.engine import Progress
from mtnet.inference.grids import TargetMap
from mtnet.inference.inferer import MultiTaskInferer
from mtnet.inference.plan import DenseOutput, Detections, Outputs, Plan
from mtnet.inference.region import RegionResult
from mtnet.inference.runtimes import Network
from mtnet.structures import Geometry, OutputSpec

AXES = "ijk"
_BUILT_IN = ("dense", "boxes", "global")


class MirroredInferer(MultiTaskInferer):
    """A ``MultiTaskInferer`` that asks again for every combination of mirrored axes.

    Args:
        inferer: whose options are taken; it is not changed.
        axes: letters of the source's index axes, such as ``i`` (left and right of an upright image) or ``ijk``. Of
            patches around places these are the last, the last but one and the one before.

    Raises:
        ValueError: an axis is unknown or named twice.
    """

    def __init__(self, inferer: MultiTaskInferer, axes: str) -> None:
        if not axes or not set(axes) <= set(AXES) or len(set(axes)) < len(axes):
            raise ValueError(f"The axes to mirror are {axes!r}; expected some of i, j and k, such as ij.")
        self.__dict__.update(inferer.__dict__)
        self.mirror_axes = "".join(sorted(axes))

    def outputs_of(
        self,
        image: Tensor,
        network: Network,
        *,
        grid: Geometry | None = None,
        target: Geometry | None = None,
        progress: Progress | None = None,
        on_region: Callable[[RegionResult | None], None] | None = None,
        keep_probabilities: bool = False,
    ) -> tuple[Outputs, RegionResult | None]:
        """As ``MultiTaskInferer.outputs_of``; the region is that of the image as it is.

        Raises:
            ValueError: the network has an output of an outside kind, or the image is asked about without its grid.
        """
        merger = _Merger(network.outputs, self.plan, keep_probabilities or self.plan.keep_probabilities)
        views = list(self._views(image.ndim - 2, grid, target))
        looked: RegionResult | None = None
        for number, flips in enumerate(views):
            plain = self._plain()
            outputs, region = plain.outputs_of(
                image.flip([axis + 2 for axis in flips]),
                network,
                grid=None if grid is None else _mirrored_grid(grid, flips),
                target=target or grid,
                progress=None if progress is None else _part(progress, number, len(views)),
                on_region=on_region if number == 0 else None,
            )
            self._compiled = plain._compiled
            looked = region if number == 0 else looked
            merger.add(outputs, flips, image.shape[2:])
        return merger.merged(), looked

    def outputs_of_batch(
        self,
        images: Tensor,
        network: Network,
        *,
        grids: Sequence[Geometry] | None = None,
        target: Geometry | None = None,
    ) -> list[Outputs]:
        """As ``MultiTaskInferer.outputs_of_batch``; without grids only global outputs can be merged."""
        mergers = [_Merger(network.outputs, self.plan, self.plan.keep_probabilities) for _ in images]
        if grids is None and any(spec.kind != "global" for spec in network.outputs):
            raise ValueError("Mirrored answers with a place in the image are merged by its grid, and none is given.")
        for flips in self._views(images.ndim - 2, grids[0] if grids else None, target):
            plain = self._plain()
            found = plain.outputs_of_batch(
                images.flip([axis + 2 for axis in flips]),
                network,
                grids=None if grids is None else [_mirrored_grid(grid, flips) for grid in grids],
                target=target or (grids[0] if grids else None),
            )
            self._compiled = plain._compiled
            for merger, outputs in zip(mergers, found, strict=True):
                merger.add(outputs, flips, images.shape[2:])
        return [merger.merged() for merger in mergers]

    def _views(self, dims: int, grid: Geometry | None, target: Geometry | None) -> Iterator[tuple[int, ...]]:
        """The image axes to mirror, one view after the other, the image as it is first."""
        named = [AXES.index(letter) for letter in self.mirror_axes]
        if grid is None:
            along = [dims - 1 - axis for axis in named]
        else:
            axes = TargetMap.between(grid, target or grid, grid.shape[:dims]).axes
            along = [axes[axis] for axis in named if axis < dims]
        yield from chain.from_iterable(combinations(along, count) for count in range(len(along) + 1))

    def _plain(self) -> MultiTaskInferer:
        """An inferer of the same options that mirrors nothing."""
        plain = MultiTaskInferer.__new__(MultiTaskInferer)
        plain.__dict__.update({**self.__dict__, "mirror_axes": ""})
        plain.plan = replace(self.plan, keep_probabilities=True)
        return plain


class _Merger:
    """Makes the outputs of several views one."""

    def __init__(self, specs: Sequence[OutputSpec], plan: Plan, keep_probabilities: bool) -> None:
        outside = [spec.name for spec in specs if spec.kind not in _BUILT_IN]
        if outside:
            raise ValueError(f"Mirrored answers cannot be merged for {', '.join(outside)}, of a kind from outside.")
        self._specs = {spec.name: spec for spec in specs}
        self._plan = plan
        self._keep_probabilities = keep_probabilities
        self._first: Outputs | None = None
        self._count = 0
        self._dense: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
        self._global: dict[str, Tensor] = {}
        self._boxes: dict[str, list[Detections]] = {}

    def add(self, outputs: Outputs, flips: Sequence[int], size: Sequence[int]) -> None:
        """Take the outputs of the view that is mirrored along ``flips`` of an image of ``size``."""
        self._count += 1
        self._first = self._first or outputs
        for name, dense in outputs.dense.items():
            values: Any = dense.array if dense.probabilities is None else dense.probabilities
            if name in self._dense:
                self._dense[name] += values
            else:
                self._dense[name] = values.astype(np.float32)
        for name, told in outputs.global_.items():
            self._global[name] = self._global[name] + told if name in self._global else told.clone()
        for name, found in outputs.boxes.items():
            self._boxes.setdefault(name, []).append(replace(found, box_index=_mirrored_boxes(found, flips, size)))

    def merged(self) -> Outputs:
        """The outputs of all views."""
        first = self._first
        assert first is not None  # The image as it is, is always a view.
        return replace(
            first,
            dense={name: self._labelled(self._specs[name], total) for name, total in self._dense.items()},
            boxes={name: _fused(found, self._plan) for name, found in self._boxes.items()},
            global_={name: total / self._count for name, total in self._global.items()},
            windows_total=first.windows_total * self._count,
            windows_run=first.windows_run * self._count,
        )

    def _labelled(self, spec: OutputSpec, total: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> DenseOutput:
        total /= np.float32(self._count)
        if not spec.labels:
            return DenseOutput(total)
        values = np.array([label.value for label in spec.labels], dtype=np.uint8)
        best = total.max(axis=0)
        # Outside of the region every probability is 0 unless the background is a class.
        seen = best >= spec.threshold if spec.activation == "sigmoid" else best > 0
        labels = np.where(seen, values[total.argmax(axis=0)], np.uint8(spec.background))
        return DenseOutput(np.asarray(labels[None], order="F"), total if self._keep_probabilities else None)


def _fused(found: Sequence[Detections], plan: Plan) -> Detections:
    """Boxes that overlap by more than what suppression leaves in one view are one."""
    fused = fuse([d.box_index for d in found], [d.score for d in found], [d.label for d in found], plan.nms_iou)
    kept = torch.nonzero(fused.score >= plan.score_floor)[: plan.max_boxes, 0]
    lesion = {}
    for name, first in found[0].lesion.items():
        rows = []
        for place in kept.tolist():
            members = fused.members[place]
            weight = torch.stack([found[source].score[row] for source, row in members])
            told = torch.stack([found[source].lesion[name][row] for source, row in members])
            rows.append((told * weight[:, None]).sum(0) / weight.sum())
        lesion[name] = torch.stack(rows) if rows else first[:0]
    return Detections(fused.box_index[kept], fused.score[kept], fused.label[kept], lesion)


def _mirrored_boxes(found: Detections, flips: Sequence[int], size: Sequence[int]) -> Tensor:
    boxes = found.box_index.clone()
    dims = boxes.shape[1] // 2
    for axis in flips:
        if axis >= 0:
            low = size[axis] - 1 - boxes[:, dims + axis]
            boxes[:, dims + axis] = size[axis] - 1 - boxes[:, axis]
            boxes[:, axis] = low
    return boxes


def _mirrored_grid(grid: Geometry, flips: Sequence[int]) -> Geometry:
    """The grid of the image when it is mirrored, so that every voxel stays where it is in the patient."""
    affine = grid.affine_lps.copy()
    corner = np.zeros(3)
    for axis in flips:
        affine[:3, axis] *= -1
        corner[axis] = grid.shape[axis] - 1
    affine[:3, 3] = grid.index_to_lps_mm(corner)
    return Geometry(grid.shape, affine)


def _part(progress: Progress, number: int, count: int) -> Progress:
    """Progress of one view among several of the same length."""
    return lambda done, to_do: progress(number * to_do + done, count * to_do)
