"""A made-up chest whose lesions are cuboids, so that boxes and mask agree to the voxel."""

from __future__ import annotations

import numpy as np

from mtnet.training.phantom_bags import DrawnSample

CUBOIDS = (
    (5, 6, 7, 9, 12, 9),
    (20, 3, 25, 27, 9, 30),
    (30, 28, 10, 34, 31, 19),
    (14, 30, 30, 15, 33, 38),
    (36, 10, 36, 44, 15, 41),
)
"""First voxel and one past the last, along i, j, k."""


def cuboid_sample(shape: tuple[int, int, int] = (48, 40, 44)) -> DrawnSample:
    """Lesion n has texture n modulo 4 and the value 0.5 + n / 20 in an image that is 0.1 elsewhere."""
    image = np.full(shape, 0.1, dtype=np.float16)
    mask = np.zeros(shape, dtype=np.uint8)
    for number, (a, b, c, d, e, f) in enumerate(CUBOIDS):
        image[a:d, b:e, c:f] = 0.5 + number / 20
        mask[a:d, b:e, c:f] = 1
    lung = np.zeros(shape, dtype=bool)
    lung[4:-4, 4:-4, 4:-4] = True
    return DrawnSample(
        image, mask, lung, np.asarray(CUBOIDS, dtype=np.float64) - 0.5, np.arange(len(CUBOIDS), dtype=np.int64) % 4
    )
