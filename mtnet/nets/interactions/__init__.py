"""Interactions: ``{task: levels} -> {task: levels}`` between the decoders and the heads, the identity at first."""

from mtnet.nets.interactions.by_name import INTERACTIONS, make_interaction
from mtnet.nets.interactions.residual_links import ResidualTaskLinks
from mtnet.nets.interactions.transformer import CrossScaleInteraction

__all__ = ["INTERACTIONS", "CrossScaleInteraction", "ResidualTaskLinks", "make_interaction"]
