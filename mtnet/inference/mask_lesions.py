"""Lesions of a 2D image whose network draws masks and no boxes: the connected parts of the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtnet.inference.decode import hashed_uid
from mtnet.inference.plane import PlaneScale, flat_sizes
from mtnet.structures import Geometry, Label, Lesion, OutputSpec, ReportLine, Volume

if TYPE_CHECKING:
    from mtnet.inference.plan import DenseOutput

SMALLEST_SHARE = 5e-4
"""Of the image's pixels (our choice): smaller parts stay in the label map and are counted, but are no lesions. In
masks of polyps, breast and skin lesions no image's largest part is near it; what is smaller is mostly stray pixels."""


def lesions_of_mask(
    dense: DenseOutput, spec: OutputSpec, *, geometry: Geometry, uid_seed: str, scale: PlaneScale
) -> tuple[tuple[Lesion, ...], Volume, tuple[ReportLine, ...]]:
    """Each connected part of each label's mask is a lesion, numbered from 1 by falling score.

    Pixels that touch by a side or a corner are connected. The score is the mean probability of the label over the
    part, for nothing else is known; a line in the report says so.

    Args:
        dense: the labelled output on the image's grid, with its probabilities.
        spec: of the output.
        geometry: of the image, one voxel along k.
        uid_seed: what identifies source, model and options; with a lesion's content it makes its tracking UID.
        scale: frame, and size of the pixels.

    Returns:
        lesions; the ``(1, i, j, 1)`` uint16 map of their numbers; report lines ``lesions_from_mask`` and
        ``specks_in_mask``.

    Raises:
        ValueError: the probabilities were not kept.
    """
    if dense.probabilities is None:
        raise ValueError(f"Output {spec.name!r} has no probabilities; ask the engine to keep them.")
    labels = dense.array[0]
    parts: list[_Part] = []
    specks = 0
    for channel, label in enumerate(spec.labels):
        if label.value == spec.background:
            continue
        found, dropped = _parts_of(labels == label.value, dense.probabilities[channel], label)
        parts, specks = parts + found, specks + dropped
    parts.sort(key=lambda part: (-part.score, part.low_index))
    parts = parts[: np.iinfo(np.uint16).max]
    lesion_map = np.zeros(geometry.shape, np.uint16)
    lesions = []
    for number, part in enumerate(parts, 1):
        i, j = part.low_index
        lesion_map[i : i + part.mask.shape[0], j : j + part.mask.shape[1], 0][part.mask] = number
        lesions.append(_lesion(number, part, geometry, uid_seed, scale))
    message = (
        "The network tells no boxes: lesions are the connected parts of its mask, their score its mean probability."
    )
    lines = [ReportLine("lesions_from_mask", "note", message, "decode")]
    if specks:
        share = f"{SMALLEST_SHARE:.2%}"
        message = f"Parts of the mask of less than {share} of the image, in the label map but no lesions: {specks}."
        lines.append(ReportLine("specks_in_mask", "note", message, "decode"))
    return tuple(lesions), Volume(lesion_map[None], geometry, "SEG"), tuple(lines)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One connected part: the smallest block ``(i, j)`` that holds it, where that lies, its label and score."""

    mask: NDArray[np.bool_]
    low_index: tuple[int, int]
    label: Label
    score: float


def _parts_of(mask: NDArray[np.bool_], probability: NDArray[np.float32], label: Label) -> tuple[list[_Part], int]:
    """The parts that are large enough, and the number of those that are not."""
    from scipy import ndimage

    numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
    found = []
    for number, block in enumerate(ndimage.find_objects(numbered), 1):
        inside = numbered[block] == number
        if np.count_nonzero(inside) < SMALLEST_SHARE * mask.size:
            continue
        score = float(probability[block][inside].mean(dtype=np.float64))
        found.append(_Part(inside, (int(block[0].start), int(block[1].start)), label, min(max(score, 0.0), 1.0)))
    return found, int(count) - len(found)


def _lesion(number: int, part: _Part, geometry: Geometry, uid_seed: str, scale: PlaneScale) -> Lesion:
    (i, j), (width, height) = part.low_index, part.mask.shape
    box = (i - 0.5, j - 0.5, -0.5, i + width - 0.5, j + height - 0.5, 0.5)
    places = np.argwhere(part.mask).mean(axis=0) + part.low_index
    x, y, z = (float(v) for v in geometry.index_to_lps_mm((*places, 0.0)))
    low_x, low_y, low_z, high_x, high_y, high_z = (float(v) for v in geometry.box_index_to_lps_mm(box))
    sizes = flat_sizes(part.mask[..., None], (i, j, 0), scale)
    content = f"{number}|{part.label.name}|{part.score:.6f}|{box}|frame {scale.frame}"
    return Lesion(
        number=number,
        label=part.label.name,
        score=part.score,
        box_index=box,
        box_lps_mm=(low_x, low_y, low_z, high_x, high_y, high_z),
        centre_lps_mm=(x, y, z),
        tracking_uid=hashed_uid(uid_seed, content),
        measures=sizes.measures,
        mask_voxels=int(np.count_nonzero(part.mask)),
        longest_axial_diameter_mm=sizes.longest_mm,
        short_axial_diameter_mm=sizes.short_mm,
        frame=scale.frame,
    )
