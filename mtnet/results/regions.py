"""Where a lesion lies on one source image, as a polygon that a report can refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.results.dicom_source import DicomSource
from mtnet.results.mask_boxes import mask_boxes
from mtnet.results.outlines import outline
from mtnet.results.seg_frames import lesion_frames, slice_affine_lps
from mtnet.structures import Findings, Instance, Lesion

# Two float32 a point, and a value of explicit VR FL holds less than 64 KiB (PS3.5 7.1.2).
_MOST_POINTS = 8000


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A closed polygon on one image.

    Args:
        sop_class_uid, sop_instance_uid: the image.
        frame: its frame, from 1; None for a series of single frames.
        points: ``(n, 2)`` (column, row), where 0, 0 is the top left corner of the top left pixel.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    points: NDArray[np.float64]


def lesion_regions(findings: Findings, source: DicomSource) -> dict[int, Region]:
    """For each lesion whose place on an image is known, the outline of its mask where that is largest, or its box.

    A lesion without mask gets the box that its own makes on the image nearest to its centre. Lesions on slices that do
    not tell their place are left out.
    """
    if source.planar:
        return {lesion.number: _on_image(lesion, findings, source) for lesion in findings.lesions}
    stack = findings.source.stack
    instances = stack.instances if stack is not None else ()
    known = all(i.position_lps_mm and i.orientation_lps and i.pixel_spacing_mm and i.rows for i in instances)
    whole = any(i.number_of_frames > 1 and i.frame is None for i in instances)
    if whole or not instances or not known:
        return {}
    regions = {lesion.number: _box_on_slice(lesion, findings, instances) for lesion in findings.lesions}
    if findings.lesion_map is not None:
        cut = lesion_frames(findings.lesion_map.array[0], findings.geometry, instances)
        for number in cut.numbers:
            n = int(np.count_nonzero(cut.frames == number, axis=(1, 2)).argmax())
            instance = cut.instances[n]
            points = _drawable(outline(cut.frames[n] == number))
            regions[number] = _on_slice(instance, points)
    return regions


def _on_image(lesion: Lesion, findings: Findings, source: DicomSource) -> Region:
    """On the pixels of the one source object."""
    columns, rows, frames = findings.geometry.shape
    low, high = np.array(lesion.box_index[:3]), np.array(lesion.box_index[3:])
    k = int(np.clip(round(float(low[2] + high[2]) / 2), 0, frames - 1))
    points = _rectangle(low[:2] + 0.5, high[:2] + 0.5, columns, rows)
    if findings.lesion_map is not None and lesion.mask_voxels:
        lesions = findings.lesion_map.array[0]
        box = mask_boxes(lesions).get(lesion.number)
        if box is not None:
            mask = lesions[box] == lesion.number
            n = int(np.count_nonzero(mask, axis=(0, 1)).argmax())
            k = int(box[2].start) + n
            points = _drawable(outline(mask[:, :, n].T) + np.array([box[0].start, box[1].start]))
    class_uid, instance_uid = source.objects[0]
    return Region(class_uid, instance_uid, k + 1, points)


def _box_on_slice(lesion: Lesion, findings: Findings, instances: tuple[Instance, ...]) -> Region:
    """The box of a lesion on the slice that lies nearest to its centre."""
    planes = [slice_affine_lps(instance) for instance in instances]
    centre = np.array(lesion.centre_lps_mm)
    off = [abs(float((centre - plane[:3, 3]) @ plane[:3, 2])) for plane in planes]
    nearest = int(np.argmin(off))
    box = np.array(lesion.box_index).reshape(2, 3)
    corners = np.array([[box[(n >> axis) & 1, axis] for axis in range(3)] for n in range(8)])
    points = np.column_stack([findings.geometry.index_to_lps_mm(corners), np.ones(8)])
    on_plane = np.linalg.solve(planes[nearest], points.T)[:2] + 0.5
    instance = instances[nearest]
    rectangle = _rectangle(
        on_plane.min(axis=1), on_plane.max(axis=1), int(instance.columns or 0), int(instance.rows or 0)
    )
    return _on_slice(instance, rectangle)


def _on_slice(instance: Instance, points: NDArray[np.float64]) -> Region:
    frame = instance.frame if instance.number_of_frames > 1 else None
    return Region(instance.sop_class_uid, instance.sop_instance_uid, frame, points)


def _rectangle(low: NDArray[Any], high: NDArray[Any], columns: int, rows: int) -> NDArray[np.float64]:
    x0, y0 = np.clip(low, 0, [columns, rows])
    x1, y1 = np.clip(high, 0, [columns, rows])
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], dtype=np.float64)


def _drawable(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon, or the rectangle around it where it has more corners than one value holds."""
    if len(points) <= _MOST_POINTS:
        return points
    low, high = points.min(axis=0), points.max(axis=0)
    return _rectangle(low, high, int(high[0]), int(high[1]))
