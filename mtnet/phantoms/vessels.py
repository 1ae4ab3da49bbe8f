"""Vessel and airway trees that fill the lungs: recursive subdivision of target points, radii by Murray's law."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def grow(
    rng: np.random.Generator,
    root_mm: tuple[float, float, float],
    targets_mm: Points,
    *,
    leaf_radius_mm: float,
    exponent: float = 2.7,
    wiggle: float = 0.05,
) -> Points:
    """Grow a tree from a root to every target point.

    The points are split in two by the plane across their longest axis again and again, and a branch runs part of the
    way to the middle of each half (the volume-filling branching of Tawhai et al., Ann Biomed Eng 28, 2000). A branch
    that feeds n points has radius ``leaf * n ** (1 / exponent)`` (Murray's law; 2.7 is what casts of lungs show).

    Returns:
        ``(n, 8)`` segments: start xyz, end xyz, start radius, end radius, in mm, root first.
    """
    segments: list[Points] = []
    power = 1 / exponent
    first = leaf_radius_mm * len(targets_mm) ** power
    stack = [(np.asarray(root_mm, dtype=np.float64), np.zeros(3), np.arange(len(targets_mm)), first)]
    while stack:
        start, heading, members, before = stack.pop()
        for half in _split(rng, targets_mm, members):
            if len(half) == 0:
                continue
            middle = targets_mm[half].mean(axis=0)
            share = 1.0 if len(half) == 1 else rng.uniform(0.36, 0.6)
            end = start + share * (middle - start)
            radius = leaf_radius_mm * len(half) ** power
            pieces = _curve(rng, start, end, heading=heading, r0=min(before, 1.15 * radius), r1=radius, wiggle=wiggle)
            segments.append(pieces)
            if len(half) > 1:
                onward = pieces[-1, 3:6] - pieces[-1, :3]
                stack.append((end, onward / max(float(np.linalg.norm(onward)), 1e-6), half, radius))
    return np.concatenate(segments) if segments else np.zeros((0, 8))


def _split(rng: np.random.Generator, points: Points, members: NDArray[np.intp]) -> tuple[NDArray[np.intp], ...]:
    if len(members) == 1:
        return (members,)
    own = points[members]
    centred = own - own.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(centred @ axis)
    cut = int(np.clip(round(len(members) * rng.uniform(0.3, 0.7)), 1, len(members) - 1))
    return members[order[:cut]], members[order[cut:]]


def _curve(
    rng: np.random.Generator, start: Points, end: Points, *, heading: Points, r0: float, r1: float, wiggle: float
) -> Points:
    """A branch as short straight pieces that leaves its parent along ``heading`` and bends towards its end."""
    length = float(np.linalg.norm(end - start))
    pieces = int(np.clip(np.ceil(length / 7), 1, 6))
    t = np.linspace(0, 1, pieces + 1)
    line = start + t[:, None] * (end - start)
    if pieces > 1:
        bend = rng.normal(0, wiggle * length, 3)
        line += np.sin(np.pi * t)[:, None] * bend + (1.1 * length * t * (1 - t) ** 2)[:, None] * heading
        line[1:-1] += rng.normal(0, 0.02 * length, (pieces - 1, 3))
    radii = r0 + t * (r1 - r0)
    return np.concatenate([line[:-1], line[1:], radii[:-1, None], radii[1:, None]], axis=1)


def beside(segments: Points, direction: Points, gap: float) -> Points:
    """The same tree moved sideways by ``gap`` times the local radius: the airway that goes with an artery."""
    moved = segments.copy()
    moved[:, :3] += direction * gap * segments[:, 6:7]
    moved[:, 3:6] += direction * gap * segments[:, 7:8]
    return moved


def widened(segments: Points, add_mm: float, factor: float = 1.0) -> Points:
    """The same tree with radii ``factor * r + add_mm``."""
    wide = segments.copy()
    wide[:, 6:] = factor * wide[:, 6:] + add_mm
    return wide
