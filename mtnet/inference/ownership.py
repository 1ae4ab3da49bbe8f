"""Which window a box belongs to, so that a lesion on a seam is told once and by the window that saw it best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Ownership:
    """Boxes belong to the window, among those that ran and hold the box's centre, whose own centre is nearest.

    Distance is Euclidean in voxels. On a tie the window that comes first in ``starts`` owns the box. On a grid of
    windows this is the nearest window along every axis.

    Two windows place the centre of one lesion a little differently. Where it falls within ``margin`` voxels of the
    plane half way between them, each may place it on the other's side, and by the bare rule both would stay silent.
    So a box within that margin is not lost but ranks behind every box that belongs to its window: suppression keeps it
    only where the owner told nothing there.

    Args:
        starts: ``(W, D)`` first voxel of every window that runs.
        window: voxels along each axis.
        margin: in voxels.
    """

    def __init__(self, starts: NDArray[np.int64], window: tuple[int, ...], margin: float) -> None:
        self._low = starts.astype(np.float64) - 0.5
        self._window = np.asarray(window, dtype=np.float64)
        self._centre = self._low + self._window / 2
        self._margin = margin

    def judge(self, window: int, centre_index: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """For boxes found in ``window`` with centres ``(N, D)``: which belong to it, and which are within the margin.

        Returns:
            ``(N,)`` owned and ``(N,)`` near; an owned box is near too.
        """
        rivals = self._neighbours(window)
        inside = _holds(self._low[window], self._window, centre_index)
        slack = _holds(self._low[window] - self._margin, self._window + 2 * self._margin, centre_index)
        if not len(rivals):
            return inside, slack
        own, other = self._centre[window], self._centre[rivals]
        unit = (other - own) / np.linalg.norm(other - own, axis=1, keepdims=True)
        # Signed distance (R, N) of each box's centre beyond the plane half way to each rival that holds it.
        past = unit @ centre_index.T - ((own + other) / 2 * unit).sum(axis=1, keepdims=True)
        holds = _holds(self._low[rivals][:, None], self._window, centre_index)
        past = np.where(holds, past, -np.inf)
        beyond = past.max(axis=0)
        lost_tie = ((past == 0) & (rivals < window)[:, None]).any(axis=0)
        return inside & (beyond <= 0) & ~lost_tie, slack & (beyond <= self._margin)

    def _neighbours(self, window: int) -> NDArray[np.int64]:
        """Windows that a box of ``window``, or one within the margin of it, can belong to instead."""
        apart = np.abs(self._low - self._low[window])
        near = (apart <= self._window + self._margin).all(axis=1)
        near[window] = False
        return np.nonzero(near)[0]


def _holds(low: Floats, size: Floats, points: Floats) -> NDArray[np.bool_]:
    return np.asarray(((points >= low) & (points < low + size)).all(axis=-1))
