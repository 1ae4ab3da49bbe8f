"""Random changes of images and their labels, by name."""

from __future__ import annotations

from math import radians
from typing import Any

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)


def augmentation(
    *,
    flip: float = 0.5,
    turn_degrees: float = 0.0,
    zoom: float = 0.0,
    scale: float = 0.0,
    shift: float = 0.0,
    gamma: float = 0.0,
    blur: float = 0.0,
    noise: float = 0.0,
    spatial_dims: int = 2,
    prob: float = 0.5,
) -> Compose:
    """MONAI's random transforms of ``image``, and of ``label`` in space, each left out where its amount is 0.

    Boxes follow through the image's affine (``BoxesOnImaged``).

    Args:
        flip: probability of a flip of each axis (of a volume the first two).
        turn_degrees: largest rotation, in the plane of the first two axes.
        zoom: largest share by which the size changes.
        scale: largest share by which values are multiplied.
        shift: largest number that is added to values.
        gamma: largest change of the exponent of contrast, from 1.
        blur: largest sigma of a Gaussian, in pixels.
        noise: standard deviation of Gaussian noise.
        spatial_dims: 2 or 3.
        prob: of each change but the flips.
    """
    keys = ("image", "label")
    both: dict[str, Any] = {"keys": keys, "allow_missing_keys": True}
    steps: list[Any] = []
    if flip:
        steps += [RandFlipd(**both, prob=flip, spatial_axis=axis) for axis in (0, 1)]
    if turn_degrees or zoom:
        turn = radians(turn_degrees)
        steps.append(
            RandAffined(
                **both,
                prob=prob,
                rotate_range=turn if spatial_dims == 2 else (0.0, 0.0, turn),
                scale_range=(zoom,) * spatial_dims,
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
    if blur:
        sigmas = dict.fromkeys(("sigma_x", "sigma_y", "sigma_z"), (0.0, blur))
        steps.append(RandGaussianSmoothd("image", **sigmas, prob=prob))
    if noise:
        steps.append(RandGaussianNoised("image", std=noise, prob=prob))
    return Compose(steps)
