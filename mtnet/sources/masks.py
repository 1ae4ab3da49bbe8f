"""Masks as the sets hold them, read in one way for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtnet.io.image2d import read_picture
from mtnet.io.image_files import load_image_file
from mtnet.sources.manifest import Numbers, Sample

Mask = NDArray[np.bool_]
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def read_mask(sample: Sample) -> Mask | None:
    """The sample's foreground, ``(i, j)`` or ``(i, j, k)``: the union of its masks.

    Returns:
        None where the masks are unknown or known to be empty (``sample.masks`` tells which): no file says a size then.

    Raises:
        FileNotFoundError: a mask is missing.
        RefusedError: a mask cannot be read.
        ValueError: masks differ in size.
    """
    return union([read_mask_file(path) for path in sample.masks], sample.id) if sample.masks else None


def union(masks: Sequence[Mask], where: str) -> Mask:
    """Where any of the masks, which have one shape, is set.

    Raises:
        ValueError: they differ in shape, or there is none.
    """
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1:
        told = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)) or "none"
        raise ValueError(f"The masks of {where} have sizes {told}; expected one size.")
    return np.asarray(np.logical_or.reduce(masks))


def read_mask_file(path: Path) -> Mask:
    """One mask file, ``(i, j)`` of a picture or ``(i, j, k)`` of a volume.

    A picture's foreground is what lies above half of the range of its type (127.5 of 8 bits): JPEG leaves values near 0
    and near the top, never on them. A lossless picture that nowhere passes half holds labels and counts above 0. Colour
    counts by its brightest channel. Pixels without any neighbour among eight are tools' traces (Kvasir-SEG has one in a
    corner of many masks) and left out. A volume's foreground is what is above 0.5.

    Raises:
        FileNotFoundError: there is no file.
        RefusedError: it cannot be read.
    """
    path = Path(path)
    if path.name.lower().endswith(_VOLUMES):
        return np.asarray(load_image_file(path).array[0] > 0.5)
    return without_single_pixels(stored_mask(path))


def stored_mask(path: Path) -> Mask:
    """The foreground ``(i, j)`` of a mask picture as its file has it, single pixels included."""
    picture = read_picture(path)
    values = picture.array.max(axis=0)
    half = 0.5 if values.dtype.kind == "f" else np.iinfo(values.dtype).max / 2
    labels = values.max() <= half and "lossy_compression" not in picture.report.codes
    return np.asarray(values > (0 if labels else half))


def without_single_pixels(mask: Mask) -> Mask:
    """The mask ``(i, j)`` without set pixels that have no set neighbour among eight."""
    framed = np.pad(mask, 1)
    beside = framed[:-2] | framed[2:]
    across = beside | framed[1:-1]
    return mask & (beside[:, 1:-1] | across[:, :-2] | across[:, 2:])


def component_boxes(mask: Mask) -> tuple[Numbers, ...]:
    """One half-open box in index space for each component (8 neighbours, 26 in 3D), in the order of their first pixel.

    Args:
        mask: ``(i, j)`` or ``(i, j, k)``.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    found = ndimage.find_objects(labels)
    return tuple((*(side.start - 0.5 for side in box), *(side.stop - 0.5 for side in box)) for box in found)
