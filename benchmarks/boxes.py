"""Suppression and fusion of ten thousand boxes, dense and sparse, on one core.

``python -m benchmarks.boxes`` measures ``mtnet.detection.suppress`` beside MONAI's ``non_max_suppression`` (2,000 boxes
of the same density: it holds all pairs) and ``fuse``. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from monai.data.box_utils import non_max_suppression
from torch import Tensor

from benchmarks.machine import describe_machine
from benchmarks.measure import Work, claim, in_turns, tell, write_result
from benchmarks.tables import write_tables
from mtnet.detection import fuse, suppress

COUNT = 10_000
PEER_COUNT = 2_000
SUPPRESS_IOU, FUSE_IOU = 0.22, 0.55
EXTENTS = {"dense": 30.0, "crowded": 100.0, "sparse": 1000.0}
"""Edge in voxels of the square or cube that boxes of 5 to 15 voxels lie in."""
LIMIT_S = 0.5


def boxes(count: int, dims: int, extent: float) -> tuple[Tensor, Tensor]:
    """Boxes with low corners drawn evenly, and their scores."""
    draw = torch.Generator().manual_seed(1)
    low = torch.rand(count, dims, generator=draw) * extent
    return torch.cat([low, low + 5 + 10 * torch.rand(count, dims, generator=draw)], 1), torch.rand(
        count, generator=draw
    )


def work() -> Work:
    """Every contender by name."""
    made: dict[str, object] = {}
    for dims in (2, 3):
        for density, extent in EXTENTS.items():
            box, score = boxes(COUNT, dims, extent)
            few, few_score = boxes(PEER_COUNT, dims, extent * (PEER_COUNT / COUNT) ** (1 / dims))
            label = torch.zeros(COUNT, dtype=torch.long)
            fours = [list(values.split(COUNT // 4)) for values in (box, score, label)]
            made[f"suppress, {dims}D, {density}"] = lambda b=box, s=score: suppress(b, s, SUPPRESS_IOU)
            made[f"fuse, {dims}D, {density}"] = lambda f=fours: fuse(*f, FUSE_IOU)
            made[f"suppress, {dims}D, {density}, {PEER_COUNT}"] = lambda b=few, s=few_score: suppress(
                b, s, SUPPRESS_IOU
            )
            made[f"MONAI, {dims}D, {density}, {PEER_COUNT}"] = lambda b=few, s=few_score: non_max_suppression(
                b, s, SUPPRESS_IOU
            )
    return made  # type: ignore[return-value]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine = describe_machine()
    taken = in_turns(work(), options.rounds)
    claims = [
        claim(f"10,000 boxes on one core: {name}", statistics.median(times["cpu_seconds"]), LIMIT_S, unit="s")
        for name, times in taken.items()
        if not name.endswith(f", {PEER_COUNT}")
    ]
    setting = {"boxes": COUNT, "iou of suppression": SUPPRESS_IOU, "iou of fusion": FUSE_IOU, "rounds": options.rounds}
    write_result("boxes", setting, taken, claims, machine)
    write_tables()
    print(tell(claims))


if __name__ == "__main__":
    main()
