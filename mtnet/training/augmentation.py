"""Random changes of images and their labels, by name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import radians
from typing import Any

import torch
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from mtnet.transforms.pictures import IMAGENET_MEAN, IMAGENET_STD, LUMA


class RandSaturationd(RandomizableTransform, MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Move the colours of pictures ``(3, *S)``, normalised by ImageNet's mean and spread, towards their grey or away.

    Args:
        keys: of the images; those of another number of channels stay as they are.
        largest: change of the distance to grey, from 1.
        prob: of a change.
    """

    def __init__(self, keys: str | Sequence[str], largest: float, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.largest = largest
        self._factor = 1.0

    def randomize(self, data: Any | None = None) -> None:
        """Draw whether to change, and how much."""
        super().randomize(None)
        self._factor = self.R.uniform(1 - self.largest, 1 + self.largest)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with changed colours."""
        changed = dict(data)
        self.randomize()
        for key in self.key_iterator(changed):
            image = changed[key]
            if self._do_transform and image.shape[0] == len(LUMA):
                mean, spread, luma = (
                    torch.tensor(values).reshape(-1, *(1,) * (image.ndim - 1))
                    for values in (IMAGENET_MEAN, IMAGENET_STD, LUMA)
                )
                colours = image * spread + mean
                grey = (colours * luma).sum(0, keepdim=True)
                changed[key] = ((grey + self._factor * (colours - grey)) - mean) / spread
        return changed


def augmentation(
    *,
    flip: float = 0.5,
    flip_axes: Sequence[int] = (0, 1),
    turn_degrees: float = 0.0,
    zoom: float = 0.0,
    move: float = 0.0,
    scale: float = 0.0,
    shift: float = 0.0,
    gamma: float = 0.0,
    colour: float = 0.0,
    saturation: float = 0.0,
    blur: float = 0.0,
    noise: float = 0.0,
    spatial_dims: int = 2,
    prob: float = 0.5,
) -> Compose:
    """MONAI's random transforms of ``image``, and of ``label`` in space, each left out where its amount is 0.

    Boxes follow through the image's affine (``BoxesOnImaged``).

    Args:
        flip: probability of a flip of each of ``flip_axes``.
        flip_axes: rows are the first axis of a picture. Ultrasound has its probe at the top, so only columns (1) flip.
        turn_degrees: largest rotation, in the plane of the first two axes.
        zoom: largest share by which the size changes, of each axis by itself; what grows is cropped.
        move: largest shift of each axis, in pixels.
        scale: largest share by which values are multiplied.
        shift: largest number that is added to values.
        gamma: largest change of the exponent of contrast, from 1.
        colour: largest share by which each channel is multiplied by itself, which changes the hue.
        saturation: largest change of the distance of colours to their grey, from 1.
        blur: largest sigma of a Gaussian, in pixels.
        noise: standard deviation of Gaussian noise.
        spatial_dims: 2 or 3.
        prob: of each change but the flips.
    """
    keys = ("image", "label")
    both: dict[str, Any] = {"keys": keys, "allow_missing_keys": True}
    steps: list[Any] = []
    if flip:
        steps += [RandFlipd(**both, prob=flip, spatial_axis=axis) for axis in flip_axes]
    if turn_degrees or zoom or move:
        turn = radians(turn_degrees)
        steps.append(
            RandAffined(
                **both,
                prob=prob,
                rotate_range=turn if spatial_dims == 2 else (0.0, 0.0, turn),
                scale_range=(zoom,) * spatial_dims,
                translate_range=(move,) * spatial_dims,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            )
        )
    if scale:
        steps.append(RandScaleIntensityd("image", factors=scale, prob=prob))
    if shift:
        steps.append(RandShiftIntensityd("image", offsets=shift, prob=prob))
    if gamma:
        steps.append(RandAdjustContrastd("image", gamma=(1 / (1 + gamma), 1 + gamma), prob=prob))
    if colour:
        steps.append(RandScaleIntensityd("image", factors=colour, prob=prob, channel_wise=True))
    if saturation:
        steps.append(RandSaturationd("image", saturation, prob))
    if blur:
        sigmas = dict.fromkeys(("sigma_x", "sigma_y", "sigma_z"), (0.0, blur))
        steps.append(RandGaussianSmoothd("image", **sigmas, prob=prob))
    if noise:
        steps.append(RandGaussianNoised("image", std=noise, prob=prob))
    return Compose(steps)
