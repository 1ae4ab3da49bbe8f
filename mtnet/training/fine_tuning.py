"""Beginning a training with weights that exist, on one's own labels too."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mtnet.nets.state_dict_io import read_state
from mtnet.training.samples import CLASS

_LOG = logging.getLogger("mtnet.training")
_FITTING = 0.5


def started_from(network: nn.Module, weights: str | None) -> nn.Module:
    """The network, with what fits it of a file of weights where one is named.

    Heads for other labels have other shapes: what does not fit begins anew, and the log says what.

    Args:
        network: to begin with.
        weights: file that ``mtnet.nets.save_state`` wrote; None for none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plain state dict, or less than half of the network is in it.
    """
    if not weights:
        return network
    path = Path(weights)
    found, own = read_state(path), network.state_dict()
    fitting = {name: found[name] for name, tensor in own.items() if name in found and found[name].shape == tensor.shape}
    share = sum(own[name].numel() for name in fitting) / max(1, sum(tensor.numel() for tensor in own.values()))
    if share < _FITTING:
        raise ValueError(
            f"Only {share:.0%} of the network's weights are in {path.name}: it is of another network. Give the weights "
            "of this bundle, or the options (variant, encoder, decoder) that they were trained with."
        )
    network.load_state_dict(fitting, strict=False)
    new = [name for name in own if name not in fitting]
    if new:
        _LOG.info("new, since %s has nothing that fits: %s", path.name, ", ".join(new))
    if unused := [name for name in found if name not in own]:
        _LOG.info("not used of %s: %s", path.name, ", ".join(unused))
    return network


def class_counts(data: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[int] | None:
    """How many items of ``samples_of`` each class has, for weights of classes; None where one of them has none.

    Args:
        data: items.
        names: of the classes, in the order of the output's labels.
    """
    counted = Counter(item.get(CLASS) for item in data)
    counts = [counted[name] for name in names]
    return counts if all(counts) else None
