"""Beginning a training with weights that exist, on one's own labels too."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtnet.nets.heads import DecodingHead
from mtnet.nets.state_dict_io import read_state
from mtnet.structures import OutputSpec
from mtnet.training.pretraining import check_licences
from mtnet.training.samples import CLASS

_LOG = logging.getLogger("mtnet.training")
_FITTING = 0.5


def started_from(network: nn.Module, weights: str | Sequence[str] | None, manifest: str | None = None) -> nn.Module:
    """The network, with what fits it of one file of weights or of several.

    Heads for other labels have other shapes: what does not fit begins anew, and the log says what. The weights may be
    another system's, of the same encoder; a task's decoder is found where that system has it. Of several files each
    tensor is the mean of those that have it: one encoder out of networks that were trained from the same one, and of
    each the parts that it alone has (Wortsman et al., arXiv 2203.05482, "Model soups"). Means answer well only where
    the trainings lie near each other (``mtnet evaluate`` tells).

    Args:
        network: to begin with.
        weights: files that ``mtnet.nets.save_state`` wrote; None for none.
        manifest: of the training, whose terms pre-trained weights must not cross.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one is no plain state dict, neither half of the network nor its whole encoder is in them, or one was
            pre-trained on images under stricter terms.
    """
    if not weights:
        return network
    paths = [Path(file) for file in ([weights] if isinstance(weights, str) else weights)]
    for path in paths:
        check_licences(path, manifest)
    own = network.state_dict()
    found = [_as_named_in(network, read_state(path)) for path in paths]
    fitting = {
        name: fits for name, tensor in own.items() if (fits := _mean_of_fitting(name, tensor, found)) is not None
    }
    names = [path.name if len(paths) == 1 else str(path) for path in paths]
    told = " and ".join(names)
    share = sum(own[name].numel() for name in fitting) / max(1, sum(tensor.numel() for tensor in own.values()))
    encoder = [name for name in own if name.startswith("encoder.")]
    if share < _FITTING and not (encoder and fitting.keys() >= set(encoder)):
        raise ValueError(
            f"Only {share:.0%} of the network's weights are in {told}: it is of another network. Give the weights "
            "of this bundle, or the options (variant, encoder, decoder) that they were trained with."
        )
    network.load_state_dict(fitting, strict=False)
    new = [name for name in own if name not in fitting]
    if new:
        _LOG.info("new, since %s has nothing that fits: %s", told, ", ".join(_modules(new, own)))
    for file, state in zip(names, found, strict=True):
        if unused := [name for name in state if name not in own]:
            _LOG.info("not used of %s: %s", file, ", ".join(_modules(unused, state)))
    return network


def _mean_of_fitting(name: str, own: Tensor, found: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
    """The mean of the tensors of a name that have the shape of the network's own; counts are the first one's."""
    fitting = [state[name] for state in found if name in state and state[name].shape == own.shape]
    if not fitting:
        return None
    if len(fitting) == 1 or not own.is_floating_point():
        return fitting[0]
    return torch.stack([tensor.to(own.dtype) for tensor in fitting]).mean(0)


def _as_named_in(network: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state in whose place of ``decoder`` and ``head`` the network may have both as one :class:`DecodingHead`."""
    renamed = dict(found)
    for name, module in network.named_modules():
        if isinstance(module, DecodingHead) and not any(key.startswith(f"{name}.decoder.") for key in found):
            branch = name.removesuffix("head")
            for key in found:
                if key.startswith((f"{branch}decoder.", f"{branch}head.")):
                    renamed[f"{name}.{key.removeprefix(branch)}"] = renamed.pop(key)
    return renamed


def learning_only(network: nn.Module, parts: Sequence[str] | None) -> nn.Module:
    """The network, of which only some parts learn; all of it where none are named.

    Args:
        network: to train.
        parts: names of modules, such as ``lesion`` (the layers that tell of a lesion more than its box) or
            ``decoder``; what lies below a module of such a name learns.

    Raises:
        ValueError: a name is none of the network's modules, or what stands still has statistics that would go on
            moving (batch norm).
    """
    if not parts:
        return network
    modules = {piece for name, _ in network.named_modules() for piece in name.split(".") if piece}
    if unknown := [part for part in parts if part not in modules]:
        known = ", ".join(sorted(piece for piece in modules if not piece.isdigit()))
        raise ValueError(f"No part of the network is called {', '.join(unknown)}; there are {known}.")
    for name, parameter in network.named_parameters():
        parameter.requires_grad = not set(parts).isdisjoint(name.split("."))
    moving = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and set(parts).isdisjoint(name.split("."))
    ]
    if moving:
        raise ValueError(
            f"{moving[0]} and {len(moving) - 1} other layers normalise by batches: their statistics would go on moving "
            "in a part that is to stand still. Train the whole network, or a variant with group norm."
        )
    return network


def _modules(names: Iterable[str], state: Iterable[str]) -> list[str]:
    """Tensors of a state, those of a module that are all among them told as the module."""
    chosen = list(names)
    others = {prefix for name in set(state) - set(chosen) for prefix in accumulate(name.split("."), "{}.{}".format)}
    return list(
        dict.fromkeys(
            next(prefix for prefix in accumulate(name.split("."), "{}.{}".format) if prefix not in others)
            for name in chosen
        )
    )


def class_counts(
    data: Sequence[Mapping[str, Any]], outputs: Sequence[OutputSpec], name: str, balance: float = 0.0
) -> list[float] | None:
    """How often a training sees each class of an output, for weights of classes; None where one of them has no sample.

    Args:
        data: items of ``samples_of``.
        outputs: of the network.
        name: of the output.
        balance: of ``EpochsOfSamples``: rare classes are seen more often, and need the less weight.
    """
    names = [label.name for spec in outputs if spec.name == name for label in spec.labels]
    counted = Counter(item.get(CLASS) for item in data)
    counts = [counted[label] for label in names]
    return [count ** (1 - balance) for count in counts] if counts and all(counts) else None
