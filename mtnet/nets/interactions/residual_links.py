"""Residual links between the pooled features of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class ResidualTaskLinks(nn.Module):
    """Each task adds a linear map of every other task's vector to its own (the idea of Res-MTNet, arXiv 2502.19692).

    The paper shares residual links between its two tasks against vanishing gradients; its wiring is not published in a
    form that we could read. Ours: maps without bias that are 0 at first, so the links start as the identity, and each
    task learns first what it would learn alone. A map of 0 has a gradient, so nothing else is needed to start it.

    Args:
        channels: by task, of its pooled levels; the last one is linked.

    Raises:
        ValueError: fewer than two tasks.
    """

    def __init__(self, channels: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"ResidualTaskLinks has tasks {list(channels)}; expected two or more.")
        self.tasks: tuple[str, ...] = tuple(channels)
        pairs = [(giver, taker) for taker in channels for giver in channels if giver != taker]
        self.givers = [giver for giver, _ in pairs]
        self.takers = [taker for _, taker in pairs]
        self.links = nn.ModuleList(
            nn.Linear(channels[giver][-1], channels[taker][-1], bias=False) for giver, taker in pairs
        )
        for link in self.links:
            nn.init.zeros_(link.weight)  # type: ignore[arg-type]

    def forward(self, levels: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Link the last level of each task: ``{task: [..., (B, C)]} -> `` the same, shapes kept.

        Raises:
            ValueError: a linked level is not pooled.
        """
        changed: dict[str, list[Tensor]] = {}
        for task in self.tasks:
            if levels[task][-1].dim() != 2:
                raise ValueError("ResidualTaskLinks needs pooled levels (B, C); pool the levels in the decoder.")
            changed[task] = [level for level in levels[task]]  # noqa: C416  # TorchScript knows no list(...) of a list
        for n, link in enumerate(self.links):
            linked = changed[self.takers[n]]
            linked[-1] = linked[-1] + link(levels[self.givers[n]][-1])
        return changed
