"""The stored pixels of one grey slice: a single-frame object, or one frame of a multi-frame one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.files import Opener
from mtnet.io.frames import read_frames
from mtnet.io.limits import Limits
from mtnet.io.verdicts import line
from mtnet.structures.report import RefusedError
from mtnet.structures.study import Instance


def read_stored(instance: Instance, opener: Opener, limits: Limits) -> NDArray[np.integer[Any]]:
    """Decode the stored values of one grey slice, as ``read_frames`` does.

    Args:
        instance: a single-frame object, or one frame of a multi-frame object (its ``frame``).
        opener: reads its file.
        limits: ``decoded_bytes`` bounds one slice.

    Returns:
        ``(rows, columns)`` integers, signed where PixelRepresentation says so, high bits cleared of what is no pixel.

    Raises:
        RefusedError: as ``read_frames``; also ``unreadable_pixels`` where it is no single grey frame.
    """
    if instance.samples_per_pixel != 1 or instance.images != 1:
        reason = "expected one grey frame with Rows and Columns."
        raise RefusedError([line("unreadable_pixels", instance.where, reason=reason)])
    stored: NDArray[np.integer[Any]] = read_frames(instance, opener, limits, [(instance.frame or 1) - 1]).values[0]
    return stored
