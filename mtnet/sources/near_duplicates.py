"""Images that look alike, found by a 16 x 16 difference hash and the correlation of a thumbnail.

Groups are for splitting: two images of one group must not stand on two sides of it. The rule is therefore set to miss
little; look-alikes that are none cost nothing but a coarser split. Frames of a video that moves on are not found: their
sequence has to be told (``groups.csv``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Fingerprint = NDArray[np.float32]

_HASH_BITS = 16 * 16
_THUMBNAIL = 32
ALIKE = 1.35
"""Least mean likeness (see ``likeness``) of the images of a group."""
_BLOCK = 1024


def fingerprint(array: NDArray[np.generic]) -> Fingerprint:
    """What one image is compared by: 256 signs of the difference hash, then 1024 values of the thumbnail.

    The hash tells, for each of 16 x 16 places, whether the image gets brighter to the right there; the thumbnail is 32
    x 32, its mean taken off, of length 1. Both are of brightness, whatever the image's size and shape.

    Args:
        array: ``(C, i, j)``, one or three channels.

    Returns:
        ``(1280,)``, so that the products of two fingerprints' halves are hash agreement x 256 and correlation.
    """
    from PIL import Image

    if array.dtype != np.uint8:
        low = float(array.min())
        span = float(array.max()) - low or 1.0
        array = np.rint((array.astype(np.float32) - low) * (255 / span)).astype(np.uint8)
    pixels = np.ascontiguousarray(array.transpose(2, 1, 0))
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).convert("L")
    # In 8 bits, so that noise in black borders does not fill the hash.
    steps = np.asarray(picture.resize((17, 16), Image.Resampling.BOX))
    signs = np.where(steps[:, 1:] > steps[:, :-1], 1.0, -1.0).ravel()
    small = np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), dtype=np.float32).ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return np.concatenate([signs, small / length if length > 0 else small]).astype(np.float32)


def likeness(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float32]:
    """How alike images ``(n, 1280)`` and ``(m, 1280)`` are, ``(n, m)``, 2 at most.

    The correlation of the thumbnails plus the agreement of the hashes (-1..1, 1 where all bits agree). Noise and marks
    can turn many bits of an image with large even areas: from half a correlation the hash need not agree more than the
    correlation less one half, so that a correlation of 0.925 alone is enough.
    """
    agreement = one[:, :_HASH_BITS] @ two[:, :_HASH_BITS].T / _HASH_BITS
    correlation = one[:, _HASH_BITS:] @ two[:, _HASH_BITS:].T
    return np.asarray(correlation + np.maximum(agreement, correlation - 0.5))


def find_groups(fingerprints: Sequence[Fingerprint]) -> list[int]:
    """Group numbers from 0, in the order of each group's first image.

    Average linkage: two groups become one while the mean likeness over their pairs is ``ALIKE`` or more, so that a
    chain of small likenesses does not join what does not look alike.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import squareform

    count = len(fingerprints)
    if count == 0:
        return []
    stacked = np.stack(list(fingerprints))
    pairs = np.concatenate(list(_alike_pairs(stacked)), axis=1)
    graph = coo_array((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(count, count))
    # A merge at mean likeness >= ALIKE needs one pair that is: components can be clustered one by one.
    _, component = connected_components(graph, directed=False)
    labels: list[tuple[int, int]] = [(int(number), 0) for number in component]
    for number, size in Counter(component.tolist()).items():
        if size > 2:
            members = np.flatnonzero(component == number)
            distance = np.maximum(2.0 - likeness(stacked[members], stacked[members]).astype(np.float64), 0.0)
            distance = (distance + distance.T) / 2
            np.fill_diagonal(distance, 0.0)
            clusters = fcluster(linkage(squareform(distance, checks=False), "average"), 2.0 - ALIKE, "distance")
            for member, cluster in zip(members.tolist(), clusters.tolist(), strict=True):
                labels[member] = (number, cluster)
    order: dict[tuple[int, int], int] = {}
    return [order.setdefault(label, len(order)) for label in labels]


def _alike_pairs(stacked: NDArray[np.float32]) -> Iterator[NDArray[np.intp]]:
    """Pairs ``(2, n)`` of images that are alike, block by block."""
    for start in range(0, len(stacked), _BLOCK):
        rows = stacked[start : start + _BLOCK]
        first, second = np.nonzero(likeness(rows, stacked[start:]) >= ALIKE)
        later = second > first
        yield np.stack([first[later] + start, second[later] + start])


@dataclass(frozen=True, slots=True)
class Agreement:
    """Groups that were found against groups that were given, counted in pairs of images of one group.

    Args:
        given_pairs, found_pairs: pairs in either.
        shared_pairs: pairs in both.
        given_groups, found_groups, largest_found: how many groups, and the size of the largest one found.
    """

    given_pairs: int
    found_pairs: int
    shared_pairs: int
    given_groups: int
    found_groups: int
    largest_found: int

    @property
    def recall(self) -> float:
        """Share of the given pairs that were found; 1 where there are none."""
        return self.shared_pairs / self.given_pairs if self.given_pairs else 1.0

    @property
    def precision(self) -> float:
        """Share of the found pairs that were given; 1 where none were found."""
        return self.shared_pairs / self.found_pairs if self.found_pairs else 1.0


def agreement(found: Sequence[Hashable], given: Sequence[Hashable]) -> Agreement:
    """Compare two groupings of the same images, in the same order."""
    both = list(zip(found, given, strict=True))
    sizes = Counter(found)
    return Agreement(
        given_pairs=_pairs(given),
        found_pairs=_pairs(found),
        shared_pairs=_pairs(both),
        given_groups=len(set(given)),
        found_groups=len(sizes),
        largest_found=max(sizes.values(), default=0),
    )


def _pairs(labels: Sequence[Hashable]) -> int:
    return sum(size * (size - 1) // 2 for size in Counter(labels).values())
