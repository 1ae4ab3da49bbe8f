"""DICOM SEG of the lesions: binary, one segment a lesion, on the source slices (PS3.3 A.51)."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtnet.io.atomic import atomic_path
from mtnet.results.codes import ABNORMAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE, lesion_region, lesion_type
from mtnet.results.notice import training_notice
from mtnet.results.seg_frames import LesionFrames, lesion_frames
from mtnet.results.source_modules import patient_and_study
from mtnet.structures import Code, Findings, Instance, Lesion, ReportLine

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# PS3.3 demands a content date; this one stands where the source has no date at all.
_NO_DATE = "19000101"


@dataclass(frozen=True, slots=True)
class SegOutcome:
    """What became of the DICOM SEG.

    Args:
        written: whether there is a file.
        reason: why there is none; empty when there is one.
        segments: for each segment, in order, the number of its lesion.
        lines: what was noticed, for the report of the findings.
    """

    written: bool
    reason: str = ""
    segments: tuple[int, ...] = ()
    lines: tuple[ReportLine, ...] = ()


def write_dicom_seg(findings: Findings, path: Path) -> SegOutcome:
    """Write the lesions' masks as a DICOM SEG that refers to the source slices.

    Only frames with voxels are written, each at the position of the source slice that it lies on. Where the findings
    live on another grid than the slices (a repaired series), masks are interpolated onto the slices. Object, series and
    dimension UIDs are hashed from source UIDs, model, weights, options, version and content, and the content date is
    that of the study, so the same findings give the same bytes and others another UID. Of the source only valid
    attributes of patient and study are taken over.

    Args:
        findings: needs ``lesion_map`` and ``source.stack`` (its first file is read, headers only).
        path: the file to make; its folder must exist.

    Returns:
        Whether a file was written, else why not; its segments; report lines (``source_module_left_out``,
        ``seg_resampled``, ``lesion_between_slices``).
    """
    reason = _why_not(findings)
    if reason or findings.source.stack is None or findings.lesion_map is None:
        return SegOutcome(False, reason)
    cut = lesion_frames(findings.lesion_map.array[0], findings.geometry, findings.source.stack.instances)
    lines = _geometry_lines(findings, cut)
    if not cut.numbers:
        return SegOutcome(False, "no lesion meets a source slice", lines=lines)
    first = findings.source.stack.instances[0]
    header = _read_header(first)
    identity, left_out = patient_and_study(header)
    if left_out:
        lines += (
            ReportLine(
                "source_module_left_out",
                "note",
                f"The source has {', '.join(left_out)} in a form that DICOM forbids; the DICOM SEG is written without.",
                findings.source.series_instance_uid,
            ),
        )
    seg = _segmentation(findings, cut, header, identity)
    with atomic_path(path) as temporary:
        seg.save_as(temporary)
    return SegOutcome(True, "", cut.numbers, lines)


def _why_not(findings: Findings) -> str:
    """Why there can be no SEG of these findings, or an empty string."""
    instances = findings.source.stack.instances if findings.source.stack is not None else ()
    reasons = {
        "no lesion was found": not findings.lesions,
        "the lesions have no masks: the segmentation task did not run": findings.lesion_map is None,
        "no lesion owns mask voxels": not any(lesion.mask_voxels for lesion in findings.lesions),
        "the source is no DICOM series": not instances,
        "the source is a multi-frame object; a DICOM SEG is written for single-frame series only": any(
            instance.number_of_frames > 1 for instance in instances
        ),
        "the source slices do not tell their place in the patient": any(
            not (i.position_lps_mm and i.orientation_lps and i.pixel_spacing_mm and i.rows and i.columns)
            for i in instances
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


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


def _read_header(instance: Instance) -> Dataset:
    """Header of one source object, from its file or its entry in an archive."""
    import io
    import zipfile

    import pydicom

    if instance.member is None:
        return pydicom.dcmread(instance.path, stop_before_pixels=True, force=True)
    with zipfile.ZipFile(instance.path) as archive:
        content = io.BytesIO(archive.read(instance.member))
    return pydicom.dcmread(content, stop_before_pixels=True, force=True)


def _segmentation(findings: Findings, cut: LesionFrames, header: Dataset, identity: Dataset) -> Any:
    """The object, as highdicom makes it from clean sources, with identity, dates and UIDs that we set."""
    from highdicom.seg import Segmentation

    from mtnet import __version__

    uids = _Uids(findings, cut)
    frame_of_reference = cut.instances[0].frame_of_reference_uid or uids.of("frame of reference")
    values = np.zeros(int(cut.frames.max()) + 1, dtype=np.uint16)
    values[list(cut.numbers)] = np.arange(1, len(cut.numbers) + 1)
    with warnings.catch_warnings():
        # highdicom's remarks on its own defaults are of no use to the caller, and could quote the source.
        warnings.simplefilter("ignore")
        seg = Segmentation(
            source_images=_clean_sources(findings, cut, header, frame_of_reference),
            pixel_array=values[cut.frames],
            segmentation_type="BINARY",
            segment_descriptions=_segments(findings, cut.numbers),
            series_instance_uid=uids.of("series"),
            series_number=_series_number(header),
            sop_instance_uid=uids.of("object"),
            instance_number=1,
            manufacturer="mtnet",
            manufacturer_model_name=_long_string(f"mtnet {findings.model.name}"),
            software_versions=_long_string(__version__),
            device_serial_number=findings.model.weights_sha256[:16] or "0",
            content_label="LESIONS",
            content_description=_long_string(training_notice(findings.model)),
            omit_empty_frames=True,
            series_description=_long_string("mtnet lesions (research use only, not a medical device)"),
        )
        _set_identity(seg, identity, header)
        _set_dimension_uid(seg, uids.of("dimensions"))
    return seg


def _clean_sources(findings: Findings, cut: LesionFrames, header: Dataset, frame_of_reference: str) -> list[Dataset]:
    """What highdicom needs to know of the source slices, and nothing that it could take over unasked."""
    from pydicom.dataset import Dataset

    sources = []
    first, stack = cut.instances[0], findings.source.stack
    step = stack.spacing_mm[2] if stack is not None else None
    thickness = first.slice_thickness_mm or step or findings.geometry.spacing_mm[2]
    for instance in cut.instances:
        source = Dataset()
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(source, keyword, "")
        source.StudyDate = source.StudyTime = None
        source.SpecificCharacterSet = "ISO_IR 192"
        source.SOPClassUID, source.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
        source.StudyInstanceUID = findings.source.study_instance_uid or header.StudyInstanceUID
        source.SeriesInstanceUID = findings.source.series_instance_uid or header.SeriesInstanceUID
        source.FrameOfReferenceUID = frame_of_reference
        source.Modality = instance.modality
        source.Rows, source.Columns = instance.rows, instance.columns
        source.ImagePositionPatient = [_decimal(v) for v in instance.position_lps_mm or ()]
        # One orientation for all: slices of a stack agree up to rounding in their files.
        source.ImageOrientationPatient = [_decimal(v) for v in first.orientation_lps or ()]
        source.PixelSpacing = [_decimal(v) for v in first.pixel_spacing_mm or ()]
        source.SliceThickness = _decimal(thickness)
        if step:
            source.SpacingBetweenSlices = _decimal(step)
        if instance.lossy:
            source.LossyImageCompression = "01"
            for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if keyword in header:
                    setattr(source, keyword, header.get(keyword))
        sources.append(source)
    return sources


def _segments(findings: Findings, numbers: tuple[int, ...]) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    algorithm = AlgorithmIdentificationSequence(
        name=_long_string(findings.model.name),
        family=_code(ARTIFICIAL_INTELLIGENCE.code),
        version=_long_string(findings.model.version),
        source="mtnet",
        parameters=dict(sorted(findings.options.items())) or None,
    )
    colours = {label.name: label.colour for label in findings.labels}
    segments = []
    for segment_number, number in enumerate(numbers, start=1):
        lesion = findings.lesions[number - 1]
        region = lesion_region(lesion.label, findings.labels)
        segment = SegmentDescription(
            segment_number=segment_number,
            segment_label=f"Lesion {number}",
            segmented_property_category=_code(ABNORMAL_STRUCTURE.code),
            segmented_property_type=_code(lesion_type(lesion.label, findings.labels)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=lesion.tracking_uid,
            tracking_id=f"Lesion {number}",
            anatomic_regions=[_code(region)] if region is not None else None,
        )
        segment.SegmentDescription = _segment_text(lesion, findings)
        lab = CIELabColor(*_cielab(colours.get(lesion.label, (255, 196, 0))))
        segment.RecommendedDisplayCIELabValue = [int(v) for v in lab.value]
        segments.append(segment)
    return segments


def _segment_text(lesion: Lesion, findings: Findings) -> str:
    size = ""
    if lesion.longest_axial_diameter_mm is not None:
        size = f" Longest axial diameter {lesion.longest_axial_diameter_mm:.1f} mm."
    return f"{lesion.label}, score {lesion.score:.2f}.{size} {training_notice(findings.model)}"[:1024]


def _set_identity(seg: Any, identity: Dataset, header: Dataset) -> None:
    """Give the object its patient and study, and dates that repeat with the source."""
    from pydicom import config

    with config.disable_value_validation():
        for element in identity:
            seg[element.tag] = element
        date = next(
            (
                value
                for value in (str(identity.get("StudyDate") or ""), *map(header.get, _DATES))
                if value and len(str(value)) == 8 and str(value).isdigit()
            ),
            _NO_DATE,
        )
        time = str(identity.get("StudyTime") or "000000")
        seg.ContentDate, seg.ContentTime = str(date), time
        # Optional, and true of one run only: the same findings have to make the same object.
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            if keyword in seg:
                delattr(seg, keyword)
        seg.SpecificCharacterSet = "ISO_IR 192"
        for item in seg.get("ContributingEquipmentSequence") or ():
            if "ContributionDateTime" in item:
                del item.ContributionDateTime


_DATES = ("SeriesDate", "AcquisitionDate", "ContentDate")


def _set_dimension_uid(seg: Any, uid: str) -> None:
    """Replace the random UID that highdicom gives to the dimensions."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


class _Uids:
    """UIDs hashed from everything that the object says (PS3.5 B.2: ``2.25.`` and a UUID as a decimal number)."""

    def __init__(self, findings: Findings, cut: LesionFrames) -> None:
        from mtnet import __version__

        source, model = findings.source, findings.model
        facts = {
            "source": [
                source.study_instance_uid,
                source.series_instance_uid,
                [i.sop_instance_uid for i in cut.instances],
            ],
            "model": [model.name, model.version, model.weights_sha256, model.training_data, model.intended_use],
            "options": sorted(findings.options.items()),
            "version": __version__,
            "lesions": [
                [n, lesion.label, lesion.tracking_uid, lesion.score, lesion.longest_axial_diameter_mm]
                for n, lesion in ((n, findings.lesions[n - 1]) for n in cut.numbers)
            ],
            "labels": [[la.name, la.colour, str(la.code), str(la.region)] for la in findings.labels],
        }
        self._digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        self._digest.update(np.ascontiguousarray(cut.frames).tobytes())

    def of(self, purpose: str) -> str:
        digest = self._digest.copy()
        digest.update(purpose.encode())
        return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def _series_number(header: Dataset) -> int:
    """A number that sorts behind the source's series: 9000 + its number, as far as that is one."""
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return 9000 + max(0, min(number, 900))


def _code(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _long_string(text: str) -> str:
    """Text that fits the value representation LO: one line, 64 characters, no backslash (PS3.5 6.2)."""
    return " ".join(text.replace("\\", "/").split())[:64] or "unknown"


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters that keeps as many digits as fit (PS3.5 6.2, DS)."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a DICOM decimal string.")


def _cielab(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """CIE L*a*b* (D50, as PS3.3 C.10.7.1.1 wants it) of an sRGB colour (IEC 61966-2-1, Bradford-adapted matrix)."""
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    matrix = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    x, y, z = matrix @ linear / np.array([0.96422, 1.0, 0.82521])
    fx, fy, fz = (v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
