"""Necks: levels of an encoder to levels that know of one another."""

from mtnet.nets.necks.cbam import CBAM, ChannelAttention, SpatialAttention
from mtnet.nets.necks.chain import NeckChain
from mtnet.nets.necks.fpn import FPN
from mtnet.nets.necks.pan import PAN
from mtnet.nets.necks.pooled import SharedVector
from mtnet.nets.necks.sdi import SDI
from mtnet.nets.necks.spp import SPP

__all__ = ["CBAM", "FPN", "PAN", "SDI", "SPP", "ChannelAttention", "NeckChain", "SharedVector", "SpatialAttention"]
