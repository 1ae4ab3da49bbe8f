"""Video containers by their first bytes, and whether all of a file is there, before any decoder is given it.

Layouts: ISO base media boxes (ISO 14496-12 4.2), RIFF chunks with OpenDML's further ones, EBML elements (RFC 8794 6.2).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Literal

Container = Literal["mp4", "avi", "matroska", "mpeg", "asf"]

_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MPEG = (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")


def container_of(path: Path) -> Container | None:
    """The container of a file, ``None`` for anything else: playlists, which name other files, above all."""
    with path.open("rb") as stream:
        start = stream.read(16)
    if start[4:8] in _BOXES:
        return "mp4"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "avi"
    if start[:4] == _EBML:
        return "matroska"
    if start[:4] in _MPEG:
        return "mpeg"
    return "asf" if start == _ASF else None


def is_cut_short(path: Path, container: Container) -> bool:
    """Whether the container says that it is longer than the file. MPEG streams and ASF do not say."""
    with path.open("rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        if container == "mp4":
            return _boxes_end(stream, end) > end
        if container == "avi":
            return _riff_end(stream, end) > end
        if container == "matroska":
            return _segment_end(stream) > end
    return False


def _boxes_end(stream: IO[bytes], end: int) -> int:
    at = 0
    while at + 8 <= end:
        stream.seek(at)
        start = stream.read(16)
        size = int(struct.unpack(">I", start[:4])[0])
        header = 8
        if size == 1 and len(start) == 16:
            size, header = int(struct.unpack(">Q", start[8:])[0]), 16
        if size == 0:
            return end
        if size < header:
            return end + 1
        at += size
    return at


def _riff_end(stream: IO[bytes], end: int) -> int:
    at = 0
    while at + 12 <= end:
        stream.seek(at)
        name, size = struct.unpack("<4sI", stream.read(8))
        if name != b"RIFF":
            break
        at += 8 + size + size % 2
    # The byte that fills up an odd length may be missing at the very end.
    return at - 1 if at == end + 1 else at


def _segment_end(stream: IO[bytes]) -> int:
    """Where the Segment ends; 0 where its length was not known when it was written (a live recording)."""
    stream.seek(4)
    header = _length(stream)
    if header is None:
        return 0
    stream.seek(header, os.SEEK_CUR)
    if stream.read(4) != _SEGMENT:
        return 0
    size = _length(stream)
    return 0 if size is None else stream.tell() + size


def _length(stream: IO[bytes]) -> int | None:
    first = stream.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> (more + 1))]) + stream.read(more), "big")
    return None if value == (1 << (7 * (more + 1))) - 1 else value
