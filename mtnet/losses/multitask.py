"""One number from the losses of several tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mtnet.losses.weighting import TaskForm, UncertaintyWeighting, convex_weights

Weighting = Literal["fixed", "convex", "uncertainty", "uncertainty_log1p"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


class MultiTaskLoss(nn.Module):
    """Sum of w_i * L_i; a weight of 0 switches a task off (arXiv 2308.01137 uses 0 and 1).

    A term of name ``n`` gets ``outputs[n]``; a term that has ``tensor_names``, or whose name is no tensor's (boxes come
    as one tensor a level), gets the whole dictionary and takes its own. It returns a scalar, or a dictionary of scalars
    to be added.

    Samples without a target for some task train the others: leave the target out for the whole batch, give ``known``,
    or give a list with ``None`` for them. What is missing contributes zero, with a (zero) gradient, so that distributed
    training sees every parameter; a task of weight 0 is not computed and gives no gradient at all.

    Args:
        terms: loss module by output name.
        weights: w_i >= 0 by the same names; 1 where not given.
        weighting: ``fixed``: the weights as they are; ``convex``: all but one are given, and the last is 1 minus their
            sum; ``uncertainty`` or ``uncertainty_log1p``: learned ones (``UncertaintyWeighting``) times the fixed.
        forms: for learned weights, the terms that are regressions; the others count as classification.

    Raises:
        ValueError: a weight or form has no term, a weight is negative or not finite, or the weighting is unknown.
    """

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        weights: Mapping[str, float] | None = None,
        *,
        weighting: Weighting = "fixed",
        forms: Mapping[str, TaskForm] | None = None,
    ) -> None:
        super().__init__()
        given = dict(weights or {})
        for what, names in (("weights", given), ("forms", forms or {})):
            if set(names) - set(terms):
                raise ValueError(f"{what} names {sorted(set(names) - set(terms))}; the terms are {', '.join(terms)}.")
        for name, weight in given.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"The weight of {name!r} is {weight}; expected a number of 0 or more.")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(WEIGHTINGS)}.")
        if weighting == "convex":
            given = convex_weights(tuple(terms), given)
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(given.get(name, 1.0)) for name in terms}
        self.learned: UncertaintyWeighting | None = None
        if weighting in ("uncertainty", "uncertainty_log1p"):
            active = {name: (forms or {}).get(name, "classification") for name in terms if self.weights[name]}
            self.learned = UncertaintyWeighting(active, "log" if weighting == "uncertainty" else "log1p")

    def forward(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Any], known: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total (scalar) and the terms before weighting, detached, named ``n`` or ``n/part``.

        Args:
            outputs: the network's answer, ``(B, ...)`` each, at least one.
            targets: by output name, a tensor ``(B, ...)``, or a list of B items (boxes: always), ``None`` for missing;
                a name may be absent. Items of a tensor that are all NaN, or negative integers, count as missing.
            known: by output name ``(B,)`` bool, which items have that target; all where absent.
        """
        total = torch.zeros((), device=next(iter(outputs.values())).device)
        said: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if self.weights[name] == 0:
                continue
            target, has = _items(targets.get(name), (known or {}).get(name))
            taught = target is not None and (has is None or bool(has.any()))
            parts = self._term(name, term, outputs, target, has) if taught else {name: _nothing(name, term, outputs)}
            for part, value in parts.items():
                said[part] = value.detach()
            loss = torch.stack(list(parts.values())).sum()
            if self.learned is not None:
                loss = self.learned(name, loss, taught)
            total = total + self.weights[name] * loss
        return total, said

    def _term(
        self, name: str, term: nn.Module, outputs: Mapping[str, Tensor], target: Any, known: Tensor | None
    ) -> dict[str, Tensor]:
        """The parts of one term over the items that have a target."""
        own = outputs.get(name)
        if own is None:
            if known is not None:
                target = [item if has else None for item, has in zip(target, known.tolist(), strict=True)]
            loss = term(outputs, target)
        else:
            tensors = {key: outputs[key] for key in _read(name, term, outputs)}
            if known is not None:
                tensors = {key: tensor[known.to(tensor.device)] for key, tensor in tensors.items()}
                target = _known_items(target, known)
            loss = term(tensors if hasattr(term, "tensor_names") else tensors[name], target)
        return {f"{name}/{part}": value for part, value in loss.items()} if isinstance(loss, dict) else {name: loss}


def _known_items(target: Any, known: Tensor) -> Any:
    if isinstance(target, Tensor):
        return target[known.to(target.device)]
    return [item for item, has in zip(target, known.tolist(), strict=True) if has]


def _read(name: str, term: nn.Module, outputs: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that a term reads; all of them where neither it nor its name says which, and where the
    network, built for other tasks, has none of them."""
    names = [str(key) for key in getattr(term, "tensor_names", (name,))]
    return [key for key in names if key in outputs] or list(outputs)


def _nothing(name: str, term: nn.Module, outputs: Mapping[str, Tensor]) -> Tensor:
    """Zero, but tied to every tensor that the term would read."""
    return torch.stack([outputs[key].float().sum() * 0 for key in _read(name, term, outputs)]).sum()


def _items(target: Any, known: Tensor | None) -> tuple[Any, Tensor | None]:
    """The target, a list of tensors as one tensor, and which items have it; None where none is known to lack it."""
    if isinstance(target, (list, tuple)):
        has = torch.tensor([item is not None for item in target])
        present = [item for item in target if isinstance(item, Tensor)]
        if present:
            target = torch.stack([torch.zeros_like(present[0]) if item is None else item for item in target])
        return target, has if known is None else has & known.cpu()
    if not isinstance(target, Tensor) or target.ndim == 0:
        return target, known
    # Every loss term takes these for unknown, so an item of nothing else has no target.
    unknown = torch.isnan(target) if target.is_floating_point() else target < 0
    lacks = unknown.flatten(1).all(1) if target.ndim > 1 else unknown
    if not bool(lacks.any()):
        return target, known
    return target, ~lacks if known is None else ~lacks & known.to(lacks.device)
