"""What a compressed pixel stream says about itself, read before any decoder is given it.

Marker layouts: JPEG and JPEG-LS frame headers (ITU-T T.81 B.2.2, T.87 C.2.2); JPEG 2000 SIZ (ITU-T T.800 A.5.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

JPEG_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
JPEGLS_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
JPEG2000_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))

_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEGLS_FRAME = 0xF7
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Size and sample type of a stream. ``signed`` is ``None`` where the format cannot say (JPEG, JPEG-LS).

    ``component_ids`` are the names that JPEG gives its components, one byte each.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool | None
    component_ids: bytes = b""


def read_facts(stream: bytes, syntax: str) -> StreamFacts | None:
    """What the stream's header says; ``None`` for a transfer syntax without such a header (RLE and others).

    Raises:
        ValueError: the header is not of the format that the transfer syntax names, or the stream has no end marker,
            so that a decoder would make up the rest.
    """
    if syntax not in JPEG_SYNTAXES | JPEGLS_SYNTAXES | JPEG2000_SYNTAXES:
        return None
    if not ends_as_jpeg(stream):
        raise ValueError("the compressed stream is cut short: it has no end marker.")
    return _jpeg2000(stream) if syntax in JPEG2000_SYNTAXES else jpeg_facts(stream, ls=syntax in JPEGLS_SYNTAXES)


def ends_as_jpeg(stream: bytes) -> bool:
    """Whether bytes end with the end marker that JPEG, JPEG-LS and JPEG 2000 share. Writers pad with either byte."""
    return stream.rstrip(b"\x00\xff").endswith(b"\xff\xd9")


def jpeg_facts(stream: bytes, *, ls: bool = False) -> StreamFacts:
    """What the frame header of a JPEG stream says, or of a JPEG-LS stream where ``ls`` is set.

    Raises:
        ValueError: there is none.
    """
    at = 2
    if not stream.startswith(b"\xff\xd8"):
        raise ValueError("the compressed stream does not start as JPEG does.")
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_MARKERS:
            if (marker == _JPEGLS_FRAME) != ls:
                raise ValueError("the compressed stream is of another kind of JPEG than the transfer syntax says.")
            bits, rows, columns, samples = struct.unpack_from(">BHHB", stream, at + 4)
            return StreamFacts(rows, columns, samples, bits, None, stream[at + 10 : at + 10 + 3 * samples : 3])
        at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    raise ValueError("the compressed stream has no frame header.")


def _jpeg2000(stream: bytes) -> StreamFacts:
    start = 0 if stream.startswith(b"\xff\x4f\xff\x51") else stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or start + 43 > len(stream):
        raise ValueError("the compressed stream does not start as JPEG 2000 does.")
    right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
    (samples,) = struct.unpack_from(">H", stream, start + 40)
    components = {stream[at : at + 3] for at in range(start + 42, start + 42 + 3 * samples, 3)}
    kind, *steps = components.pop() if len(components) == 1 else b""
    if steps != [1, 1]:
        raise ValueError("the components of the compressed stream differ in size or depth.")
    return StreamFacts(bottom - top, right - left, samples, (kind & 0x7F) + 1, bool(kind & 0x80))
