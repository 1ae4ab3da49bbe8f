"""Decoders: levels of an encoder or a neck to the level or levels that one head reads."""

from mtnet.nets.decoders.levels import PickLevels
from mtnet.nets.decoders.reconstruction import ReconstructionDecoder
from mtnet.nets.decoders.unet import UNetDecoder

__all__ = ["PickLevels", "ReconstructionDecoder", "UNetDecoder"]
