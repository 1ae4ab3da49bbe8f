"""What a network is made of, measured on one pass: its parts, the levels between them, parameters and work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mtnet.nets.encoders import TimmEncoder
from mtnet.nets.heads import DecodingHead
from mtnet.nets.macs import MacCounter, counted_macs
from mtnet.nets.necks import NeckChain
from mtnet.nets.network import Branch, MultiTaskNet

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a network.

    Args:
        made_by: name of its class; of those within where it only joins them (``SPP + FPN``).
        parameters: trained values.
        macs: multiply-accumulates of one pass.
        levels: shapes ``(C, *S)`` of what it gives, without the batch; of an interaction none, since it keeps shapes.
    """

    made_by: str
    parameters: int
    macs: int
    levels: tuple[Shape, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskOutline:
    """One branch: what it reads, its two parts, and the shapes of its tensors by name."""

    reads: str
    interacts: bool
    decoder: Part
    head: Part
    tensors: dict[str, Shape]


@dataclass(frozen=True, slots=True)
class Outline:
    """A whole network for an image of ``image`` ``(C, *S)``; the numbers are of the whole, too."""

    image: Shape
    encoder: Part
    neck: Part | None
    interaction: Part | None
    tasks: dict[str, TaskOutline]
    parameters: int
    macs: int


def outline(network: MultiTaskNet, image: Sequence[int]) -> Outline:
    """Outline a network by one pass over a black image ``(C, *S)``, in ``eval`` mode.

    On the device ``meta`` (a network that was built ``with torch.device("meta")``) nothing is computed.

    Raises:
        ValueError: the network does not take an image of that size; the message names one that it takes.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    branches: dict[str, Branch] = {task: network.branches[task] for task in network.answering}  # type: ignore[misc]
    parts: dict[str, nn.Module] = {"encoder": network.encoder}
    if network.neck is not None and network.runs_neck:
        parts["neck"] = network.neck
    if network.interaction is not None and network.runs_interaction:
        parts["interaction"] = network.interaction
    for task, branch in branches.items():
        parts |= {f"{task}.decoder": branch.decoder, f"{task}.head": branch.head}
    with torch.no_grad(), counted_macs() as counter:
        taken = {name: _Taken(part, counter) for name, part in parts.items()}
        try:
            network(torch.zeros(1, *image, device=device))
        finally:
            for one in taken.values():
                one.remove()
            network.train(was_training)
    told = {name: one.part() for name, one in taken.items()}
    return Outline(
        tuple(image),
        told["encoder"],
        told.get("neck"),
        told.get("interaction"),
        {
            task: TaskOutline(
                "neck" if branch.reads_neck else "encoder",
                "interaction" in told and task in network.interacting,
                told[f"{task}.decoder"],
                told[f"{task}.head"],
                {name: _shape(tensor) for name, tensor in taken[f"{task}.head"].gave.items()},
            )
            for task, branch in branches.items()
        },
        sum(p.numel() for p in network.parameters()),
        counter.macs,
    )


class _Taken:
    """Hooks on one part, and what they saw."""

    def __init__(self, part: nn.Module, counter: MacCounter) -> None:
        self._part = part
        self._counter = counter
        self._macs = 0
        self.gave: Any = ()
        self._hooks: list[RemovableHandle] = [
            part.register_forward_pre_hook(self._before),
            part.register_forward_hook(self._after),
        ]

    def _before(self, *_: Any) -> None:
        self._macs = self._counter.macs

    def _after(self, module: nn.Module, given: Any, gave: Any) -> None:
        self._macs = self._counter.macs - self._macs
        self.gave = gave

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def part(self) -> Part:
        levels = tuple(_shape(level) for level in self.gave) if isinstance(self.gave, (list, tuple)) else ()
        parameters = sum(p.numel() for p in self._part.parameters())
        return Part(_made_by(self._part), parameters, self._macs, levels)


def _made_by(part: nn.Module) -> str:
    if isinstance(part, TimmEncoder):
        return f"timm {part.name}"
    within = part.necks if isinstance(part, NeckChain) else ()
    if isinstance(part, DecodingHead):
        within = (part.decoder, part.head)  # type: ignore[assignment]
    return " + ".join(_made_by(child) for child in within) if within else type(part).__name__


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape[1:])
