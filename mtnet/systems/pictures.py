"""What the systems of 2D images share: an image is seen as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.inferer import DenseForm
    from mtnet.inference.precision import Precision


def whole_image(
    window: Sequence[int] | None = None,
    batch: int = 1,
    precision: Precision = "float32",
    layout: Literal["batch", "list"] = "batch",
    dense: DenseForm = "logits",
) -> MultiTaskInferer:
    """The whole image at once, padded to a multiple of the network's coarsest stride.

    Args:
        window: rows and columns, multiples of that stride, to go window by window instead.
        batch: images, frames or windows in one pass.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        layout, dense: see ``MultiTaskInferer``.
    """
    from mtnet.inference import MultiTaskInferer

    return MultiTaskInferer(window, 0.25, batch, precision=precision, layout=layout, dense=dense)
