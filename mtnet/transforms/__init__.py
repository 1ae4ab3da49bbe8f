"""MONAI-style transforms of ours."""

from mtnet.transforms.hosts import ResultJsond, SplitOutputsd

__all__ = ["ResultJsond", "SplitOutputsd"]
