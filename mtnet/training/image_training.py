"""What MONAI's ``SupervisedTrainer`` needs to train on 2D images with masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class ImageTargets:
    """``prepare_batch`` of a trainer: the image, and the targets of each output by name.

    Args:
        taken: output to the key of the batch that holds its target.
        boxes: output to the key of a mask; its targets are one box a component.
        smallest: components of fewer pixels are specks and get no box.
    """

    def __init__(self, taken: Mapping[str, str], boxes: Mapping[str, str] | None = None, smallest: int = 4) -> None:
        self.taken = dict(taken)
        self.boxes = dict(boxes or {})
        self.smallest = smallest

    def __call__(
        self, batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Image ``(B, C, *S)`` and targets on ``device``; outputs whose key the batch lacks have none."""

        def move(tensor: Tensor) -> Tensor:
            plain = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
            return plain.to(device=device, non_blocking=non_blocking)

        targets: dict[str, Any] = {out: move(batch[key]) for out, key in self.taken.items() if key in batch}
        for out, key in self.boxes.items():
            if key in batch:
                targets[out] = [
                    {name: move(value) for name, value in boxes_of_mask(mask, self.smallest).items()}
                    for mask in batch[key]
                ]
        return move(batch["image"]), targets


def boxes_of_mask(mask: Tensor, smallest: int = 1) -> dict[str, Tensor]:
    """One box a component (corners connect) of a mask ``(1, *S)``: ``box_index`` ``(G, 2D)`` and ``label``, all 0."""
    from scipy import ndimage

    inside = mask[0].cpu().numpy() > 0
    components, _ = ndimage.label(inside, np.ones((3,) * inside.ndim))
    sizes = np.bincount(components.ravel())
    rows = [
        [*(side.start - 0.5 for side in place), *(side.stop - 0.5 for side in place)]
        for number, place in enumerate(ndimage.find_objects(components), 1)
        if sizes[number] >= smallest
    ]
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 2 * inside.ndim)
    return {"box_index": boxes, "label": torch.zeros(len(rows), dtype=torch.long)}
