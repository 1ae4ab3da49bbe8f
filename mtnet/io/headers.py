"""One DICOM file's header, read as far as its pixels and no further."""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, cast

from mtnet.io.elements import Value, read_elements
from mtnet.io.files import FileEntry, Opener
from mtnet.io.kinds import ENHANCED_CLASSES
from mtnet.io.limits import Limits
from mtnet.io.multiframe import FRAME_TAGS, frame_datasets
from mtnet.io.tags import (
    Tags,
    UnusableError,
    count_of,
    hint_of,
    integer_of,
    length_of,
    number_of,
    orientation_of,
    padding_of,
    pixel_spacing_of,
    position_of,
    text_of,
)
from mtnet.io.verdicts import line
from mtnet.structures.report import ReportLine
from mtnet.structures.study import Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")
"""File names that claim to be DICOM: a reading failure is then worth a line of its own."""

_NO_AGENT = frozenset({"", "NONE", "NO", "N", "WITHOUT", "NATIVE", "NO CONTRAST", "NON-CONTRAST", "W/O"})
"""What people and scanners write into ContrastBolusAgent where none was given."""

_CLASS, _META_CLASS = "SOPClassUID", "MediaStorageSOPClassUID"
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    }
)
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_NATIVE_SYNTAXES = frozenset({_IMPLICIT, _EXPLICIT, _EXPLICIT_BIG_ENDIAN})
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")

_VARIANT_TAGS = (
    "AcquisitionNumber", "ConvolutionKernel", "ImageType", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "TemporalPositionTimeOffset", "NominalPercentageOfCardiacPhase", "EchoTime", "EffectiveEchoTime", "DiffusionBValue",
    "DiffusionGradientOrientation", "ComplexImageComponent", "StackID", "InversionTime", "InversionTimes", "FlipAngle",
    "KVP", "SliceThickness",
)  # fmt: skip
"""Tags that tell apart images at one position, the likelier ones first."""

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "Manufacturer", "SeriesDescription", "BodyPartExamined", "SeriesNumber", "InstanceNumber", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "LossyImageCompression", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "GantryDetectorTilt", "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "ContrastBolusAgent", "PatientPosition", "ConcatenationUID",
    "ConcatenationFrameOffsetNumber", *_VARIANT_TAGS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """An instance and what its header says beyond it.

    ``variants`` are the tags that tell apart images at one position, by keyword, as text; only those that are there.
    ``object_key`` is shared by the frames of one multi-frame object or concatenation (PS3.3 C.7.6.16.2.2.4), empty for
    single-frame objects. ``pixel_offset`` is where the value of the pixel data starts in the file, ``None`` where that
    is not known (deflated) or there is none (``has_pixels``). ``problems`` are findings about this file alone.
    ``frames`` has a header for each frame of an object that keeps its geometry in functional groups.
    """

    instance: Instance
    study_instance_uid: str
    series_instance_uid: str
    series_number: int | None
    kernel: str
    description: str
    body_part: str
    manufacturer: str
    variants: Mapping[str, str]
    has_pixels: bool
    pixel_offset: int | None
    problems: tuple[ReportLine, ...] = ()
    object_key: str = ""
    frames: tuple[Header, ...] = ()


def read_header(entry: FileEntry, opener: Opener, limits: Limits) -> Header | ReportLine | None:
    """Read one file's header.

    A file without the DICOM preamble is taken for DICOM only where its first element is one of group 0002 or 0008 in a
    plausible encoding (PS3.10 7.1 asks for the preamble; old exports lack it) and its UIDs are there.

    Returns:
        the header; a report line where the file is DICOM and cannot be used; ``None`` for a foreign file.
    """
    try:
        with opener.open(entry.path, entry.member) as stream:
            start = stream.read(132)
            marked = start[128:] == b"DICM"
            if marked or _looks_like_dataset(start):
                stream.seek(0)
                too_large = _too_large(stream, entry, limits)
                return too_large or _parse(stream, entry, limits, marked=marked)
            if entry.suffixes not in DICOM_SUFFIXES:
                return None
            reason = "it does not start as DICOM does."
    except UnusableError as error:
        reason = str(error)
    except Exception as error:
        # Fed with any bytes, the parser may raise anything: the file is then unreadable, and the scan goes on.
        opened = not isinstance(error, (OSError, zipfile.BadZipFile))
        reason = f"it cannot be {'parsed' if opened else 'opened'} ({type(error).__name__})."
    return line("unreadable_file", entry.where, reason=reason)


def _looks_like_dataset(start: bytes) -> bool:
    """Whether bytes start as a data set of group 0002 or 0008 does, in one of the three uncompressed encodings."""
    if len(start) < 16:
        return False
    group, element = struct.unpack("<HH", start[:4])
    if group in (0x0002, 0x0008) and element <= 0x0100:
        (length,) = struct.unpack("<I", start[4:8])
        return (start[4:6].isalpha() and start[4:6].isupper()) or length <= 128
    group, element = struct.unpack(">HH", start[:4])
    return group == 0x0008 and element <= 0x0100 and start[4:6].isalpha() and start[4:6].isupper()


def _parse(stream: IO[bytes], entry: FileEntry, limits: Limits, *, marked: bool) -> Header | ReportLine | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = read_elements(stream, _TAGS, FRAME_TAGS) if marked else None
        if plain is not None and plain.get("SOPClassUID") in ENHANCED_CLASSES:
            stream.seek(0)
            plain = None
        dataset, syntax, sop_class = _with_pydicom(stream) if plain is None else _from_plain(plain)
        if sop_class == _DICOMDIR_CLASS:
            return line("dicomdir_skipped", entry.where)
        uids = [text_of(dataset, tag) for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        if not (sop_class and all(uids)):
            if marked:
                raise UnusableError("study, series or object UID is absent.")
            return None
        instance = _instance(dataset, entry, sop_class, uids[2], syntax)
        if instance.number_of_frames > limits.frames:
            return line("limit_exceeded", entry.where, what="The number of frames", limit=limits.frames)
        pixels = _pixels(stream, dataset, instance)
        header = Header(
            instance=replace(instance, native_offset=pixels.native_offset),
            study_instance_uid=uids[0],
            series_instance_uid=uids[1],
            series_number=count_of(dataset, "SeriesNumber"),
            kernel=text_of(dataset, "ConvolutionKernel"),
            description=text_of(dataset, "SeriesDescription"),
            body_part=text_of(dataset, "BodyPartExamined"),
            manufacturer=text_of(dataset, "Manufacturer"),
            variants=_variants(dataset),
            has_pixels=pixels.present,
            pixel_offset=pixels.offset,
            problems=pixels.problems,
        )
        return _with_frames(header, dataset) if sop_class in ENHANCED_CLASSES else header


def _from_plain(plain: dict[str, Value]) -> tuple[Tags, str, str]:
    """The tags, the transfer syntax and the SOP class."""
    return plain, text_of(plain, "TransferSyntaxUID"), text_of(plain, _CLASS) or text_of(plain, _META_CLASS)


def _with_pydicom(stream: IO[bytes]) -> tuple[Tags, str, str]:
    import pydicom

    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=[*_TAGS, *FRAME_TAGS])
    meta = getattr(dataset, "file_meta", None) or {}
    syntax = str(meta.get("TransferSyntaxUID", "") or "") or _encoding(dataset)
    return dataset, syntax, str(dataset.get(_CLASS, "") or meta.get(_META_CLASS, "") or "")


def _with_frames(header: Header, dataset: Tags) -> Header:
    """The header of an enhanced object with one of its own for each frame, read as a file's header is."""
    whole = header.instance
    concatenation = text_of(dataset, "ConcatenationUID")
    key = concatenation or (whole.sop_instance_uid if whole.number_of_frames > 1 else "")
    before = count_of(dataset, "ConcatenationFrameOffsetNumber") or 0
    frames = []
    for number, item in enumerate(frame_datasets(cast("Dataset", dataset), whole.number_of_frames), start=1):
        count = before + number if key else whole.instance_number
        instance = replace(_placed(whole, item), frame=number, instance_number=count)
        frames.append(
            replace(
                header,
                instance=instance,
                kernel=text_of(item, "ConvolutionKernel"),
                variants=_variants(item),
                object_key=key,
            )
        )
    return replace(header, kernel=frames[0].kernel, frames=tuple(frames))


def _variants(dataset: Tags) -> dict[str, str]:
    return {tag: text for tag in _VARIANT_TAGS if tag in dataset and (text := text_of(dataset, tag))}


def _too_large(stream: IO[bytes], entry: FileEntry, limits: Limits) -> ReportLine | None:
    """A line where reading the header alone could take too much memory, else ``None``."""
    if entry.size > limits.file_bytes:
        return line("limit_exceeded", entry.where, what="The file's size", limit=limits.file_bytes)
    if not _inflates_within(stream, limits.header_bytes):
        return line("limit_exceeded", entry.where, what="The inflated size", limit=limits.header_bytes)
    return None


def _inflates_within(stream: IO[bytes], limit: int) -> bool:
    """Whether a data set in deflated transfer syntax unpacks to at most ``limit`` bytes; true for every other one.

    pydicom unpacks it whole to read even the first tag. The packed part starts after the file meta group, whose length
    its first element tells (PS3.10 7.1). Nothing is kept; the stream is rewound.
    """
    start = stream.read(144)
    meta = stream.read(min(int.from_bytes(start[140:144], "little"), 1 << 16)) if start[128:132] == b"DICM" else b""
    within = True
    if _DEFLATED.encode() in meta:
        engine, room = zlib.decompressobj(-zlib.MAX_WBITS), limit
        # Past its end the engine keeps handing back the same tail (a padding byte is enough): eof ends the loop.
        while within and not engine.eof and (pending := stream.read(1 << 16)):
            while within and pending and not engine.eof:
                room -= len(engine.decompress(pending, 1 << 20))
                pending = engine.unconsumed_tail
                within = room >= 0
    stream.seek(0)
    return within


def _encoding(dataset: Dataset) -> str:
    """The transfer syntax that a data set without file meta was found to be in; such files are never compressed."""
    # pydicom 3 and 2.4 name it differently.
    encoding = getattr(dataset, "original_encoding", None)
    implicit, little = encoding or (dataset.read_implicit_vr, dataset.read_little_endian)
    return _IMPLICIT if implicit else _EXPLICIT if little else _EXPLICIT_BIG_ENDIAN


def _instance(dataset: Tags, entry: FileEntry, sop_class: str, sop_uid: str, syntax: str) -> Instance:
    signed = integer_of(dataset, "PixelRepresentation")
    bits = integer_of(dataset, "BitsAllocated")
    instance = Instance(
        path=entry.path,
        member=entry.member,
        file_bytes=entry.size,
        sop_instance_uid=sop_uid,
        sop_class_uid=sop_class,
        transfer_syntax_uid=syntax,
        modality=text_of(dataset, "Modality"),
        instance_number=count_of(dataset, "InstanceNumber"),
        frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID") or None,
        rows=integer_of(dataset, "Rows") or None,
        columns=integer_of(dataset, "Columns") or None,
        number_of_frames=max(integer_of(dataset, "NumberOfFrames") or 1, 1),
        samples_per_pixel=integer_of(dataset, "SamplesPerPixel") or 1,
        photometric=text_of(dataset, "PhotometricInterpretation"),
        bits_allocated=bits,
        bits_stored=integer_of(dataset, "BitsStored"),
        pixel_representation=signed,
        contrast_agent=text_of(dataset, "ContrastBolusAgent").upper() not in _NO_AGENT,
        patient_position=text_of(dataset, "PatientPosition"),
        lossy=text_of(dataset, "LossyImageCompression") == "01" or syntax in _LOSSY_SYNTAXES,
        padding_value=padding_of(integer_of(dataset, "PixelPaddingValue"), signed, bits),
        padding_limit=padding_of(integer_of(dataset, "PixelPaddingRangeLimit"), signed, bits),
    )
    return _placed(instance, dataset)


def _placed(instance: Instance, dataset: Tags) -> Instance:
    """The instance with what can change from frame to frame taken from ``dataset``."""
    return replace(
        instance,
        image_type=tuple(part.strip().upper() for part in text_of(dataset, "ImageType").split("\\") if part.strip()),
        acquisition_number=count_of(dataset, "AcquisitionNumber"),
        position_lps_mm=position_of(dataset),
        orientation_lps=orientation_of(dataset),
        pixel_spacing_mm=pixel_spacing_of(dataset),
        slice_thickness_mm=length_of(dataset, "SliceThickness"),
        gantry_tilt_deg=hint_of(dataset, "GantryDetectorTilt"),
        rescale_slope=number_of(dataset, "RescaleSlope"),
        rescale_intercept=number_of(dataset, "RescaleIntercept"),
        rescale_type=text_of(dataset, "RescaleType") or None,
    )


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Whether pixel data follow; where their value starts; where it can be read as it lies; what is wrong with it."""

    present: bool
    offset: int | None = None
    native_offset: int | None = None
    problems: tuple[ReportLine, ...] = ()


def _pixels(stream: IO[bytes], dataset: Tags, instance: Instance) -> _Pixels:
    """Look for the pixel data after the header, and whether all are there as far as that shows without decoding."""
    syntax = instance.transfer_syntax_uid
    if syntax == _DEFLATED:
        return _Pixels(True)
    element = stream.tell()
    order = ">" if syntax == _EXPLICIT_BIG_ENDIAN else "<"
    start = stream.read(12)
    if len(start) < 8 or struct.unpack(f"{order}H", start[:2])[0] != 0x7FE0:
        return _Pixels(False)
    if start[4:6] in _LONG_VRS and len(start) == 12:
        length, offset = struct.unpack(f"{order}I", start[8:12])[0], element + 12
    else:
        length, offset = struct.unpack(f"{order}I", start[4:8])[0], element + 8
    if length == _UNDEFINED_LENGTH or syntax not in _NATIVE_SYNTAXES or not (instance.rows and instance.columns):
        return _Pixels(True, offset)
    bits = instance.rows * instance.columns * instance.number_of_frames * instance.samples_per_pixel
    expected = (bits * (instance.bits_allocated or 16) + 7) // 8
    if instance.photometric == "YBR_FULL_422":
        expected = expected * 2 // 3
    found = min(length, max(instance.file_bytes - offset, 0))
    if found < expected:
        return _Pixels(True, offset, None, (line("truncated_pixels", instance.where, found=found, expected=expected),))
    plain = (
        start[2:4] in (b"\x10\x00", b"\x00\x10")
        and length in (expected, expected + 1)
        and instance.samples_per_pixel == 1
        and instance.bits_allocated in ((16, 32) if order == ">" else (8, 16, 32))
        and instance.bits_stored is not None
        and hint_of(dataset, "HighBit") in (None, instance.bits_stored - 1)
    )
    return _Pixels(True, offset, offset if plain else None)
