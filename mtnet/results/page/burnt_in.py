"""Whether pictures of a source may show text that names the patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtnet.results.dicom_capture import burned_in
from mtnet.results.dicom_source import image_source, series_source
from mtnet.structures import Findings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ULTRASOUND = "US"
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def may_show_text(findings: Findings, image: Dataset | None = None) -> bool:
    """Whether the pixels may hold burnt-in text.

    They may in pictures and videos, which say nothing about it; in ultrasound and secondary captures, whatever they say
    (PS3.15 E.1.1 asks for the same care); and in what does not say ``NO`` otherwise, slices of CT, MR and PET aside.

    Args:
        findings: their ``source.stack`` tells of a volume from DICOM (its first header is read).
        image: data set of the one image or clip that the findings are about.
    """
    try:
        source = series_source(findings) if image is None else image_source(image, findings)
    except (ValueError, TypeError, AttributeError, LookupError, OSError):
        # A header that cannot be read promises nothing.
        return True
    if source is None:
        return findings.plane is not None
    kinds = {class_uid for class_uid, _ in source.objects}
    return (
        source.modality == _ULTRASOUND
        or any(uid == _CAPTURE or uid.startswith(f"{_CAPTURE}.") for uid in kinds)
        or burned_in(source) == "YES"
    )
