"""What the systems of 2D images share: an image is seen as a whole, and hosts are shown its mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from monai.transforms import Compose

    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.precision import Precision


def whole_image(
    window: Sequence[int] | None = None,
    batch: int = 1,
    precision: Precision = "float32",
    layout: Literal["batch", "list"] = "batch",
    dense: Literal["logits", "probabilities", "labels"] = "logits",
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


def mask_and_json(threshold: float, *told: str) -> Compose:
    """For hosts that show one label map: ``pred`` becomes labels, other outputs go into ``result`` as JSON.

    Args:
        threshold: of the one sigmoid channel of ``pred``.
        told: names of the other outputs.
    """
    from monai.transforms import Activationsd, AsDiscreted, Compose

    from mtnet.transforms import ResultJsond, SplitOutputsd

    return Compose(
        [
            SplitOutputsd(keys="pred"),
            Activationsd(keys="pred", sigmoid=True),
            AsDiscreted(keys="pred", threshold=threshold),
            *(ResultJsond(keys=f"pred_{name}", allow_missing_keys=True) for name in told),
        ]
    )
