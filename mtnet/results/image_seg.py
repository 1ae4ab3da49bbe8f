"""DICOM SEG of lesions on one image or clip, whose pixels have no place in the patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.results.codes import SEGMENTATION, SOURCE_IMAGE
from mtnet.results.derived import DerivedUids, blank_source, coded, left_out_lines, unnamed_frame_lines
from mtnet.results.dicom_seg import SegOutcome
from mtnet.results.dicom_source import DicomSource, image_source
from mtnet.results.segmentation import SegKind, check_seg_kind, new_segmentation, set_label_map
from mtnet.results.source_modules import patient_and_study
from mtnet.structures import Findings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Frame Content: Dimension Index Values, Temporal Position Index, the sequence; Segment Identification.
_TEMPORAL_POSITION, _FRAME_CONTENT = 0x00209128, 0x00209111
_SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION = 0x0062000B, 0x0062000A


def write_image_seg(findings: Findings, image: Dataset, path: Path, *, kind: SegKind = "binary") -> SegOutcome:
    """Write the lesions' masks on the pixels of an ultrasound, endoscopy, radiograph or captured image, or a clip.

    A frame of the SEG shows one frame of the source, whose number is its temporal position; there is no frame of
    reference. UIDs, dates and attributes of the patient are as in ``write_dicom_seg``.

    Args:
        findings: on the grid (columns, rows, frames) of the image, with ``lesion_map``.
        image: data set of the source; pixels are not needed.
        path: the file to make; its folder must exist.
        kind: as in ``write_dicom_seg``.

    Raises:
        ValueError: the image has another size than the findings or lacks what identifies it, or the installed highdicom
            does not know label maps.
    """
    check_seg_kind(kind)
    source = image_source(image, findings)
    if not findings.lesions:
        return SegOutcome(False, "no lesion was found")
    if findings.lesion_map is None:
        return SegOutcome(False, "the lesions have no masks: the segmentation task did not run")
    lesions = findings.lesion_map.array[0].transpose(2, 1, 0)
    numbers = tuple(int(n) for n in np.unique(lesions) if n)
    if not numbers:
        return SegOutcome(False, "no lesion owns mask voxels")
    identity, left_out = patient_and_study(source.header)
    values = np.zeros(int(lesions.max()) + 1, dtype=np.uint16)
    values[list(numbers)] = np.arange(1, len(numbers) + 1)
    frames = values[lesions]
    uids = DerivedUids(findings, source, {"seg": kind, "numbers": numbers}, np.ascontiguousarray(frames))
    # highdicom writes one frame only where there is no frame of reference; the frames of a clip are set after it.
    seg = new_segmentation(
        findings,
        source,
        identity,
        uids,
        kind=kind,
        source_images=[_clean_source(source)],
        frames=np.full((1, *frames.shape[1:]), 1, np.uint16),
        numbers=numbers,
    )
    shown = _shown(frames, len(numbers), kind)
    _set_frames(seg, source, shown, frames, kind)
    with atomic_path(path) as temporary:
        seg.save_as(temporary)
    return SegOutcome(
        True,
        "",
        numbers,
        (*left_out_lines(left_out, findings), *unnamed_frame_lines(source, findings)),
        str(seg.SOPClassUID),
        str(seg.SOPInstanceUID),
        str(seg.SeriesInstanceUID),
        tuple(
            tuple((np.flatnonzero((frames == segment).any(axis=(1, 2))) + 1).tolist())
            for segment in range(1, len(numbers) + 1)
        ),
    )


def _clean_source(source: DicomSource) -> Dataset:
    """A single image for highdicom: of a class that it knows, and without place in the patient."""
    clean = blank_source(source)
    clean.SOPClassUID, clean.SOPInstanceUID = _SECONDARY_CAPTURE, source.objects[0][1]
    clean.Modality, clean.Rows, clean.Columns = source.modality, source.header.Rows, source.header.Columns
    return clean


def _shown(frames: NDArray[np.uint16], segments: int, kind: SegKind) -> list[tuple[int, int]]:
    """The frames of the SEG as (segment, source frame from 0); a label map has one for all segments, called 0."""
    if kind == "labelmap":
        return [(0, k) for k in np.flatnonzero(frames.any(axis=(1, 2))).tolist()]
    return [
        (segment, k)
        for segment in range(1, segments + 1)
        for k in np.flatnonzero((frames == segment).any(axis=(1, 2))).tolist()
    ]


def _set_frames(
    seg: Any, source: DicomSource, shown: list[tuple[int, int]], frames: NDArray[np.uint16], kind: SegKind
) -> None:
    """Put the true frames, their groups and references in the place of the one that highdicom made."""
    from pydicom.dataset import Dataset

    class_uid, instance_uid = source.objects[0]
    for sequence in (seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence, seg.get("SourceImageSequence") or ()):
        for item in sequence:
            item.ReferencedSOPClassUID = class_uid
    organization = seg.DimensionOrganizationSequence[0].DimensionOrganizationUID
    pointers = [(_TEMPORAL_POSITION, _FRAME_CONTENT, "Frame")]
    if kind == "binary":
        pointers.insert(0, (_SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION, "Segment"))
    dimensions = []
    for pointer, group, label in pointers:
        item = Dataset()
        item.DimensionOrganizationUID = organization
        item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, group
        item.DimensionDescriptionLabel = label
        dimensions.append(item)
    seg.DimensionIndexSequence = dimensions
    seg.PerFrameFunctionalGroupsSequence = [
        _groups(source, segment, k, class_uid, instance_uid) for segment, k in shown
    ]
    shared = seg.SharedFunctionalGroupsSequence[0]
    for keyword in ("SegmentIdentificationSequence", "DerivationImageSequence"):
        if keyword in shared:
            delattr(shared, keyword)
    # Type 2C where no orientation in the patient is known.
    seg.PatientOrientation = ""
    seg.NumberOfFrames = len(shown)
    if kind == "binary":
        seg.PixelData = _packed(np.stack([frames[k] == segment for segment, k in shown]))
        return
    set_label_map(seg, np.stack([frames[k] for _, k in shown]))


def _groups(source: DicomSource, segment: int, k: int, class_uid: str, instance_uid: str) -> Dataset:
    """The functional groups of one frame."""
    from pydicom.dataset import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, instance_uid
    if source.names_frames:
        reference.ReferencedFrameNumber = k + 1
    reference.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE.code)]
    reference.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.DerivationCodeSequence = [coded(SEGMENTATION.code)]
    derivation.SourceImageSequence = [reference]
    content = Dataset()
    content.TemporalPositionIndex = k + 1
    content.DimensionIndexValues = [segment, k + 1] if segment else [k + 1]
    groups = Dataset()
    groups.FrameContentSequence, groups.DerivationImageSequence = [content], [derivation]
    if segment:
        identification = Dataset()
        identification.ReferencedSegmentNumber = segment
        groups.SegmentIdentificationSequence = [identification]
    return groups


def _packed(masks: NDArray[np.bool_]) -> bytes:
    """Bits without gaps between frames, the first in the lowest bit (PS3.5 8.1.1), of even length."""
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    return packed + b"\0" * (len(packed) % 2)
