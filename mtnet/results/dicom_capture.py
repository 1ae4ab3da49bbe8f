"""DICOM Secondary Capture of result pictures, for viewers that show neither SEG nor SR (PS3.3 A.8)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.results.codes import SOURCE_IMAGE
from mtnet.results.derived import (
    DerivedUids,
    DicomOutcome,
    coded,
    left_out_lines,
    long_string,
    series_number,
    set_identity,
    set_lossy,
)
from mtnet.results.dicom_source import DicomSource, image_source, series_source
from mtnet.results.notice import full_notice
from mtnet.results.source_modules import patient_and_study
from mtnet.structures import Findings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MULTI_FRAME_TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
# Slices that a scanner computes; text is never in their pixels unless they say that they are secondary.
_COMPUTED_SLICES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.128.1",
    "1.2.840.10008.5.1.4.1.1.130",
}


def write_dicom_capture(
    findings: Findings, pictures: NDArray[np.uint8], path: Path, *, image: Dataset | None = None
) -> DicomOutcome:
    """Write pictures of the findings into the study: one as Secondary Capture, several as Multi-frame True Colour.

    ``BurnedInAnnotation`` is what ``burned_in`` says of the source: the pictures show its pixels, and write UIDs, no
    names or dates, themselves. UIDs are hashed from the findings, their source and the pictures.

    Args:
        findings: needs ``source.stack`` (its first file is read, headers only) unless ``image`` is given.
        pictures: ``(n, rows, columns, 3)`` red, green, blue.
        path: the file to make; its folder must exist.
        image: data set of the one image or clip that the findings are about.

    Raises:
        ValueError: the pictures are no 8-bit colour pictures, or ``image`` has another size than the findings.
    """
    if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8 or not pictures.size:
        raise ValueError(
            f"The pictures are {pictures.dtype} of shape {pictures.shape}; expected uint8 (n, rows, columns, 3)."
        )
    source = series_source(findings) if image is None else image_source(image, findings)
    if source is None:
        return DicomOutcome(False, "the source is no DICOM series")
    identity, left_out = patient_and_study(source.header)
    capture = _capture(findings, source, np.ascontiguousarray(pictures))
    set_identity(capture, identity, source.header)
    with atomic_path(path) as temporary:
        capture.save_as(temporary)
    return DicomOutcome(True, "", left_out_lines(left_out, findings))


def burned_in(source: DicomSource) -> str:
    """``YES`` where pixels of the source may hold text that tells the patient, ``NO`` where they are known not to.

    Known are sources that say ``NO``, and slices of CT, MR and PET that are silent about it and not secondary.
    """
    told = str(source.header.get("BurnedInAnnotation") or "").strip().upper()
    if told in ("YES", "NO"):
        return told
    kinds = {class_uid for class_uid, _ in source.objects}
    image_type = source.header.get("ImageType") or ()
    secondary = "SECONDARY" in ([image_type] if isinstance(image_type, str) else [str(v) for v in image_type])
    return "NO" if kinds <= _COMPUTED_SLICES and not secondary else "YES"


def _capture(findings: Findings, source: DicomSource, pictures: NDArray[np.uint8]) -> Any:
    from highdicom.base import SOPClass

    from mtnet import __version__

    count, rows, columns, _ = pictures.shape
    uids = DerivedUids(findings, source, {"pictures": pictures.shape, "burned in": burned_in(source)}, pictures)
    capture = SOPClass(
        study_instance_uid=source.study_uid,
        series_instance_uid=uids.of("capture series"),
        series_number=series_number(source.header, 11000),
        sop_instance_uid=uids.of("capture"),
        sop_class_uid=_SECONDARY_CAPTURE if count == 1 else _MULTI_FRAME_TRUE_COLOUR,
        instance_number=1,
        modality="OT",
        manufacturer="mtnet",
        manufacturer_model_name=long_string(f"mtnet {findings.model.name}"),
        software_versions=long_string(__version__),
        device_serial_number=findings.model.weights_sha256[:16] or "0",
        series_description=long_string("mtnet pictures (research use only, not a medical device)"),
        transfer_syntax_uid=_EXPLICIT_LITTLE_ENDIAN,
    )
    capture.ConversionType, capture.SecondaryCaptureDeviceManufacturer = "WSD", "mtnet"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    # Type 2C each: a page of pictures has neither.
    capture.PatientOrientation = capture.Laterality = ""
    capture.BurnedInAnnotation = burned_in(source)
    capture.DerivationDescription = (
        f"Findings of {findings.model.name} {findings.model.version} drawn on the source images. "
        f"{full_notice(findings.model)}"
    )[:1024]
    capture.SourceImageSequence = [_reference(class_uid, uid) for class_uid, uid in source.objects]
    capture.ReferencedSeriesSequence = [_series_reference(source)]
    set_lossy(capture, source)
    capture.SamplesPerPixel, capture.PhotometricInterpretation, capture.PlanarConfiguration = 3, "RGB", 0
    capture.Rows, capture.Columns = rows, columns
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit, capture.PixelRepresentation = 7, 0
    if count > 1:
        capture.NumberOfFrames = count
        capture.FrameIncrementPointer = 0x00182001
        capture.PageNumberVector = list(range(1, count + 1))
    content = pictures.tobytes()
    capture.PixelData = content + b"\0" * (len(content) % 2)
    return capture


def _reference(class_uid: str, uid: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, uid
    item.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE.code)]
    return item


def _series_reference(source: DicomSource) -> Any:
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    instances = []
    for class_uid, uid in source.objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, uid
        instances.append(item)
    series.ReferencedInstanceSequence = instances
    return series
