"""One number from the losses of several tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MultiTaskLoss(nn.Module):
    """Sum of w_i * L_i with fixed weights; 0 switches a task off (arXiv 2308.01137 uses 0 and 1).

    A term of name ``n`` gets ``outputs[n]``; where the network has no tensor of that name (boxes come as one tensor a
    level) it gets the whole dictionary and takes its own. It returns a scalar, or a dictionary of scalars to be added.

    Samples without a target for some task train the others: leave the target out for the whole batch, or give
    ``known``. What is missing contributes zero, with a (zero) gradient, so that distributed training sees every
    parameter; a task of weight 0 is not computed and gives no gradient at all.

    Args:
        terms: loss module by output name.
        weights: w_i >= 0 by the same names; 1 where not given.

    Raises:
        ValueError: a weight has no term, or is negative or not finite.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        given = dict(weights or {})
        if set(given) - set(terms):
            raise ValueError(f"weights names {sorted(set(given) - set(terms))}; the terms are {', '.join(terms)}.")
        for name, weight in given.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"The weight of {name!r} is {weight}; expected a number of 0 or more.")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(given.get(name, 1.0)) for name in terms}

    def forward(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Any], known: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total (scalar) and the terms before weighting, detached, named ``n`` or ``n/part``.

        Args:
            outputs: the network's answer, ``(B, ...)`` each, at least one.
            targets: by output name, a tensor ``(B, ...)`` or, for boxes, a list of B items; a name may be absent.
            known: by output name ``(B,)`` bool, which items have that target; all where absent.
        """
        total = torch.zeros((), device=next(iter(outputs.values())).device)
        said: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if self.weights[name] == 0:
                continue
            parts = self._term(name, term, outputs, targets.get(name), (known or {}).get(name))
            for part, value in parts.items():
                said[part] = value.detach()
                total = total + self.weights[name] * value
        return total, said

    def _term(
        self, name: str, term: nn.Module, outputs: Mapping[str, Tensor], target: Any, known: Tensor | None
    ) -> dict[str, Tensor]:
        """The parts of one term over the items that have a target."""
        own = outputs.get(name)
        if target is None or (known is not None and not bool(known.any())):
            answers = outputs.values() if own is None else (own,)
            return {name: torch.stack([answer.float().sum() * 0 for answer in answers]).sum()}
        if own is None:
            if known is not None:
                target = [item if has else None for item, has in zip(target, known.tolist(), strict=True)]
            loss = term(outputs, target)
        elif known is None:
            loss = term(own, target)
        else:
            loss = term(own[known.to(own.device)], target[known.to(target.device)])
        return {f"{name}/{part}": value for part, value in loss.items()} if isinstance(loss, dict) else {name: loss}
