"""Chests of a manifest: bags of patches as from drawn ones, and what a whole chest's answers are measured against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from mtnet.inference.region import Region
from mtnet.structures import Geometry, OutputSpec
from mtnet.systems.chest_ct import CLASSIFICATION, HU_WINDOW, RECONSTRUCTION
from mtnet.training.phantom_bags import UNKNOWN, DrawnSample, PhantomBags, kept_sample
from mtnet.training.samples import BoxesOnImaged, LoadSampled
from mtnet.training.targets import SampleTargets, boxes_of_mask

_SPECK_VOXELS = 4


class VolumeBags(PhantomBags):
    """``PhantomBags`` of volumes that lie on disk. A volume is preprocessed once and kept in ``folder``.

    Where masks are known and boxes are not, each component of the mask is a lesion. What neither tells is unknown, and
    its loss term is off. Textures are unknown.

    Args:
        data: items of ``samples_of``.
        folder: where preprocessed volumes are kept.
        preprocessing: the bundle's, without its loader.
        options: as ``PhantomBags``, without ``chests``.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        folder: str | Path,
        preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        **options: Any,
    ) -> None:
        super().__init__(folder, preprocessing, chests=len(data), **options)
        self.data = data

    def chest(self, number: int) -> DrawnSample:
        """Volume ``number`` of the data."""
        item = self.data[number]
        # A file that was prepared or drawn again under the same name has other targets.
        told = json.dumps({key: value for key, value in item.items() if key != "id"}, sort_keys=True, default=list)
        if "label" in item:
            told += str(Path(item["label"]).stat().st_mtime_ns)
        name = f"volume-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        return kept_sample(self.folder, name, lambda: prepared_volume(item, self.preprocessing))


def prepared_volume(
    item: Mapping[str, Any], preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> DrawnSample:
    """An item of ``samples_of`` loaded and taken onto the network's grid, its targets with it."""
    prepared = BoxesOnImaged()(preprocessing(LoadSampled()(item)))
    image: MetaTensor = prepared["image"]
    values = image.as_tensor()[0]
    mask, boxes = prepared.get("label"), prepared.get("boxes")
    if boxes is None and mask is not None:
        boxes = boxes_of_mask(mask, _SPECK_VOXELS)["box_index"]
    found = Region("lung_field", HU_WINDOW).of(values, Geometry.from_ras(values.shape, image.affine.cpu().numpy()))
    inside = np.full(tuple(values.shape), UNKNOWN, np.uint8) if mask is None else mask[0].numpy().astype(np.uint8)
    count = 0 if boxes is None else len(boxes)
    return DrawnSample(
        image=values.numpy().astype(np.float16),
        mask=inside,
        lung=found.mask.cpu().numpy(),
        box_index=None if boxes is None else boxes.double().numpy().reshape(-1, 6),
        texture=np.full(count, -1, np.int64),
    )


def chest_bags(
    data: Sequence[Mapping[str, Any]],
    folder: str | Path,
    preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    chests: int,
    **options: Any,
) -> PhantomBags:
    """Bags of the samples of a manifest, or of ``chests`` drawn ones where there are none."""
    if data:
        return VolumeBags(data, folder, preprocessing, **options)
    return PhantomBags(folder, preprocessing, chests=chests, **options)


class ChestTargets(SampleTargets):
    """``SampleTargets`` of whole chests: the image class is whether a mask or box marks a nodule, since a set of chests
    names no classes; the reconstruction's target is the image in HU."""

    def _target(self, spec: OutputSpec, batch: Mapping[str, Any], image: Tensor) -> Any:
        if spec.name == RECONSTRUCTION.name:
            low, high = HU_WINDOW
            return image * (high - low) + low
        if spec.name != CLASSIFICATION.name:
            return super()._target(spec, batch, image)
        rows = torch.full((len(image), len(spec.labels)), torch.nan)
        for item, row in enumerate(rows):
            boxes = self._boxes(batch, item)
            if boxes is not None:
                row[0] = float(len(boxes["label"]) > 0)
                if not len(boxes["label"]):
                    row[1] = 0.0
        return rows
