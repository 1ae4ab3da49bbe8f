"""MONAI-style transforms of ours."""

from mtnet.transforms.hosts import ResultJsond, SplitOutputsd
from mtnet.transforms.pictures import PictureChannelsd, PictureRanged, picture_chain

__all__ = ["PictureChannelsd", "PictureRanged", "ResultJsond", "SplitOutputsd", "picture_chain"]
