"""Uncompressed pixels read from where they lie in the file, without parsing its header a second time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.files import Opener
from mtnet.structures.study import Instance

_BIG_ENDIAN = "1.2.840.10008.1.2.2"


def read_native(instance: Instance, opener: Opener) -> NDArray[np.integer[Any]] | None:
    """Stored values of a single-frame object, or of the one frame that ``instance`` stands for.

    Returns:
        ``(rows, columns)`` integers, signed where PixelRepresentation says so. ``None`` where they do not simply lie
        in the file, or hold more than BitsStored says (an overlay in the high bits, say), or cannot be read.
    """
    rows, columns, bits = instance.rows or 0, instance.columns or 0, instance.bits_stored or 0
    if instance.native_offset is None or instance.images != 1 or min(rows, columns, bits) < 1:
        return None
    order = ">" if instance.transfer_syntax_uid == _BIG_ENDIAN else "<"
    kind = "i" if instance.pixel_representation else "u"
    dtype = np.dtype(f"{order}{kind}{(instance.bits_allocated or 0) // 8}")
    size = rows * columns * dtype.itemsize
    try:
        with opener.open(instance.path, instance.member) as stream:
            stream.seek(instance.native_offset + ((instance.frame or 1) - 1) * size)
            content = stream.read(size)
    except Exception:
        # The way through the decoder says what is wrong with the file.
        return None
    if len(content) != size:
        return None
    stored = np.frombuffer(content, dtype).reshape(rows, columns).astype(dtype.newbyteorder("="), copy=False)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "i" else (0, 2**bits - 1)
    full = bits >= 8 * dtype.itemsize
    return stored if full or (int(stored.min()) >= low and int(stored.max()) <= high) else None
