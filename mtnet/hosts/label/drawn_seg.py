"""A label map that a person drew or corrected, as DICOM SEG: a segment a label, called by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtnet.io.atomic import atomic_path
from mtnet.io.image_files import load_image_file
from mtnet.io.scan import scan
from mtnet.io.select import select
from mtnet.results import write_dicom_seg
from mtnet.results.derived import hashed_uid
from mtnet.results.mask_boxes import mask_boxes
from mtnet.structures import Findings, Label, Lesion, ModelInfo, Source, Volume

DRAWN = ModelInfo(
    name="MONAI Label",
    version="label",
    weights_sha256="",
    training_data="",
    intended_use="A person drew this or accepted it as final.",
)


@dataclass(frozen=True, slots=True)
class DrawnSeg:
    """What was written: UIDs of series and object, and the segments' names in their order."""

    series_instance_uid: str
    sop_instance_uid: str
    segments: tuple[str, ...]


def source_of(folder: Path) -> Source:
    """The one series in a folder, headers alone.

    Raises:
        RefusedError: it holds no volume that can be read right.
    """
    studies = scan(folder)
    # Whoever drew on it chose it, so no rule has a say.
    chosen = select(studies, series_uid=next(one.series_instance_uid for study in studies for one in study.series))
    return Source(
        study_instance_uid=chosen.series.study_instance_uid,
        series_instance_uid=chosen.series.series_instance_uid,
        series=chosen.series,
        stack=chosen.stack,
    )


def write_drawn_seg(label_file: Path, source: Source, labels: Sequence[Label], path: Path) -> DrawnSeg | None:
    """Write a label map as DICOM SEG of the series that it was drawn on.

    A label's segment is called by its name whichever other labels there are, is made ``MANUAL`` (what a person accepted
    counts as theirs) and lies on the source's slices by position, whatever the axes of the file.

    Args:
        label_file: volume of label values.
        source: from ``source_of``.
        labels: by value.
        path: the file to make.

    Returns:
        What was written; None where nothing is drawn.

    Raises:
        RefusedError: the label map cannot be read.
        ValueError: it has a value that no label has, or does not meet the source's slices.
    """
    import pydicom

    drawn = load_image_file(label_file)
    values = np.rint(drawn.array[0]).astype(np.int64)
    named = {label.value: label for label in labels if label.value}
    found = [int(value) for value in np.unique(values) if value]
    unknown = [value for value in found if value not in named]
    if unknown:
        known = ", ".join(f"{value} ({label.name})" for value, label in sorted(named.items()))
        raise ValueError(f"The label map has value(s) {', '.join(map(str, unknown))}; this bundle's are {known}.")
    if not found:
        return None
    numbers = np.zeros(max(found) + 1, np.uint16)
    numbers[found] = np.arange(1, len(found) + 1)
    lesion_map = Volume(numbers[values][None], drawn.geometry, "SEG")
    findings = Findings(
        geometry=drawn.geometry,
        source=source,
        model=DRAWN,
        lesions=_lesions(lesion_map, [named[value].name for value in found], source.series_instance_uid),
        labels=tuple(named[value] for value in found),
        label_map=replace(drawn, array=values[None].astype(np.uint8), modality="SEG"),
        lesion_map=lesion_map,
    )
    with atomic_path(path) as temporary:
        outcome = write_dicom_seg(findings, temporary)
        if not outcome.written:
            raise ValueError(f"The label map makes no DICOM SEG: {outcome.reason}.")
        seg = pydicom.dcmread(temporary)
        names = tuple(findings.lesions[number - 1].label for number in outcome.segments)
        for segment, name in zip(seg.SegmentSequence, names, strict=True):
            segment.SegmentLabel = name
            segment.SegmentDescription = f"{name}, drawn or accepted by a person in MONAI Label"
            segment.TrackingID = name
            segment.SegmentAlgorithmType = "MANUAL"
            for keyword in ("SegmentAlgorithmName", "SegmentationAlgorithmIdentificationSequence"):
                if keyword in segment:
                    delattr(segment, keyword)
        seg.ContentLabel, seg.ContentDescription = "LABELS", "Drawn or accepted by a person"
        seg.SeriesDescription = "Labels of MONAI Label (research use only, not a medical device)"
        seg.save_as(temporary)
    return DrawnSeg(outcome.series_instance_uid, outcome.sop_instance_uid, names)


def _lesions(lesion_map: Volume, names: Sequence[str], series_uid: str) -> tuple[Lesion, ...]:
    geometry = lesion_map.geometry
    lesions = []
    for number, (i, j, k) in mask_boxes(lesion_map.array[0]).items():
        low = (i.start - 0.5, j.start - 0.5, k.start - 0.5)
        high = (i.stop - 0.5, j.stop - 0.5, k.stop - 0.5)
        x, y, z = (float(v) for v in geometry.index_to_lps_mm((np.array(low) + high) / 2))
        a, b, c, d, e, f = (float(v) for v in geometry.box_index_to_lps_mm((*low, *high)))
        lesions.append(
            Lesion(
                number=number,
                label=names[number - 1],
                score=1.0,
                box_index=(*low, *high),
                box_lps_mm=(a, b, c, d, e, f),
                centre_lps_mm=(x, y, z),
                tracking_uid=hashed_uid(f"{series_uid}|{names[number - 1]}|drawn"),
                mask_voxels=int(np.count_nonzero(lesion_map.array == number)),
                place_given=True,
            )
        )
    return tuple(lesions)
