"""What a derived DICOM object may take over from its source: valid patient and study attributes, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Attributes of the Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2) and one of SOP
# Common (C.12.1). The first are type 2: they are written empty where the source has no valid value.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_TYPE_3 = (
    "IssuerOfPatientID",
    "PatientBirthTime",
    "EthnicGroup",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "LongitudinalTemporalInformationModified",
)
_CODES = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_REFERENCES = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
# Sequences, with the keywords that PS3.3 demands in each of their items.
_SEQUENCES = {
    "DeidentificationMethodCodeSequence": _CODES,
    "ProcedureCodeSequence": _CODES,
    "ReferencedStudySequence": _REFERENCES,
    "ReferencedPatientSequence": _REFERENCES,
}
_ENUMERATED = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "LongitudinalTemporalInformationModified": ("UNMODIFIED", "MODIFIED", "REMOVED"),
}
# A derived object that names another patient than its source is lost in the archive: these stay as they are.
_IDENTITY = ("PatientName", "PatientID")
_MULTI_VALUED = ("DeidentificationMethod", "EthnicGroup")


def patient_and_study(header: Dataset) -> tuple[Dataset, tuple[str, ...]]:
    """The attributes of patient and study that an object derived from ``header`` should carry.

    Args:
        header: data set of a source image; pixels are not needed.

    Returns:
        A data set with every type 2 attribute (empty where the source has no valid value) and the valid ones among the
        optional attributes, and the keywords of those that the source has in a form that PS3.3 or PS3.5 forbids.
        Text is Unicode: write it with SpecificCharacterSet ``ISO_IR 192``.
    """
    from pydicom import config
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    taken, left_out = Dataset(), []
    with config.disable_value_validation():
        for keyword in (*_TYPE_2, *_TYPE_3):
            try:
                value = _text(header, keyword)
            except Exception:  # pydicom raises many kinds for a value whose bytes make no sense
                left_out.append(keyword)
                value = None
            if value in (None, "", []):
                value = None
            elif keyword not in _IDENTITY and not _is_valid(keyword, value):
                left_out.append(keyword)
                value = None
            if value is not None or keyword in _TYPE_2:
                setattr(taken, keyword, value)
        for keyword, required in _SEQUENCES.items():
            items = header.get(keyword)
            if not items:
                continue
            if all(_has_valid(item, required) for item in items):
                setattr(taken, keyword, Sequence([_only(item, required) for item in items]))
            else:
                left_out.append(keyword)
        # Type 1C: an object that says that its patient's identity was removed must say how.
        if taken.get("PatientIdentityRemoved") == "YES" and not (
            "DeidentificationMethod" in taken or "DeidentificationMethodCodeSequence" in taken
        ):
            del taken.PatientIdentityRemoved
            left_out.append("PatientIdentityRemoved")
    return taken, tuple(left_out)


def _text(header: Dataset, keyword: str) -> Any:
    """The value with names as plain text, so that it can be written in another character set."""
    value = header.get(keyword)
    if isinstance(value, str):
        return value.strip()
    if type(value).__name__ == "PersonName":
        return str(value)
    if type(value).__name__ == "MultiValue":
        return [v.strip() if isinstance(v, str) else v for v in value]
    return value


def _is_valid(keyword: str, value: Any) -> bool:
    from pydicom import config
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import validate_value

    values = value if isinstance(value, list) else [value]
    if len(values) > 1 and keyword not in _MULTI_VALUED:
        return False
    for single in values:
        if keyword in _ENUMERATED and single not in _ENUMERATED[keyword]:
            return False
        if isinstance(single, str) and "\\" in single:
            return False
        try:
            validate_value(dictionary_VR(keyword), single, config.RAISE)
        except (ValueError, TypeError, AttributeError):
            return False
    return True


def _has_valid(item: Dataset, required: tuple[str, ...]) -> bool:
    values = [_text(item, keyword) for keyword in required]
    return all(
        value not in (None, "", []) and _is_valid(keyword, value)
        for keyword, value in zip(required, values, strict=True)
    )


def _only(item: Dataset, required: tuple[str, ...]) -> Dataset:
    from pydicom.dataset import Dataset

    kept = Dataset()
    for keyword in required:
        setattr(kept, keyword, _text(item, keyword))
    return kept
