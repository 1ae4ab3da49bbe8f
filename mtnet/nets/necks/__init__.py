"""Necks: levels of an encoder to levels that know of one another."""

from mtnet.nets.necks.fpn import FPN

__all__ = ["FPN"]
