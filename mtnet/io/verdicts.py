"""The verdict table of the DICOM reader as data: what each finding means, by mode, and how it is said to a person.

A finding is reported with the severity of the default mode; ``judge`` gives the severities of another mode. Nothing
here decides whether a finding holds: ``headers``, ``stacks`` and ``scan`` do for headers, ``load`` for pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mtnet.structures.report import InputReport, ReportLine, Severity

Mode = Literal["default", "repair", "strict"]

LARGEST_REPAIRED_GAP_MM = 5.0
"""Slices further apart than this are not bridged unless repair is asked for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Severity of one code by mode, and its message, a format string."""

    default: Severity
    repair: Severity
    strict: Severity
    message: str


def _note(message: str) -> Verdict:
    return Verdict("note", "note", "note", message)


def _repaired(message: str) -> Verdict:
    return Verdict("repaired", "repaired", "refused", message)


def _repairable(message: str) -> Verdict:
    return Verdict("refused", "repaired", "refused", message)


def _refused(message: str) -> Verdict:
    return Verdict("refused", "refused", "refused", message)


VERDICTS: Mapping[str, Verdict] = {
    # Order and copies
    "identical_duplicates": _note("{count} file(s) repeat another one and are left out."),
    "repeated_object_uid": _note("{count} different files share one SOPInstanceUID (0008,0018)."),
    "shuffled_instance_numbers": _note("InstanceNumber does not follow the slices; they are ordered by position."),
    "shuffled_frames": _note("The frames do not follow one another in space; they are ordered by position."),
    "absent_instance_numbers": _note("{count} of {total} files have no InstanceNumber; they are ordered by position."),
    # Grid
    "oblique": _note("The slices are oblique: row {row}, column {column} in LPS."),
    "flipped": _note("Rows and columns run {row} and {column}, not as in a standard {plane} image."),
    "non_square_pixels": _note("Pixels are {across:.4g} mm wide and {down:.4g} mm high."),
    "overlapping_slices": _note("Slices are {thickness:.4g} mm thick at a step of {step:.4g} mm: they overlap."),
    "single_slice": Verdict(
        "note", "note", "refused", "A single slice: its spacing is taken from SliceThickness ({thickness})."
    ),
    "no_slice_spacing": _refused("A single slice without SliceThickness (0018,0050): its extent cannot be worked out."),
    "missing_slices": _repaired(
        "{missing} slice(s) are missing: steps of {step:.4g} mm, the largest gap is {gap:.4g} mm. The gaps are "
        "filled by resampling at the true positions."
    ),
    "variable_spacing": _repaired(
        "Slices are unevenly spaced, from {low:.4g} to {high:.4g} mm. They are resampled onto an even grid at the "
        "true positions."
    ),
    "missing_slices_wide_gap": _repairable(
        "{missing} slice(s) are missing: steps of {step:.4g} mm, the largest gap is {gap:.4g} mm, more than "
        "5 mm. Bring the missing files, or ask for repair."
    ),
    "variable_spacing_wide_gap": _repairable(
        "Slices are unevenly spaced, from {low:.4g} to {high:.4g} mm, with gaps of more than 5 mm. Ask for "
        "repair to resample them at the true positions."
    ),
    "gantry_tilt": _repaired(
        "The slices are sheared by {angle:.2f} degrees against the stacking direction (gantry tilt; "
        "GantryDetectorTilt says {tag}). The volume is sheared back."
    ),
    "positions_off_line": _refused(
        "Slice positions (0020,0032) leave a straight line by up to {drift:.4g} mm: not one stack."
    ),
    "different_pixels_at_one_position": _refused(
        "{count} files share {places} position(s) and their pixels differ or cannot be compared: not one volume."
    ),
    "missing_geometry": _refused("{tag} is absent or unusable in {count} file(s): the place of the pixels is unknown."),
    # Values
    "padding_values": _note("{count} pixel(s) outside the scan held padding and became air of {air} HU."),
    "rescale_varies": _note("Rescale slope or intercept changes from slice to slice; each slice gets its own."),
    "rescale_type_spelling": _note("RescaleType (0028,1054) is {value!r}, taken as HU."),
    "monochrome1": _note(
        "PhotometricInterpretation (0028,0004) is MONOCHROME1: bright and dark are swapped on display, and the values "
        "are kept, for they are physical."
    ),
    "monochrome1_values": _repairable(
        "PhotometricInterpretation (0028,0004) is MONOCHROME1 where values have no physical scale: bright and dark are "
        "swapped. Repair swaps them back within BitsStored (0028,0101), so that what shows bright is high."
    ),
    "modality_assumed": _note("The file does not say its modality; it is taken for {modality}."),
    "lossy_compression": _note("{count} file(s) were compressed with loss: values are approximate."),
    "rescale_missing": _repairable(
        "RescaleSlope (0028,1053) or RescaleIntercept (0028,1052) is absent in {count} CT file(s): values are not "
        "known to be HU. Repair takes the stored values as HU."
    ),
    "rescale_invalid": _refused("RescaleSlope (0028,1053) is 0 in {count} file(s): every value would be the same."),
    "rescale_type_not_hu": _refused("RescaleType (0028,1054) is {value!r}: the values of this CT are not HU."),
    "eight_bit_ct": _refused("{count} file(s) hold 8-bit pixels as CT: windowed grey values, not HU."),
    "seg_stored_as_ct": _refused("Modality is SEG in a CT object: a label map, not an image."),
    "parametric_map": _refused("ImageType says {value}: the pixels are a parametric map, not HU."),
    # Files
    "unreadable_file": _refused("The file cannot be read as DICOM: {reason}"),
    "truncated_pixels": _refused("The pixel data are cut short: {found} of {expected} bytes."),
    "no_pixel_data": _refused("The object has no pixel data."),
    "unreadable_pixels": _refused("The pixels cannot be decoded: {reason}"),
    "unknown_decoder": _refused("No installed decoder reads transfer syntax {syntax}. {advice}"),
    "signedness_mismatch": _refused(
        "The compressed stream and PixelRepresentation (0028,0103) disagree on signedness: HU would be wrong."
    ),
    "not_a_volume": _refused("The series is {kind}, not a volume."),
    "limit_exceeded": _refused("{what} is over the limit of {limit}. Raise the limit if the input is trusted."),
    "encrypted_entry": _refused("The archive entry is encrypted. Unpack it first."),
    "unsafe_entry": _refused("The archive entry is {what}; it is not read."),
    "unsupported_format": _refused("Not a format that is read here: {reason}"),
    "nothing_found": _refused("No readable image was found: {files} file(s) looked at."),
    # Choice of a series
    "no_series_suits": _refused("None of {count} series suits."),
    "series_passed_over": _refused("Passed over: {reason}."),
    "series_not_found": _refused("There is no series {uid}. Series UIDs here: {known}."),
    # Folders
    "stacks_split": _note("The series falls into {count} stacks that differ in {what}; they are kept apart."),
    "localizer_in_series": _note("{count} localizer image(s) stand in this series; they are kept apart."),
    "several_series": _note("{count} series lie in this study; they are told apart by UID."),
    "several_studies": _note("{count} studies lie here; they are told apart by UID."),
    "series_in_two_studies": _note("This series UID also appears in another study; the two are kept apart."),
    "foreign_files": _note("{count} file(s) are no DICOM and are passed over."),
    "dicomdir_skipped": _note("A DICOM directory holds no image; the files themselves are read."),
    "archive_not_opened": _note("An archive inside the input is not opened. Give it on its own."),
    "link_not_followed": _note("{count} link(s) or special file(s) are passed over: seen already, broken, or no file."),
}

PHYSICAL_MODALITIES = frozenset({"CT", "PT"})
"""Modalities whose rescaled values are physical (HU, activity), whatever their display (PS3.3 C.7.6.3.1.2)."""


def monochrome1_code(modality: str) -> str:
    """The code for a volume that is MONOCHROME1: values kept where they are physical, else to be swapped back."""
    return "monochrome1" if modality in PHYSICAL_MODALITIES else "monochrome1_values"


def line(code: str, where: str = "", **values: object) -> ReportLine:
    """A report line of ``code`` in default severity, its message filled with ``values``.

    Raises:
        KeyError: the code is not in the table, or a value of its message is not given.
    """
    verdict = VERDICTS[code]
    return ReportLine(code, verdict.default, verdict.message.format(**values), where)


def mode_of(*, strict: bool = False, repair: bool = False) -> Mode:
    """The mode that two switches ask for.

    Raises:
        ValueError: both are set; they contradict each other.
    """
    if strict and repair:
        raise ValueError("strict and repair are both set: strict refuses what repair mends. Set one of them.")
    return "strict" if strict else "repair" if repair else "default"


def judge(lines: Iterable[ReportLine], mode: Mode) -> InputReport:
    """The same findings with the severities of ``mode``. Codes that the table doesn't know keep theirs."""
    return InputReport(
        tuple(
            replace(item, severity=getattr(VERDICTS[item.code], mode)) if item.code in VERDICTS else item
            for item in lines
        )
    )
