"""The worst masks of an evaluation as small pictures, for the user's own report: they may show burned-in text."""

from __future__ import annotations

import heapq
import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.tasks import Answered, Record
from mtnet.results.image_overlay import displayed

MOST = 8
_SIDE_PX = 320
_TRUTH, _ANSWER = (60, 220, 90), (255, 140, 0)


@dataclass(slots=True)
class WorstMasks:
    """Keeps pictures of the samples with the lowest Dice while samples go by, each drawn when it gets on the list."""

    most: int = MOST
    _kept: list[tuple[float, int, str, bytes]] = field(default_factory=list)
    _seen: int = 0

    def see(self, answered: Answered, note: Record) -> None:
        """Take note of one sample's masks and their record."""
        self._seen += 1
        place = -float(note["dice"]), -self._seen
        label_map = answered.findings.label_map
        if answered.mask is None or label_map is None or (len(self._kept) == self.most and place < self._kept[0][:2]):
            return
        shown = _picture(answered.case.volume.array, answered.mask, label_map.array[0] != 0)
        kept = (*place, answered.sample.id, shown)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, kept)
        else:
            heapq.heapreplace(self._kept, kept)

    def pictures(self) -> dict[str, bytes]:
        """Sample id to PNG, worst first."""
        return {name: shown for _, _, name, shown in sorted(self._kept, reverse=True)}


def _picture(image: NDArray[np.generic], truth: NDArray[np.bool_], answer: NDArray[np.bool_]) -> bytes:
    """The plane on which the masks differ most, with the border of the truth green and that of the answer orange."""
    from PIL import Image

    k = int(np.argmax(np.count_nonzero(truth ^ answer, axis=(0, 1))))
    shown = displayed(image[..., k])
    step = max(int(np.ceil(max(shown.shape[:2]) / _SIDE_PX)), 1)
    # Borders are drawn after thinning, so that they stay one pixel wide.
    shown = np.ascontiguousarray(shown[::step, ::step])
    for mask, colour in ((truth, _TRUTH), (answer, _ANSWER)):
        shown[_border(mask[..., k].T[::step, ::step])] = colour
    stream = io.BytesIO()
    Image.fromarray(shown).save(stream, format="PNG")
    return stream.getvalue()


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(mask & ~ndimage.binary_erosion(mask))
