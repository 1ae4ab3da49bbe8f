"""2D images as networks see them: rows x columns, one size, three channels (or one), values as ImageNet's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, MapTransform, NormalizeIntensityd, Orientationd, Resized
from monai.utils import MetaKeys
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1: what nearly every pretrained 2D network was trained with (torchvision)."""

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (Recommendation ITU-R BT.601)."""


class PictureChannelsd(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Channel first, with as many channels as the network takes: grey is copied, colour becomes its luma.

    ``(i, j)``, ``(i, j, 3)`` or ``(1 or 3, i, j)`` becomes ``(channels, i, j)``. The metadata of a ``MetaTensor`` tell
    where its channels are; where they don't, two axes are grey, and three have the channels first.

    Args:
        keys: of the images.
        channels: 1 or 3.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: another number of channels is asked for, or an image is none of those above.
    """

    def __init__(self, keys: KeysCollection, channels: int = 3, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if channels not in (1, 3):
            raise ValueError(f"PictureChannelsd channels is {channels}; expected 1 or 3.")
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images of every key changed."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            changed[key] = self._changed(changed[key])
        return changed

    def _changed(self, picture: Tensor) -> Tensor:
        first = _channel_first(picture)
        if first.ndim != 3 or first.shape[0] not in (1, 3):
            raise ValueError(
                f"The image has shape {tuple(picture.shape)}; expected columns x rows of one grey value or of red, "
                "green and blue."
            )
        if first.shape[0] < self.channels:
            first = first.expand(self.channels, -1, -1).clone()
        elif first.shape[0] > self.channels:
            first = (first.float() * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
        if isinstance(first, MetaTensor):
            first.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        return first


class PictureRanged(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Values to 0..1: those of 8 bits through 255, so that a dark image stays dark; wider ones by their own range."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images of every key changed."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            values = changed[key].float()
            low, high = float(values.min()), float(values.max())
            if low >= 0 and high <= 255:
                low, high = 0.0, 255.0
            # A flat image has no range; it becomes 0.
            changed[key] = (values - low) / (high - low if high > low else 1.0)
        return changed


class MaskPictured(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """A mask that was kept as a picture to 0 and 1: what is brighter than half of white, or of 1 where nothing is
    brighter. JPEG leaves values near 0 and 255, not on them."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the masks of every key changed."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            values = changed[key].float()
            changed[key] = (values > (0.5 if float(values.max()) <= 1 else 127.5)).float()
        return changed


def picture_chain(size: tuple[int, int] | int, *, channels: int = 3, load: bool = True, mask: bool = True) -> Compose:
    """A 2D image, and its label map where there is one, to the input of a network.

    Load, channels, rows x columns (a transposition that MONAI can invert: the affine goes with it), size, values to
    0..1, then ImageNet's mean and standard deviation. ``label`` takes the same steps in space.

    Args:
        size: rows and columns, each axis stretched to its own; one number is the longer side, and the aspect is kept.
        channels: 1 or 3.
        load: whether ``image`` and ``label`` are paths; a host that has loaded them already says no.
        mask: ``label`` is a mask, kept as a picture (see ``MaskPictured``); otherwise it holds class numbers.
    """
    keys = ("image", "label")
    loader = []
    if load:
        from mtnet.io.loader import LoadImageStudyd

        loader = [LoadImageStudyd(keys=keys, allow_missing_keys=True)]
    grey = (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else grey
    return Compose(
        [
            *loader,
            PictureChannelsd(keys="image", channels=channels),
            PictureChannelsd(keys="label", channels=1, allow_missing_keys=True),
            *([MaskPictured(keys="label", allow_missing_keys=True)] if mask else []),
            EnsureTyped(keys=keys, dtype="float32", allow_missing_keys=True),
            Orientationd(keys=keys, axcodes="PL", labels=None, allow_missing_keys=True),
            Resized(
                keys=keys,
                spatial_size=size,
                size_mode="longest" if isinstance(size, int) else "all",
                mode=("bilinear", "nearest"),
                anti_aliasing=(True, False),
                allow_missing_keys=True,
            ),
            PictureRanged(keys="image"),
            NormalizeIntensityd(keys="image", subtrahend=mean, divisor=std, channel_wise=True),
        ]
    )


def _channel_first(picture: Tensor) -> Tensor:
    """``(i, j)`` or three axes with the channels somewhere, channels first."""
    where = picture.meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM) if isinstance(picture, MetaTensor) else None
    if picture.ndim == 2:
        return picture[None]
    if where in (-1, 2) or (where is None and picture.shape[0] not in (1, 3)):
        return picture.movedim(-1, 0)
    return picture
