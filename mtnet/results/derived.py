"""What every DICOM object that is derived from a study needs: its UIDs, identity and dates, and values that fit."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mtnet.results.dicom_source import DicomSource
from mtnet.structures import Code, Findings, ReportLine

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# PS3.3 demands a content date; this one stands where the source has no date at all.
_NO_DATE = "19000101"
_DATES = ("SeriesDate", "AcquisitionDate", "ContentDate")


@dataclass(frozen=True, slots=True)
class DicomOutcome:
    """What became of a DICOM object.

    Args:
        written: whether there is a file.
        reason: why there is none; empty when there is one.
        lines: what was noticed, for the report of the findings.
    """

    written: bool
    reason: str = ""
    lines: tuple[ReportLine, ...] = ()


class DerivedUids:
    """UIDs hashed from everything that an object says (PS3.5 B.2: ``2.25.`` and a UUID as a decimal number).

    Args:
        findings: answers, model and options.
        source: the objects that they are about.
        facts: what else the object says, as far as JSON can hold it.
        content: pixels or the like, as bytes or a contiguous array.
    """

    def __init__(
        self, findings: Findings, source: DicomSource, facts: Mapping[str, Any] | None = None, content: Any = b""
    ) -> None:
        from mtnet import __version__

        model = findings.model
        told = {
            "source": [source.study_uid, source.series_uid, source.objects],
            "model": [model.name, model.version, model.weights_sha256, model.training_data, model.intended_use],
            "options": sorted(findings.options.items()),
            "version": __version__,
            "lesions": [asdict(lesion) for lesion in findings.lesions],
            "labels": [[la.name, la.colour, str(la.code), str(la.region)] for la in findings.labels],
            "facts": dict(facts or {}),
        }
        self._digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=float).encode())
        self._digest.update(content)

    def of(self, purpose: str) -> str:
        """The UID for one purpose."""
        digest = self._digest.copy()
        digest.update(purpose.encode())
        return _uid(digest.digest())


def hashed_uid(text: str) -> str:
    """A UID that stands for a text."""
    return _uid(hashlib.sha256(text.encode()).digest())


def _uid(digest: bytes) -> str:
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def set_identity(derived: Any, identity: Dataset, header: Dataset) -> None:
    """Give an object its patient and study, and dates that repeat with the source.

    Args:
        derived: the object, changed in place.
        identity: from ``patient_and_study``.
        header: data set of the source.
    """
    from pydicom import config

    with config.disable_value_validation():
        for element in identity:
            derived[element.tag] = element
        date = next(
            (
                value
                for value in (str(identity.get("StudyDate") or ""), *map(header.get, _DATES))
                if value and len(str(value)) == 8 and str(value).isdigit()
            ),
            _NO_DATE,
        )
        derived.ContentDate, derived.ContentTime = str(date), str(identity.get("StudyTime") or "000000")
        # Optional, and true of one run only: the same findings have to make the same object.
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            if keyword in derived:
                delattr(derived, keyword)
        derived.SpecificCharacterSet = "ISO_IR 192"
        for item in derived.get("ContributingEquipmentSequence") or ():
            if "ContributionDateTime" in item:
                del item.ContributionDateTime


def left_out_lines(left_out: tuple[str, ...], findings: Findings) -> tuple[ReportLine, ...]:
    """The report's line on attributes of the source that no derived object takes over."""
    if not left_out:
        return ()
    text = f"The source has {', '.join(left_out)} in a form that DICOM forbids; DICOM results are written without."
    return (ReportLine("source_module_left_out", "note", text, findings.source.series_instance_uid),)


def unnamed_frame_lines(source: DicomSource, findings: Findings) -> tuple[ReportLine, ...]:
    """The report's line on a source of several frames whose class has one, so that references must not name any."""
    if source.frames == 1 or source.names_frames:
        return ()
    text = (
        f"The source holds {source.frames} frames, but its class is one of single images: DICOM references to it "
        "cannot name a frame."
    )
    return (ReportLine("frames_not_named", "note", text, findings.source.series_instance_uid),)


def blank_source(source: DicomSource) -> Dataset:
    """A data set with study and series of the source and nothing of its patient: highdicom copies what it sees."""
    from pydicom.dataset import Dataset

    blank = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(blank, keyword, "")
    blank.StudyDate = blank.StudyTime = None
    blank.SpecificCharacterSet = "ISO_IR 192"
    blank.StudyInstanceUID, blank.SeriesInstanceUID = source.study_uid, source.series_uid
    return blank


def set_lossy(derived: Dataset, source: DicomSource) -> None:
    """Say of derived pixels that they come from lossy ones (PS3.3 C.7.6.1.1.5): once lossy, always lossy."""
    if not source.lossy:
        return
    derived.LossyImageCompression = "01"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if source.header.get(keyword):
            setattr(derived, keyword, source.header.get(keyword))


def series_number(header: Dataset, base: int) -> int:
    """A number that sorts behind the source's series: ``base`` and its number, as far as that is one."""
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return base + max(0, min(number, 900))


def coded(code: Code) -> Any:
    """A code as highdicom wants it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def long_string(text: str) -> str:
    """Text that fits the value representation LO: one line, 64 characters, no backslash (PS3.5 6.2)."""
    return " ".join(text.replace("\\", "/").split())[:64] or "unknown"


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters that keeps as many digits as fit (PS3.5 6.2, DS)."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a DICOM decimal string.")
