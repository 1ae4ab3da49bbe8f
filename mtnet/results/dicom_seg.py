"""DICOM SEG of the lesions: one segment a lesion, on the source slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtnet.io.atomic import atomic_path
from mtnet.results.derived import DerivedUids, blank_source, decimal, hashed_uid, left_out_lines
from mtnet.results.dicom_source import DicomSource, series_source
from mtnet.results.seg_frames import LesionFrames, lesion_frames
from mtnet.results.segmentation import SegKind, check_seg_kind, new_segmentation
from mtnet.results.source_modules import patient_and_study
from mtnet.structures import Findings, Instance, ReportLine

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


# What highdicom is told of the frames of one object: it takes them for slices, and many of them.
_CLASSIC_SLICE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, slots=True)
class SegOutcome:
    """What became of the DICOM SEG.

    Args:
        written: whether there is a file.
        reason: why there is none; empty when there is one.
        segments: for each segment, in order, the number of its lesion.
        lines: what was noticed, for the report of the findings.
        sop_class_uid, sop_instance_uid, series_instance_uid: of the object, for what refers to it.
        source_frames: for each segment of a SEG of one image or clip, the frames of the source that it is on, from 1.
    """

    written: bool
    reason: str = ""
    segments: tuple[int, ...] = ()
    lines: tuple[ReportLine, ...] = ()
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    source_frames: tuple[tuple[int, ...], ...] = ()


def write_dicom_seg(findings: Findings, path: Path, *, kind: SegKind = "binary") -> SegOutcome:
    """Write the lesions' masks as a DICOM SEG that refers to the source slices.

    Only frames with voxels are written, each at the position of the source slice that it lies on. Where the findings
    live on another grid than the slices (a repaired series), masks are interpolated onto the slices. Object, series and
    dimension UIDs are hashed from source UIDs, model, weights, options, version and content, and the content date is
    that of the study, so the same findings give the same bytes and others another UID. Of the source only valid
    attributes of patient and study are taken over.

    Args:
        findings: needs ``lesion_map`` and ``source.stack`` (its first file is read, headers only).
        path: the file to make; its folder must exist.
        kind: ``binary`` (PS3.3 A.51), or ``labelmap``: Label Map Segmentation, RLE lossless, segment numbers as pixel
            values.

    Returns:
        Whether a file was written, else why not; its segments; report lines (``source_module_left_out``,
        ``seg_resampled``, ``lesion_between_slices``).

    Raises:
        ValueError: the installed highdicom does not know label maps.
    """
    check_seg_kind(kind)
    reason = _why_not(findings)
    if reason or findings.source.stack is None or findings.lesion_map is None:
        return SegOutcome(False, reason)
    cut = lesion_frames(findings.lesion_map.array[0], findings.geometry, findings.source.stack.instances)
    lines = _geometry_lines(findings, cut)
    source = series_source(findings)
    if not cut.numbers or source is None:
        return SegOutcome(False, "no lesion meets a source slice", lines=lines)
    identity, left_out = patient_and_study(source.header)
    uids = DerivedUids(findings, source, {"seg": kind, "numbers": cut.numbers}, np.ascontiguousarray(cut.frames))
    values = np.zeros(int(cut.frames.max()) + 1, dtype=np.uint16)
    values[list(cut.numbers)] = np.arange(1, len(cut.numbers) + 1)
    seg = new_segmentation(
        findings,
        source,
        identity,
        uids,
        kind=kind,
        source_images=_clean_sources(
            findings, cut, source, cut.instances[0].frame_of_reference_uid or uids.of("frame of reference")
        ),
        frames=values[cut.frames],
        numbers=cut.numbers,
    )
    if source.frames > 1:
        _name_frames(seg, cut)
    with atomic_path(path) as temporary:
        seg.save_as(temporary)
    return SegOutcome(
        True,
        "",
        cut.numbers,
        (*lines, *left_out_lines(left_out, findings)),
        str(seg.SOPClassUID),
        str(seg.SOPInstanceUID),
        str(seg.SeriesInstanceUID),
    )


def _why_not(findings: Findings) -> str:
    """Why there can be no SEG of these findings, or an empty string."""
    instances = findings.source.stack.instances if findings.source.stack is not None else ()
    reasons = {
        "no lesion was found": not findings.lesions,
        "the lesions have no masks: the segmentation task did not run": findings.lesion_map is None,
        "no lesion owns mask voxels": not any(lesion.mask_voxels for lesion in findings.lesions),
        "the source is no DICOM series": not instances,
        "the source is a multi-frame object whose frames do not tell their place": any(
            i.number_of_frames > 1 and i.frame is None for i in instances
        ),
        "the source slices do not tell their place in the patient": any(
            not (i.position_lps_mm and i.orientation_lps and i.pixel_spacing_mm and i.rows and i.columns)
            for i in instances
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _placeholder(instance: Instance) -> str:
    """What a frame is called until its references are set right: highdicom wants each source by its own UID."""
    return hashed_uid(f"{instance.sop_instance_uid} frame {instance.frame}")


def _name_frames(seg: Any, cut: LesionFrames) -> None:
    """Put objects and frame numbers in the place of placeholders, and list each object once."""
    # By both names: highdicom puts one and the same item into several sequences.
    meant = {instance.sop_instance_uid: instance for instance in cut.instances}
    meant |= {_placeholder(instance): instance for instance in cut.instances}

    def set_right(item: Dataset) -> Instance:
        instance = meant[str(item.ReferencedSOPInstanceUID)]
        item.ReferencedSOPClassUID = instance.sop_class_uid
        item.ReferencedSOPInstanceUID = instance.sop_instance_uid
        return instance

    for groups in seg.PerFrameFunctionalGroupsSequence:
        for derivation in groups.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                instance = set_right(item)
                if instance.number_of_frames > 1:
                    item.ReferencedFrameNumber = instance.frame
    listed = seg.ReferencedSeriesSequence[0]
    for holder, keyword in ((seg, "SourceImageSequence"), (listed, "ReferencedInstanceSequence")):
        once = {set_right(item).sop_instance_uid: item for item in holder.get(keyword) or ()}
        if once:
            setattr(holder, keyword, list(once.values()))


def _geometry_lines(findings: Findings, cut: LesionFrames) -> tuple[ReportLine, ...]:
    lines: list[ReportLine] = []
    where = findings.source.series_instance_uid
    if cut.resampled:
        text = (
            "The findings live on a repaired grid; the masks in the DICOM SEG are interpolated onto the source slices."
        )
        lines.append(ReportLine("seg_resampled", "note", text, where))
    lost = [str(n.number) for n in findings.lesions if n.mask_voxels and n.number not in cut.numbers]
    if lost:
        text = f"Lesion {', '.join(lost)} lies between source slices and has no segment in the DICOM SEG."
        lines.append(ReportLine("lesion_between_slices", "note", text, where))
    return tuple(lines)


def _clean_sources(
    findings: Findings, cut: LesionFrames, source: DicomSource, frame_of_reference: str
) -> list[Dataset]:
    """What highdicom needs to know of the source slices, and nothing that it could take over unasked."""
    sources = []
    first, stack = cut.instances[0], findings.source.stack
    step = stack.spacing_mm[2] if stack is not None else None
    thickness = first.slice_thickness_mm or step or findings.geometry.spacing_mm[2]
    for instance in cut.instances:
        slice_ = blank_source(source)
        slice_.SOPClassUID, slice_.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
        if source.frames > 1:
            slice_.SOPClassUID, slice_.SOPInstanceUID = _CLASSIC_SLICE, _placeholder(instance)
        slice_.FrameOfReferenceUID = frame_of_reference
        slice_.Modality = instance.modality
        slice_.Rows, slice_.Columns = instance.rows, instance.columns
        slice_.ImagePositionPatient = [decimal(v) for v in instance.position_lps_mm or ()]
        # One orientation for all: slices of a stack agree up to rounding in their files.
        slice_.ImageOrientationPatient = [decimal(v) for v in first.orientation_lps or ()]
        slice_.PixelSpacing = [decimal(v) for v in first.pixel_spacing_mm or ()]
        slice_.SliceThickness = decimal(thickness)
        if step:
            slice_.SpacingBetweenSlices = decimal(step)
        sources.append(slice_)
    return sources
