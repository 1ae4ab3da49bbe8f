"""Interactions by the name that a user may type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from mtnet.nets.interactions.residual_links import ResidualTaskLinks
from mtnet.nets.interactions.transformer import CrossScaleInteraction

Levels = Mapping[str, Sequence[int]]


def _cross_scale(spatial_dims: int, channels: Levels, strides: Levels, **options: Any) -> nn.Module:
    return CrossScaleInteraction(spatial_dims, channels, strides, scales="cross", **options)


def _same_scale(spatial_dims: int, channels: Levels, strides: Levels, **options: Any) -> nn.Module:
    return CrossScaleInteraction(spatial_dims, channels, strides, scales="same", **options)


def _residual_links(spatial_dims: int, channels: Levels, strides: Levels, **options: Any) -> nn.Module:
    return ResidualTaskLinks(channels, **options)


def _none(spatial_dims: int, channels: Levels, strides: Levels, **options: Any) -> None:
    return None


INTERACTIONS: dict[str, Callable[..., nn.Module | None]] = {
    "none": _none,
    "same_scale": _same_scale,
    "cross_scale": _cross_scale,
    "residual_links": _residual_links,
}
"""Name to constructor."""


def make_interaction(
    name: str, spatial_dims: int, channels: Levels, strides: Levels, **options: Any
) -> nn.Module | None:
    """The interaction of that name for ``MultiTaskNet``; nothing for ``none``, so that no parameter lies idle.

    Args:
        name: one of ``INTERACTIONS``.
        spatial_dims: 2 or 3.
        channels: by task, of the levels that its decoder gives.
        strides: by task, of the same levels (not read by ``residual_links``).
        options: further arguments of the constructor; ``none`` takes and forgets them.

    Raises:
        ValueError: no interaction has that name.
    """
    if name not in INTERACTIONS:
        raise ValueError(f"interaction is {name!r}; expected one of {', '.join(INTERACTIONS)}.")
    return INTERACTIONS[name](spatial_dims, channels, strides, **options)
