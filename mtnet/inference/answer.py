"""The arrays of one dense output on the target grid, and the reduction from classes to labels that fills them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtnet.inference.plan import DenseOutput
from mtnet.structures import OutputSpec

Cut = tuple[slice | NDArray[np.int64], ...]
"""Part of an array, axes from the last target axis to the first; a list of planes comes only first."""


def activate(values: Tensor, spec: OutputSpec, channel_axis: int) -> Tensor:
    """Raw values to probabilities or values: divided by the temperature, then the activation."""
    if spec.temperature != 1.0:
        values = values / spec.temperature
    if spec.activation == "softmax":
        return values.softmax(channel_axis)
    return values.sigmoid() if spec.activation == "sigmoid" else values


class Answer:
    """One dense output, background everywhere at first. Stored last axis first, as NIfTI files and DICOM frames are.

    Args:
        spec: of the output; with labels it becomes a label map, without labels its values are kept.
        channels: that the network gives.
        shape: of the target grid.
        keep_probabilities: whether to keep the probabilities of a labelled output too.

    Raises:
        ValueError: channels and labels differ in number, or a label value does not fit into uint8.
    """

    def __init__(self, spec: OutputSpec, channels: int, shape: Sequence[int], keep_probabilities: bool) -> None:
        values = [label.value for label in spec.labels]
        if values and len(values) != channels:
            raise ValueError(f"Dense output {spec.name!r} has {channels} channels and {len(values)} labels.")
        if len(values) > 255 or (values and not all(0 <= value <= 255 for value in (*values, spec.background))):
            raise ValueError(f"Dense output {spec.name!r} has labels {values}; a label map holds 255 of 0..255.")
        self.spec = spec
        self.channels = channels
        self._background = int(spec.background) if values else spec.background
        self._label_of_code = np.array([self._background, *values], np.uint8) if values else np.zeros(0, np.uint8)
        stored = tuple(reversed(shape))
        # Zeros cost no memory until they are written.
        self._array: NDArray[np.generic] = (
            np.zeros((1, *stored), np.uint8) if values else np.zeros((channels, *stored), np.float32)
        )
        if self._background:
            self._array.fill(self._background)
        self._probabilities: NDArray[np.float32] | None = None
        if keep_probabilities and values:
            self._probabilities = np.zeros((channels, *stored), np.float32)
            if self._background in values:
                self._probabilities[values.index(int(self._background))] = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._array.nbytes + (0 if self._probabilities is None else self._probabilities.nbytes)

    @property
    def needs_probabilities(self) -> bool:
        """Whether the answer cannot be told from the order of raw values alone."""
        return self._probabilities is not None or self.spec.activation == "sigmoid" or not self.spec.labels

    def activate(self, values: Tensor, channel_axis: int) -> Tensor:
        """Raw values to probabilities or values."""
        return activate(values, self.spec, channel_axis)

    def write(self, place: Cut, classes: Iterable[Tensor], inside: Tensor | None) -> None:
        """Reduce one tensor a channel, each with axes from the last target axis to the first, and store the result.

        Labels are those of the greatest channel, the first of equals; with sigmoid channels only where it reaches the
        threshold. Where ``inside`` is False the background stays.

        Raises:
            ValueError: a value is not a number.
        """
        labels = self.spec.labels
        best: Tensor | None = None
        code = torch.empty(0)
        outside = None if inside is None else ~inside
        for channel, values in enumerate(classes):
            refuse_nan(self.spec, values)
            if self._probabilities is not None:
                _store(self._probabilities[channel], place, values, outside, labels[channel].value == self._background)
            if not labels:
                _store(self._array[channel], place, values, outside, self._background)
            elif best is None:
                best = values
                code = torch.ones(values.shape, dtype=torch.uint8, device=values.device)
            else:
                # Codes rise with the channel, so the greatest is the last that was better. A masked fill takes a
                # hundred times as long.
                code = torch.maximum(code, (values > best).to(torch.uint8) * (channel + 1))
                best = torch.maximum(best, values)
        if best is None:
            return
        if self.spec.activation == "sigmoid":
            code *= best >= self.spec.threshold
        if inside is not None:
            code *= inside
        self._array[0][place] = self._label_of_code[code.cpu().numpy()]

    def finish(self) -> DenseOutput:
        """The arrays with axes in the target's order."""
        order = (0, *range(self._array.ndim - 1, 0, -1))
        probabilities = None if self._probabilities is None else self._probabilities.transpose(order)
        return DenseOutput(self._array.transpose(order), probabilities)


def refuse_nan(spec: OutputSpec, values: Tensor) -> None:
    """Raise ValueError where ``values`` are not all numbers: a comparison with them would tell nothing was found."""
    if bool(values.sum().isnan()):
        raise ValueError(
            f"The network's output {spec.name!r} holds values that are no numbers. Half precision can overflow: try "
            "precision float32; else the weights or the input are damaged."
        )


def _store(array: NDArray[np.generic], place: Cut, values: Tensor, outside: Tensor | None, fill: float) -> None:
    array[place] = (values if outside is None else values.masked_fill(outside, fill)).cpu().numpy()
