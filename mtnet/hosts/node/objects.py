"""A received object as a file: what its header says of it, the file meta that a stored file needs, and its name."""

from __future__ import annotations

import hashlib
import io
import secrets
import struct
import warnings
from dataclasses import dataclass
from typing import Any

from mtnet.hosts.dicomweb import check_uid
from mtnet.hosts.node.ledger import Received
from mtnet.io.elements import read_elements
from mtnet.io.tags import Tags, text_of

_CLASS, _INSTANCE, _STUDY, _SERIES = "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"
_TAGS = (_CLASS, _INSTANCE, _STUDY, _SERIES, "Modality", "BodyPartExamined")
_HEADER_BYTES = 1 << 17
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Presentation states, waveforms, maps, surfaces, registrations, segmentations, reports, documents, radiotherapy: no
# network reads these (PS3.4 B.5), so none of them is a reason to answer a study again.
_NO_IMAGES = tuple(
    _STORAGE + tail
    for tail in ("9.", "11.", "30", "66", "67", "68", "78.", "79.", "80.", "88.", "104.", "200.", "481.")
)
_IMPLEMENTATION = "2.25.327229127137117146166063208424912236797"


class BrokenObjectError(ValueError):
    """An object that cannot be kept; the message says why, without its content."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the header of an object says."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    modality: str
    body_part: str


def file_meta(sop_class: str, sop_uid: str, transfer_syntax: str) -> bytes:
    """Preamble and file meta (PS3.10 7.1) in front of a data set as it came over the network.

    Raises:
        BrokenObjectError: what the request names is no UID.
    """
    if not all(_is_uid(uid) for uid in (sop_class, sop_uid, transfer_syntax)):
        raise BrokenObjectError("The request names no UID.")
    elements = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _uid_element(0x0002, sop_class),
            _uid_element(0x0003, sop_uid),
            _uid_element(0x0010, transfer_syntax),
            _uid_element(0x0012, _IMPLEMENTATION),
        )
    )
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(elements)) + elements


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\x00" * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, b"UI", len(value)) + value


def read_facts(meta: bytes, data: memoryview) -> Facts:
    """Identity and kind of an object, from its header; pixels are not looked at.

    Raises:
        BrokenObjectError: it cannot be parsed so far, or one of its UIDs is missing or none.
    """
    tags = read_elements(io.BytesIO(meta + bytes(data[:_HEADER_BYTES])), _TAGS, ())
    if tags is not None and not {_CLASS, _INSTANCE, _STUDY, _SERIES} <= tags.keys():
        tags = None
    found = tags if tags is not None else _read_by_pydicom(meta, data)
    study, series, instance, sop_class = (_uid(found, keyword) for keyword in (_STUDY, _SERIES, _INSTANCE, _CLASS))
    modality, part = (text_of(found, keyword)[:64].upper() for keyword in ("Modality", "BodyPartExamined"))
    return Facts(study, series, instance, sop_class, modality, part)


def _uid(found: Tags, keyword: str) -> str:
    uid = text_of(found, keyword)
    if not _is_uid(uid):
        raise BrokenObjectError(f"{keyword} is missing or no UID.")
    return uid


def _is_uid(text: str) -> bool:
    try:
        check_uid(text)
    except ValueError:
        return False
    return True


def _read_by_pydicom(meta: bytes, data: memoryview) -> Any:
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(io.BytesIO(meta + bytes(data)), stop_before_pixels=True, specific_tags=list(_TAGS))
    except Exception as error:
        # Fed with any bytes, the parser may raise anything.
        raise BrokenObjectError(f"Its header cannot be parsed ({type(error).__name__}).") from None


def received(facts: Facts, meta: bytes, data: memoryview) -> Received:
    """The row of an object, and the name of its file: hashed, so that no UID is part of a path."""
    digest = hashlib.sha256(meta)
    digest.update(data)
    sha256 = digest.hexdigest()
    name = hashlib.sha256(f"{facts.study_uid} {facts.sop_uid}".encode()).hexdigest()[:24]
    return Received(
        study_uid=facts.study_uid,
        sop_uid=facts.sop_uid,
        series_uid=facts.series_uid,
        modality=facts.modality,
        body_part=facts.body_part,
        file=f"{name}-{secrets.token_hex(4)}.dcm",
        bytes=len(meta) + len(data),
        sha256=sha256,
        counts=not f"{facts.sop_class}.".startswith(_NO_IMAGES),
    )
