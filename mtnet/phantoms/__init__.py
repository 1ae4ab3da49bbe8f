"""Drawn studies: chest CT phantoms with nodules, for the demo, the tests and training."""

from mtnet.phantoms.chest import Phantom, draw_chest
from mtnet.phantoms.nodules import DrawnNodule, NoduleRequest

__all__ = ["DrawnNodule", "NoduleRequest", "Phantom", "draw_chest"]
