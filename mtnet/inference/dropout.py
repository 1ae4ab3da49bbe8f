"""How sure a network is of an answer, as hosts ask for it: several passes with its dropout at work."""

from __future__ import annotations

from copy import deepcopy

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def under_dropout(network: nn.Module) -> nn.Module:
    """A copy in the mode of evaluation but for its dropout (Gal and Ghahramani, arXiv 1506.02142).

    Hosts put the whole network into training mode for it; batch norm would take the statistics of the one image that is
    scored, and learn them. A copy, since hosts score several images at once with one network.
    """
    copy = deepcopy(network).eval()
    for module in copy.modules():
        if isinstance(module, _DropoutNd):
            module.train()
    return copy
