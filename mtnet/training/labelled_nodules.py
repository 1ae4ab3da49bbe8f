"""A nodule that an annotator drew in a host, as what a network of points learns from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Transform

from mtnet.io.image_files import load_image_file
from mtnet.training.samples import CLASS


class NoduleOfLabel(Transform):  # type: ignore[misc]  # MONAI is not typed
    """From the label map of an item to its place, diameter and class; an item without one stays as it is.

    The place is the drawing's centroid, the diameter that of a ball of its volume, the class the one of the value that
    most of its voxels have: 1 is the first class, as in the label map that hosts are shown.

    Args:
        classes: their names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of the item with ``at_lps_mm``, ``diameter_mm`` and ``class`` in place of ``label``.

        Raises:
            RefusedError: the label map cannot be read.
            ValueError: it is empty, or has a value that is no class.
        """
        item = dict(data)
        if "label" not in item:
            return item
        file = Path(item.pop("label"))
        volume = load_image_file(file)
        values = np.rint(volume.array[0]).astype(np.int64)
        drawn = np.argwhere(values != 0)
        counts = np.bincount(values[values > 0], minlength=2)
        number = int(counts.argmax())
        if not len(drawn) or not 1 <= number <= len(self.classes) or values.min() < 0:
            expected = " or ".join(f"{n} ({name})" for n, name in enumerate(self.classes, 1))
            raise ValueError(
                f"The label map {file.name} has values {np.unique(values)[:10].tolist()}; expected a nodule drawn with "
                f"value {expected}."
            )
        place = volume.geometry.index_to_lps_mm(drawn.mean(0))
        item["at_lps_mm"] = tuple(float(value) for value in place)
        item["diameter_mm"] = (6 * len(drawn) * volume.geometry.voxel_volume_mm3 / pi) ** (1 / 3)
        item[CLASS] = self.classes[number - 1]
        return item
