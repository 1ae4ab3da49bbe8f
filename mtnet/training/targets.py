"""What MONAI's ``SupervisedTrainer`` and ``SupervisedEvaluator`` are told is right, by output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mtnet.structures import OutputSpec
from mtnet.training.samples import CLASS


class SampleTargets:
    """``prepare_batch`` of trainer and evaluator: the image, and the targets of each output of the network.

    By kind of output the target is, of a batch of ``collate_samples``:

    - dense with labels: ``label``; without: the image itself (reconstruction).
    - boxes: one box a component of ``label``, or ``boxes`` (see ``boxes_from``).
    - global with labels: ``class``, its number (softmax; -1 unknown) or a row with 1 for it (sigmoid; NaN unknown).
    - global without labels: the value under the output's name, or under its name and units (``diameter_mm``).
    - another kind: what the batch holds under the output's name.

    Where a dense or boxes output tells several kinds of lesion apart, what an image shows is of the image's ``class``;
    without one, or with a class that the output does not have, it is unknown, unless the image shows nothing.

    What a batch knows of no item is left out, and its loss term is off.

    Args:
        outputs: the network's.
        boxes_from: what is preferred where a sample has both, ``label`` or ``boxes``. Components of a mask stay tight
            when an augmentation turns the image; boxes that were marked keep lesions apart that touch.
        smallest: components of fewer pixels are specks and get no box.

    Raises:
        ValueError: ``boxes_from`` is something else.
    """

    def __init__(
        self, outputs: Sequence[OutputSpec], boxes_from: Literal["label", "boxes"] = "label", smallest: int = 4
    ) -> None:
        if boxes_from not in ("label", "boxes"):
            raise ValueError(f"boxes_from is {boxes_from!r}; expected label or boxes.")
        self.outputs = tuple(outputs)
        self.boxes_from = ("label", "boxes") if boxes_from == "label" else ("boxes", "label")
        self.smallest = smallest

    def __call__(
        self, batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Image ``(B, C, *S)`` and targets on ``device``.

        Raises:
            ValueError: a class that the output does not have.
        """
        image = batch["image"].to(device=device, non_blocking=non_blocking)
        targets: dict[str, Any] = {}
        for spec in self.outputs:
            found = self._target(spec, batch, image)
            if found is not None:
                targets[spec.name] = _moved(found, device, non_blocking)
        return image, targets

    def _target(self, spec: OutputSpec, batch: Mapping[str, Any], image: Tensor) -> Any:
        if spec.kind == "dense":
            return _known(_numbered(spec, batch)) if spec.labels else image
        if spec.kind == "boxes":
            boxes = [self._boxes(batch, item) for item in range(len(image))]
            return _known(boxes if len(spec.labels) == 1 else _of_kind(spec, boxes, batch))
        if spec.kind == "global" and spec.labels:
            names = _known(batch.get(CLASS))
            return None if names is None else class_targets(spec, names)
        if spec.kind == "global":
            values = _known(batch.get(spec.name, batch.get(f"{spec.name}_{spec.units}")))
            return values and torch.tensor([float("nan") if value is None else value for value in values])
        return batch.get(spec.name)

    def _boxes(self, batch: Mapping[str, Any], item: int) -> dict[str, Tensor] | None:
        for key in self.boxes_from:
            known = batch[key][item] if key in batch else None
            if known is not None:
                return boxes_of_mask(known, self.smallest) if key == "label" else _unlabelled(known)
        return None


def class_targets(spec: OutputSpec, names: Sequence[str | None]) -> Tensor:
    """Classes by name as the target of a global output: numbers ``(B,)``, or rows ``(B, C)`` where it is sigmoid.

    Raises:
        ValueError: a name that the output does not have.
    """
    known = [label.name for label in spec.labels]
    for name in names:
        if name is not None and name not in known:
            raise ValueError(
                f"A sample has the class {name!r}; the output {spec.name!r} has {', '.join(known)}. Prepare the set "
                "with these names, or train a network that has this class."
            )
    numbers = torch.tensor([-1 if name is None else known.index(name) for name in names])
    if spec.activation != "sigmoid":
        return numbers
    rows = torch.nn.functional.one_hot(numbers.clamp_min(0), len(known)).float()
    return torch.where(numbers[:, None] < 0, torch.nan, rows)


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
    return _unlabelled(torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 2 * inside.ndim))


def _kinds(spec: OutputSpec, batch: Mapping[str, Any], items: int) -> list[int | None]:
    """Which of the labels that are no background each item's class is."""
    names = [label.name for label in spec.labels if label.value]
    told = batch.get(CLASS, [None] * items)
    return [names.index(name) if name in names else None for name in told]


def _numbered(spec: OutputSpec, batch: Mapping[str, Any]) -> Sequence[Tensor | None] | None:
    """Masks of 0 and 1, or of 0 and the number of the item's class where there are several."""
    masks = batch.get("label")
    if masks is None or sum(label.value > 0 for label in spec.labels) < 2:
        return masks
    numbered: list[Tensor | None] = []
    for mask, kind in zip(masks, _kinds(spec, batch, len(masks)), strict=True):
        if mask is None or not bool((mask > 0).any()):
            numbered.append(mask)
        else:
            numbered.append(None if kind is None else mask * (kind + 1))
    return numbered


def _of_kind(
    spec: OutputSpec, boxes: Sequence[dict[str, Tensor] | None], batch: Mapping[str, Any]
) -> list[dict[str, Tensor] | None]:
    """The boxes with the number of the item's class."""
    told: list[dict[str, Tensor] | None] = []
    for found, kind in zip(boxes, _kinds(spec, batch, len(boxes)), strict=True):
        if found is None or not len(found["label"]):
            told.append(found)
        else:
            told.append(None if kind is None else {**found, "label": torch.full_like(found["label"], kind)})
    return told


def _unlabelled(boxes: Tensor) -> dict[str, Tensor]:
    return {"box_index": boxes, "label": torch.zeros(len(boxes), dtype=torch.long)}


def _known(values: Sequence[Any] | None) -> Sequence[Any] | None:
    """The values, unless every one of them is None."""
    return None if values is None or all(value is None for value in values) else values


def _moved(value: Any, device: str | torch.device | None, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        plain = value.as_tensor() if hasattr(value, "as_tensor") else value
        return plain.to(device=device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: _moved(item, device, non_blocking) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_moved(item, device, non_blocking) for item in value]
    return value
