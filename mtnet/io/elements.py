"""A quick way through the header of an ordinary DICOM file: wanted tags are taken, all others stepped over.

pydicom reads every header; most of what it does is of no use where two hundred elements are passed over for fifty
values, and a folder holds thousands of files. Whatever is not plain here (PS3.5 7.1: little endian, known value
representations, lengths that add up, text in ASCII) is left to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import cache
from typing import IO

_FIRST_BYTES = 1 << 16
_MOST_BYTES = 1 << 24
_IMPLICIT = "1.2.840.10008.1.2"
# Deflated, deflated frames and big endian: their bytes are another matter.
_NOT_PLAIN = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
        b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip
_NUMBERS = {b"US": "H", b"SS": "h", b"UL": "I", b"FD": "d"}
_TEXT = frozenset({b"CS", b"DS", b"IS", b"LO", b"SH", b"UI"})

Value = str | list[str] | list[int] | list[float]


class _NotPlainError(Exception):
    """The header is for pydicom to read."""


def read_elements(stream: IO[bytes], keywords: Iterable[str], given_up: Iterable[str]) -> dict[str, Value] | None:
    """Values of the wanted tags of a file with preamble and file meta, by keyword; empty ones are left out.

    ``TransferSyntaxUID`` and ``MediaStorageSOPClassUID`` come from the file meta. The stream is left at the pixel data
    element, or at the end.

    Args:
        stream: at its start, seekable.
        keywords: the tags to take, of the top level.
        given_up: tags whose presence alone makes the header one for pydicom.

    Returns:
        ``None`` where the header is not plain; the stream is then at its start again.
    """
    wanted = _wanted(tuple(keywords), tuple(given_up))
    size = _FIRST_BYTES
    content = stream.read(size)
    try:
        while True:
            whole = len(content) < size
            try:
                values, end = _read(content, wanted)
            except (struct.error, IndexError):
                end = len(content) + 1
            if end <= len(content) - 12 or (whole and end == len(content)):
                stream.seek(end)
                return values
            if whole or size >= _MOST_BYTES:
                raise _NotPlainError
            size *= 16
            content += stream.read(size - len(content))
    except (_NotPlainError, UnicodeDecodeError):
        stream.seek(0)
        return None


@cache
def _wanted(keywords: tuple[str, ...], given_up: tuple[str, ...]) -> Mapping[int, tuple[str, frozenset[bytes]]]:
    """Tag to keyword and the value representations that it may have; none for those that are given up on."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    table: dict[int, tuple[str, frozenset[bytes]]] = {}
    for keyword in (*keywords, *given_up):
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ValueError(f"{keyword!r} is no keyword of DICOM.")
        allowed = frozenset() if keyword in given_up else frozenset(dictionary_VR(tag).encode().split(b" or "))
        table[tag] = (keyword, allowed)
    return table


def _read(content: bytes, wanted: Mapping[int, tuple[str, frozenset[bytes]]]) -> tuple[dict[str, Value], int]:
    """Values, and where the pixel data element starts: past the end of ``content`` where it is not in it."""
    values, at = _file_meta(content)
    syntax = values.get("TransferSyntaxUID")
    if not isinstance(syntax, str) or syntax in _NOT_PLAIN:
        raise _NotPlainError
    explicit, end = syntax != _IMPLICIT, len(content)
    while at + 8 <= end:
        tag, representation, start, length = _element(content, at, explicit=explicit)
        if tag in _PIXEL_DATA:
            return values, at
        if tag in wanted:
            keyword, allowed = wanted[tag]
            representation = representation or next(iter(allowed), b"")
            if representation not in allowed or length == _UNDEFINED:
                raise _NotPlainError
            if start + length > end:
                break
            value = _value(content[start : start + length], representation)
            # As in any mapping, what comes last holds; an empty value too.
            values.pop(keyword, None)
            if value is not None:
                values[keyword] = value
        at = start + length if length != _UNDEFINED else _after_items(content, start, explicit=explicit)
    return values, end if at == end else end + 1


def _file_meta(content: bytes) -> tuple[dict[str, Value], int]:
    values: dict[str, Value] = {}
    at = 132
    while content[at : at + 2] == b"\x02\x00":
        tag, representation, start, length = _element(content, at, explicit=True)
        if tag in (0x00020002, 0x00020010):
            value = _value(content[start : start + length], representation)
            if isinstance(value, str):
                values["TransferSyntaxUID" if tag == 0x00020010 else "MediaStorageSOPClassUID"] = value
        at = start + length
    return values, at


def _element(content: bytes, at: int, *, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, value representation (empty where implicit), where the value starts, and its length."""
    group, element = struct.unpack_from("<HH", content, at)
    representation = content[at + 4 : at + 6]
    if not explicit:
        if representation in _SHORT or representation in _LONG:
            raise _NotPlainError
        return group << 16 | element, b"", at + 8, struct.unpack_from("<I", content, at + 4)[0]
    if representation in _SHORT:
        return group << 16 | element, representation, at + 8, struct.unpack_from("<H", content, at + 6)[0]
    if representation not in _LONG:
        raise _NotPlainError
    length = struct.unpack_from("<I", content, at + 8)[0]
    if length == _UNDEFINED and representation == b"UN":
        raise _NotPlainError
    return group << 16 | element, representation, at + 12, length


def _after_items(content: bytes, at: int, *, explicit: bool) -> int:
    """Where the element after a sequence of undefined length starts."""
    while True:
        group, element, length = struct.unpack_from("<HHI", content, at)
        tag, at = group << 16 | element, at + 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _NotPlainError
        if length != _UNDEFINED:
            at += length
            continue
        while content[at : at + 8] != b"\xfe\xff\x0d\xe0\x00\x00\x00\x00":
            _, _, start, inner = _element(content, at, explicit=explicit)
            at = start + inner if inner != _UNDEFINED else _after_items(content, start, explicit=explicit)
        at += 8


def _value(raw: bytes, representation: bytes) -> Value | None:
    if representation in _NUMBERS:
        code = _NUMBERS[representation]
        count, rest = divmod(len(raw), struct.calcsize(code))
        if rest:
            raise _NotPlainError
        return list(struct.unpack(f"<{count}{code}", raw)) or None
    if representation not in _TEXT:
        raise _NotPlainError
    text = raw.decode("ascii").rstrip("\0 ")
    if "\x1b" in text:
        raise _NotPlainError
    return text.split("\\") if "\\" in text else text or None
