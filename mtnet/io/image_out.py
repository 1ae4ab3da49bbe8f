"""2D images to files without loss: PNG where it can hold the values, TIFF of 32-bit floats elsewhere."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path

_EXACT_IN_FLOAT32 = 2**24


def write_image(array: NDArray[np.generic], folder: Path, stem: str) -> Path:
    """Write an image as ``<stem>.png``, or ``<stem>.tif`` where its values are negative, wide or no whole numbers.

    PNG holds 8 and 16 bits, grey and colour (PNG 1.2, ISO 15948); TIFF 32-bit floats, grey. Neither says a pixel size,
    for both would call it a print resolution. The same array gives the same bytes.

    Args:
        array: ``(C, i, j)`` with one or three channels.
        folder: where to; must exist.
        stem: file name without its ending.

    Returns:
        the file, which appears whole or not at all.

    Raises:
        ValueError: neither format holds the values.
    """
    pixels, suffix = _storable(array)
    path = folder / f"{stem}{suffix}"
    with atomic_path(path) as temporary:
        if suffix == ".png":
            temporary.write_bytes(_png(pixels))
        else:
            from PIL import Image

            Image.fromarray(pixels[..., 0]).save(temporary, format="TIFF")
    return path


def image_suffix(array: NDArray[np.generic]) -> str:
    """The ending that ``write_image`` will give to an image ``(C, i, j)``.

    Raises:
        ValueError: neither format holds the values.
    """
    return _storable(array)[1]


def _storable(array: NDArray[np.generic]) -> tuple[NDArray[np.generic], str]:
    """``(rows, columns, samples)`` in a type that the format of the ending holds."""
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"The array has shape {array.shape}; expected (1 or 3, columns, rows).")
    pixels = np.ascontiguousarray(array.transpose(2, 1, 0))
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels, ".png"
    if pixels.dtype.kind in "iu":
        low, high = int(pixels.min()), int(pixels.max())
        if low >= 0 and high <= np.iinfo(np.uint16).max:
            return pixels.astype(np.uint16), ".png"
        if max(-low, high) > _EXACT_IN_FLOAT32:
            raise ValueError(f"Values from {low} to {high} fit neither 16 bits nor 32-bit floats without loss.")
    if pixels.shape[2] != 1:
        raise ValueError(f"Colours of type {pixels.dtype} fit neither PNG nor TIFF here; expected uint8 or uint16.")
    return pixels.astype(np.float32), ".tif"


def _png(pixels: NDArray[np.generic]) -> bytes:
    """``(rows, columns, samples)`` as PNG. Pillow writes no colour of 16 bits."""
    rows, columns, samples = pixels.shape
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(rows, -1)
    # Each row starts with its filter; type 2 keeps the difference to the row above, byte by byte.
    raw = big_endian.view(np.uint8)
    filtered = np.empty((rows, raw.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = raw[0]
    np.subtract(raw[1:], raw[:-1], out=filtered[1:, 1:])
    header = struct.pack(">2I5B", columns, rows, 8 * pixels.dtype.itemsize, 0 if samples == 1 else 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
