"""Where the frames of encapsulated pixel data lie in a file (DICOM PS3.5 A.4).

Every item is looked at, so that pixel data that are cut short show, and the offset tables are believed only where they
point at items. pydicom's functions for this differ between its versions and stop in silence at what is no item.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

from mtnet.io.streams import ends_as_jpeg

_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True)
class Fragment:
    """One item's value: where it starts in the file, and its bytes."""

    offset: int
    size: int


def find_frames(stream: IO[bytes], count: int, *, extended_offsets: bytes = b"") -> tuple[tuple[Fragment, ...], ...]:
    """The fragments of each of ``count`` frames.

    One frame has all fragments, and as many fragments as frames are one each. Else the extended or the basic offset
    table tells where frames start, where each of its entries points at an item; without one, a frame ends where a
    fragment ends as JPEG streams do.

    Args:
        stream: stands at the first item, which is the basic offset table.
        count: NumberOfFrames.
        extended_offsets: value of ExtendedOffsetTable (7FE0,0001), if there is one.

    Raises:
        ValueError: the items are broken or cut short, or frames cannot be told apart.
    """
    table, fragments = _items(stream)
    if len(fragments) < count:
        raise ValueError(f"the compressed pixel data hold {len(fragments)} fragment(s) for {count} frame(s).")
    if count == 1:
        return (tuple(fragments),)
    if len(fragments) == count:
        return tuple((fragment,) for fragment in fragments)
    base = fragments[0].offset - 8
    starts = {fragment.offset - 8 - base: index for index, fragment in enumerate(fragments)}
    for kind, found in (("Q", extended_offsets), ("I", table)):
        size = struct.calcsize(kind)
        offsets = struct.unpack(f"<{len(found) // size}{kind}", found[: len(found) // size * size])[:count]
        first = [starts.get(offset, -1) for offset in offsets]
        if len(first) == count and first[0] == 0 and all(a < b for a, b in pairwise(first)):
            return tuple(
                tuple(fragments[start:end]) for start, end in zip(first, [*first[1:], len(fragments)], strict=True)
            )
    return _by_end_marker(stream, fragments, count)


def read_frame(stream: IO[bytes], fragments: Sequence[Fragment]) -> bytes:
    """The stream of one frame: its fragments joined."""
    parts = []
    for fragment in fragments:
        stream.seek(fragment.offset)
        parts.append(stream.read(fragment.size))
    return b"".join(parts)


def _items(stream: IO[bytes]) -> tuple[bytes, list[Fragment]]:
    """The value of the first item, and the fragments after it."""
    table: bytes | None = None
    fragments: list[Fragment] = []
    at = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(at)
    while (head := stream.read(8))[:4] == _ITEM and len(head) == 8:
        (size,) = struct.unpack("<I", head[4:])
        at += 8
        if at + size > end:
            raise ValueError("the compressed pixel data are cut short inside a fragment.")
        if table is None:
            table = stream.read(size)
        else:
            fragments.append(Fragment(at, size))
        at = stream.seek(at + size)
    if head[:4] not in (_END, b""):
        raise ValueError("the compressed pixel data are no sequence of items.")
    if table is None or not fragments:
        raise ValueError("the compressed pixel data hold no fragment.")
    return table, fragments


def _by_end_marker(stream: IO[bytes], fragments: Sequence[Fragment], count: int) -> tuple[tuple[Fragment, ...], ...]:
    frames: list[tuple[Fragment, ...]] = []
    current: list[Fragment] = []
    for fragment in fragments:
        current.append(fragment)
        stream.seek(fragment.offset + max(fragment.size - 16, 0))
        if ends_as_jpeg(stream.read(min(fragment.size, 16))):
            frames.append(tuple(current))
            current = []
    if len(frames) != count or current:
        raise ValueError(f"the fragments cannot be told apart into {count} frames.")
    return tuple(frames)
