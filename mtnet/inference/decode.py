"""From merged outputs to findings: boxes and mask become lesions, global values become image classes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtnet.inference.components import OwnedMask, own_components
from mtnet.inference.measure import Measures, measure_mask
from mtnet.inference.plane import FlatSizes, PlaneScale, flat_sizes
from mtnet.structures import Geometry, ImageClass, Lesion, OutputSpec, ReportLine, Volume
from mtnet.structures.geometry import FloatArray

if TYPE_CHECKING:
    from mtnet.inference.plan import Detections

_NO_STEP = 1e-9
"""Voxels; below this a step along one grid does not move along another."""


def decode_lesions(
    detections: Detections,
    spec: OutputSpec,
    *,
    image_geometry: Geometry,
    geometry: Geometry,
    uid_seed: str,
    label_map: NDArray[np.generic] | None = None,
    lesion_values: Collection[int] | None = None,
    threshold: float | None = None,
    plane: PlaneScale | None = None,
) -> tuple[tuple[Lesion, ...], Volume | None, tuple[ReportLine, ...]]:
    """Turn the boxes of one output into lesions on the target grid, numbered from 1 by falling score.

    Boxes go from the image grid through world mm to the target grid and are cut to it. With a label map each lesion
    owns the mask components that its box claims (``own_components``); centre, volume and diameters come from them.

    Args:
        detections: what the engine gives, boxes on ``image_geometry``; 2D boxes span the one slice of their image.
        spec: the boxes output.
        image_geometry: grid that the network saw.
        geometry: grid of the answers.
        uid_seed: what identifies source, model and options; with a lesion's content it makes its tracking UID.
        label_map: ``(1, i, j, k)`` label values on ``geometry`` (``(1, i, j)`` for one slice), or None where there is
            no segmentation.
        lesion_values: label values that are lesions; None is every value but 0.
        threshold: lowest score that counts; None is the output's own.
        plane: of a 2D image, what tells the size of its pixels; lesions then carry its frame, an area in place of a
            volume, and diameters in mm or, where the size is not known, in pixels. None for a volume.

    Returns:
        lesions; the ``(1, i, j, k)`` uint16 map of lesion numbers (None without a label map); report lines
        ``mask_without_box``, ``box_without_mask`` and ``box_outside_grid``.

    Raises:
        ValueError: ``label_map`` does not lie on ``geometry``.
    """
    if label_map is not None and label_map.ndim == 3:
        label_map = label_map[..., None]
    if label_map is not None and label_map.shape != (1, *geometry.shape):
        raise ValueError(f"label_map has shape {label_map.shape}; expected {(1, *geometry.shape)}, the target grid's.")
    lines: list[ReportLine] = []
    score = detections.score.double().numpy()
    rows = np.argsort(-score, kind="stable")
    rows = rows[score[rows] >= (spec.threshold if threshold is None else threshold)]
    boxes = image_geometry.box_index_to(geometry, _boxes_3d(detections.box_index.double().numpy()[rows]))
    boxes = _cut_to_grid(boxes, geometry)
    inside = (boxes[:, :3] < boxes[:, 3:]).all(axis=1)
    if not inside.all():
        message = f"Boxes that lie outside the image, dropped: {int((~inside).sum())}."
        lines.append(ReportLine("box_outside_grid", "note", message, "decode"))
    rows, boxes = rows[inside], boxes[inside]

    measures: list[Measures | None] = [None] * len(rows)
    flat: list[FlatSizes | None] = [None] * len(rows)
    lesion_map = None
    if label_map is not None:
        owned = own_components(_lesion_mask(label_map[0], lesion_values), boxes, geometry.spacing_mm)
        measures = _measure_all(owned, geometry)
        if plane is not None:
            flat = _measure_flat(owned, plane)
        lines.extend(owned.lines)
        lesion_map = Volume(owned.lesion_map[None], geometry, "SEG")

    lesions = []
    for number, (row, box, measure, sizes) in enumerate(zip(rows.tolist(), boxes, measures, flat, strict=True), 1):
        classes, values = _lesion_channels(detections, spec, row)
        label = spec.labels[int(detections.label[row])].name
        box_lps_mm = geometry.box_index_to_lps_mm(box)
        centre = geometry.index_to_lps_mm((box[:3] + box[3:]) / 2)
        content = f"{number}|{label}|{score[row]:.6f}|{np.round(box_lps_mm, 3).tolist()}"
        if plane is not None:
            content += f"|frame {plane.frame}"
        long = measure.longest_axial_diameter_mm if measure else None
        short = measure.short_axial_diameter_mm if measure else None
        lesions.append(
            Lesion(
                number=number,
                label=label,
                score=float(score[row]),
                box_index=_six(box),
                box_lps_mm=_six(box_lps_mm),
                centre_lps_mm=measure.centroid_lps_mm if measure else _three(centre),
                tracking_uid=hashed_uid(uid_seed, content),
                class_probabilities=classes,
                measures=values if sizes is None else {**values, **sizes.measures},
                mask_voxels=measure.voxels if measure else 0,
                volume_mm3=measure.volume_mm3 if measure and plane is None else None,
                longest_axial_diameter_mm=sizes.longest_mm if sizes else long,
                short_axial_diameter_mm=sizes.short_mm if sizes else short,
                frame=None if plane is None else plane.frame,
            )
        )
    return tuple(lesions), lesion_map, tuple(lines)


def decode_global(values: ArrayLike, spec: OutputSpec) -> tuple[ImageClass, ...]:
    """Turn the merged, activated values ``(C,)`` of a global output into image classes, in label order.

    With ``sigmoid`` each class has the output's threshold; with ``softmax`` exactly the most probable one is present,
    so its probability is the threshold.

    Raises:
        ValueError: the output has no activation, or not one value a label.
    """
    probabilities = np.asarray(values, dtype=np.float64)
    if spec.activation == "none":
        raise ValueError(f"Output {spec.name!r} has no activation: its values are no probabilities of image classes.")
    if probabilities.shape != (len(spec.labels),):
        raise ValueError(
            f"Output {spec.name!r} gave values of shape {probabilities.shape} for {len(spec.labels)} labels."
        )
    threshold = float(probabilities.max()) if spec.activation == "softmax" else spec.threshold
    return tuple(
        ImageClass(spec.name, label.name, float(probability), threshold)
        for label, probability in zip(spec.labels, probabilities, strict=True)
    )


def reconstruction_error(
    image: Volume,
    reconstruction: Volume,
    *,
    region: NDArray[np.bool_] | None = None,
    region_geometry: Geometry | None = None,
    limits: tuple[float, float] | None = None,
    units: str = "HU",
) -> dict[str, float]:
    """Mean absolute error of the redrawn image over the region, under a key with its unit.

    Args:
        image: the source image, ``(C, i, j, k)``; the error is over all of its channels.
        reconstruction: on the same grid, in the same units.
        region: ``(i, j, k)`` mask where the network looked, or None for everywhere.
        region_geometry: grid of ``region``; None is that of the image. A voxel counts if it lies in a region voxel.
        limits: range that the network saw; the image is clipped to it before it is compared.
        units: of both images, for the key ``mean_absolute_error_<units>``.

    Returns:
        one key and its value; empty where the region holds no voxel of the image.

    Raises:
        ValueError: image and reconstruction differ in shape.
    """
    if image.array.shape != reconstruction.array.shape:
        raise ValueError(
            f"The reconstruction has shape {reconstruction.array.shape} and the image {image.array.shape}; "
            "an error needs both on one grid."
        )
    total, count = 0.0, 0
    for k in range(image.geometry.shape[2]):
        where = None if region is None else region_slice(region, region_geometry or image.geometry, image.geometry, k)
        for before, after in zip(image.array[..., k], reconstruction.array[..., k], strict=True):
            source = before.astype(np.float32)
            error = np.abs((source if limits is None else source.clip(*limits)) - after.astype(np.float32))
            if where is not None:
                error = error[where]
            total, count = total + float(error.sum(dtype=np.float64)), count + error.size
    return {f"mean_absolute_error_{units.lower()}": total / count} if count else {}


def region_slice(region: NDArray[np.bool_], region_geometry: Geometry, geometry: Geometry, k: int) -> NDArray[np.bool_]:
    """Slice ``k`` of the grid: for each voxel whether it lies in a voxel of the region."""
    index_map = geometry.index_map_to(region_geometry)
    i, j = np.arange(geometry.shape[0])[:, None], np.arange(geometry.shape[1])[None, :]
    inside = np.ones(geometry.shape[:2], dtype=np.bool_)
    voxel = []
    for axis, size in enumerate(region.shape):
        by_i, by_j, by_k, start = index_map[axis]
        # A step that does not move along this axis is left out: on aligned grids this is one row, not a plane.
        place = by_k * k + start + (by_i * i if abs(by_i) > _NO_STEP else 0) + (by_j * j if abs(by_j) > _NO_STEP else 0)
        nearest = np.floor(np.asarray(place) + 0.5).astype(np.int64)
        inside &= (nearest >= 0) & (nearest < size)
        voxel.append(nearest.clip(0, size - 1))
    return np.asarray(inside & region[tuple(voxel)])


def hashed_uid(*parts: str) -> str:
    """A DICOM UID under ``2.25`` (PS3.5 B.2) from the SHA-256 of ``parts``: a version-8 UUID (RFC 9562, 5.8)."""
    digest = bytearray(hashlib.sha256("\x1f".join(parts).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"


def _boxes_3d(box_index: FloatArray) -> FloatArray:
    """2D boxes get the extent of the one voxel along k; 3D boxes stay."""
    if box_index.shape[1] == 6:
        return box_index
    low, high = np.full((len(box_index), 1), -0.5), np.full((len(box_index), 1), 0.5)
    return np.concatenate([box_index[:, :2], low, box_index[:, 2:], high], axis=1)


def _cut_to_grid(box_index: FloatArray, geometry: Geometry) -> FloatArray:
    last = np.asarray(geometry.shape, dtype=np.float64) - 0.5
    return np.clip(box_index, -0.5, np.tile(last, 2))


def _lesion_mask(label_map: NDArray[np.generic], lesion_values: Collection[int] | None) -> NDArray[np.bool_]:
    if lesion_values is None:
        return np.asarray(label_map != 0)
    # One comparison a value: np.isin would take a temporary of eight bytes a voxel.
    mask = np.zeros(label_map.shape, dtype=np.bool_)
    for value in lesion_values:
        mask |= label_map == value
    return mask


def _measure_all(owned: OwnedMask, geometry: Geometry) -> list[Measures | None]:
    """Measure what each box owns, inside its own block."""
    measures: list[Measures | None] = []
    for number, crop in enumerate(owned.crops, 1):
        if crop is None:
            measures.append(None)
        else:
            offset = (crop[0].start, crop[1].start, crop[2].start)
            measures.append(measure_mask(owned.lesion_map[crop] == number, offset, geometry))
    return measures


def _measure_flat(owned: OwnedMask, plane: PlaneScale) -> list[FlatSizes | None]:
    """The same on a 2D image, in the unit of its pixels."""
    sizes: list[FlatSizes | None] = []
    for number, crop in enumerate(owned.crops, 1):
        mask = None if crop is None else owned.lesion_map[crop] == number
        offset = (0, 0, 0) if crop is None else (crop[0].start, crop[1].start, crop[2].start)
        sizes.append(None if mask is None else flat_sizes(mask, offset, plane))
    return sizes


def _lesion_channels(
    detections: Detections, spec: OutputSpec, row: int
) -> tuple[Mapping[str, Mapping[str, float]], Mapping[str, float]]:
    """Class probabilities and measured values of one candidate."""
    classes: dict[str, Mapping[str, float]] = {}
    values: dict[str, float] = {}
    for channel in spec.lesion_channels:
        numbers = [float(number) for number in detections.lesion[channel.name][row]]
        if channel.labels:
            classes[channel.name] = {label.name: number for label, number in zip(channel.labels, numbers, strict=True)}
        else:
            values[f"{channel.name}_{channel.units.lower()}" if channel.units else channel.name] = numbers[0]
    return classes, values


def _six(values: FloatArray) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = (float(value) for value in values)
    return a, b, c, d, e, f


def _three(values: FloatArray) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c
