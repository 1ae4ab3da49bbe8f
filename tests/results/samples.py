"""Findings made by hand on tiny or real DICOM series, without reader and without network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from mtnet.structures import (
    Code,
    Findings,
    Geometry,
    ImageClass,
    InputReport,
    Instance,
    Label,
    Lesion,
    Measured,
    ModelInfo,
    ReportLine,
    Series,
    SeriesChoice,
    Source,
    Stack,
    StageCost,
    Volume,
)

LUNG = Code("39607008", "SCT", "Lung")
LABELS = (
    Label(1, "lung", (64, 160, 255), LUNG),
    Label(2, "nodule", (255, 96, 64), Code("27925004", "SCT", "Nodule"), LUNG),
)
MODEL = ModelInfo("chest_ct_multitask", "0.1.0", "ab" * 32, "drawn data", "Apache-2.0")


def stack_of(paths: Sequence[Path]) -> Stack:
    """The stack of some single-frame files, sorted along the normal of the first."""
    instances = []
    for path in paths:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        instances.append(
            Instance(
                path=path,
                member=None,
                file_bytes=path.stat().st_size,
                sop_instance_uid=str(ds.SOPInstanceUID),
                sop_class_uid=str(ds.SOPClassUID),
                transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
                modality=ds.Modality,
                instance_number=int(ds.InstanceNumber),
                frame_of_reference_uid=str(ds.FrameOfReferenceUID),
                rows=int(ds.Rows),
                columns=int(ds.Columns),
                position_lps_mm=tuple(float(v) for v in ds.ImagePositionPatient),
                orientation_lps=tuple(float(v) for v in ds.ImageOrientationPatient),
                pixel_spacing_mm=tuple(float(v) for v in ds.PixelSpacing),
                slice_thickness_mm=float(ds.SliceThickness),
            )
        )
    normal = np.cross(instances[0].orientation_lps[:3], instances[0].orientation_lps[3:])
    instances.sort(key=lambda i: float(np.dot(normal, i.position_lps_mm)))
    first, second = instances[:2]
    step = float(np.linalg.norm(np.subtract(second.position_lps_mm, first.position_lps_mm)))
    between_rows, between_columns = first.pixel_spacing_mm
    shape = (first.columns, first.rows, len(instances))
    return Stack(tuple(instances), "volume", shape, (between_columns, between_rows, step))


def geometry_of(stack: Stack) -> Geometry:
    """The grid of a regular stack: i along rows' columns, j along rows, k from the first to the last slice."""
    first, last = stack.instances[0], stack.instances[-1]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation_lps[:3]) * first.pixel_spacing_mm[1]
    affine[:3, 1] = np.array(first.orientation_lps[3:]) * first.pixel_spacing_mm[0]
    affine[:3, 2] = np.subtract(last.position_lps_mm, first.position_lps_mm) / (len(stack.instances) - 1)
    affine[:3, 3] = first.position_lps_mm
    return Geometry(stack.shape, affine)


def ball(geometry: Geometry, centre_lps_mm: Sequence[float], radius_mm: float) -> NDArray[np.bool_]:
    """Voxels whose centres lie in a ball."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    return np.linalg.norm(geometry.index_to_lps_mm(index) - centre_lps_mm, axis=-1) <= radius_mm


def lesion_of(number: int, mask: NDArray[np.bool_], geometry: Geometry, score: float, label: str = "nodule") -> Lesion:
    """A lesion whose box and centre are those of its mask."""
    where = np.argwhere(mask)
    low, high = where.min(axis=0) - 0.5, where.max(axis=0) + 0.5
    box = (*map(float, low), *map(float, high))
    span = float(max(high[0] - low[0], high[1] - low[1]) * geometry.spacing_mm[0])
    return Lesion(
        number=number,
        label=label,
        score=score,
        box_index=box,
        box_lps_mm=tuple(map(float, geometry.box_index_to_lps_mm(box))),
        centre_lps_mm=tuple(map(float, geometry.index_to_lps_mm(where.mean(axis=0)))),
        tracking_uid=f"2.25.{1000 + number}",
        class_probabilities={"texture": {"solid": 0.75, "part-solid": 0.2, "ground-glass": 0.05}},
        measures={"network_diameter_mm": 9.123456},
        mask_voxels=int(mask.sum()),
        volume_mm3=float(mask.sum() * geometry.voxel_volume_mm3),
        longest_axial_diameter_mm=span,
        short_axial_diameter_mm=span * 0.8,
    )


def findings_on(
    geometry: Geometry,
    masks: Sequence[NDArray[np.bool_]],
    *,
    stack: Stack | None = None,
    study_uid: str = "1.2.3",
    series_uid: str = "1.2.3.4",
    options: dict[str, str] | None = None,
    reconstruction: bool = False,
) -> Findings:
    """Findings with one lesion a mask, label map, classes, report and costs."""
    lesion_map = np.zeros((1, *geometry.shape), np.uint16)
    for number, mask in enumerate(masks, start=1):
        lesion_map[0][mask] = number
    lesions = tuple(
        lesion_of(number, lesion_map[0] == number, geometry, 0.97 - 0.07 * number)
        for number in range(1, len(masks) + 1)
    )
    redrawn = np.linspace(-1000, 400, lesion_map.size, dtype=np.float32).reshape(lesion_map.shape)
    series = None
    if stack is not None:
        series = Series(series_uid, study_uid, 2, "CT", "volume", "B", "5mm", "CHEST", "maker", (stack,))
    return Findings(
        geometry=geometry,
        source=Source(
            study_uid,
            series_uid,
            "",
            (
                SeriesChoice(series_uid, True, "soft kernel B before sharp kernel L"),
                SeriesChoice("1.2.3.5", False, "sharp kernel L"),
            ),
            series,
            stack,
        ),
        model=MODEL,
        lesions=lesions,
        image_classes=(ImageClass("findings", "nodule", 0.875, 0.5), ImageClass("findings", "effusion", 0.0625, 0.5)),
        labels=LABELS,
        label_map=Volume((lesion_map > 0).astype(np.uint8) * 2, geometry),
        lesion_map=Volume(lesion_map, geometry),
        reconstruction=Volume(redrawn, geometry, "CT") if reconstruction else None,
        reconstruction_error={"mean_absolute_error_hu": 31.25},
        report=InputReport((ReportLine("shuffled_numbers", "note", "InstanceNumber does not follow place.", "a.dcm"),)),
        costs=(StageCost("read", 1.25, 123456789), StageCost("infer", 20.5, 987654321)),
        options=options if options is not None else {"window": "64x64x64", "overlap": "0.25"},
    )


def measured_at_given_places(findings: Findings) -> Findings:
    """The same lesions, as a network of points tells them."""
    lesions = tuple(
        replace(
            lesion,
            score=1.0,
            volume_mm3=None,
            longest_axial_diameter_mm=None,
            short_axial_diameter_mm=None,
            measured={"diameter_mm": Measured(8.25, "mm", 1.5), "reader_rating": Measured(2.5, "rating 1 to 5")},
            place_given=True,
            mask_drawn=True,
        )
        for lesion in findings.lesions
    )
    return replace(findings, lesions=lesions, measured={"mean_hu": Measured(-80.5, "HU")})
