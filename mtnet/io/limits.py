"""What an input may cost: limits that are checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass, fields

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest input that is read. The defaults hold every clinical study and stop bombs.

    Args:
        files: files in a folder, or entries of an archive.
        depth: folders within folders.
        file_bytes: size of one file, unpacked.
        archive_bytes: size of all entries of an archive together, unpacked.
        archive_ratio: unpacked to packed size of one entry of more than a mebibyte.
        header_bytes: unpacked size of a deflated data set, which is unpacked whole to read its header.
        frames: frames of one multi-frame object.
        decoded_bytes: pixels of one volume in memory, as they are handed on.
        image_bytes: pixels of one 2D image or of one frame in memory.

    Raises:
        ValueError: a limit is not positive.
    """

    files: int = 200_000
    depth: int = 64
    file_bytes: int = 8 * _GIB
    archive_bytes: int = 64 * _GIB
    archive_ratio: float = 200.0
    header_bytes: int = 256 * 1024**2
    frames: int = 50_000
    decoded_bytes: int = 16 * _GIB
    image_bytes: int = _GIB

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ValueError(f"Limits.{item.name} is {getattr(self, item.name)!r}; expected more than 0.")
