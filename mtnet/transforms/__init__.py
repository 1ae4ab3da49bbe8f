"""MONAI-style transforms of ours."""

from mtnet.transforms.hosts import ResultJsond, SpacingAloned, SplitOutputsd
from mtnet.transforms.nodule_patch import AT, LARGEST_CROP_MM, NodulePatchd
from mtnet.transforms.pictures import MaskPictured, PictureChannelsd, PictureRanged, picture_chain

__all__ = [
    "AT",
    "LARGEST_CROP_MM",
    "MaskPictured",
    "NodulePatchd",
    "PictureChannelsd",
    "PictureRanged",
    "ResultJsond",
    "SpacingAloned",
    "SplitOutputsd",
    "picture_chain",
]
