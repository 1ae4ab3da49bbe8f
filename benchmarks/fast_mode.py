"""What ``mtnet infer --fast`` costs: network time and Dice against the drawn truth, with and without it.

``python -m benchmarks.fast_mode`` prints both; the help of ``--fast`` quotes them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtnet.bundle import find_bundle
from mtnet.inference.cost import CostMeter
from mtnet.phantoms import Phantom, draw_chest
from mtnet.predictor import Case, Predictor
from mtnet.structures import Source

FIRST_SEED = 200_000
SPACING_MM = (1.0, 1.0, 2.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both modes on the same drawn chests, in turns, and print time, ratio and Dice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="chest_ct_multitask")
    parser.add_argument("--count", type=int, default=3)
    args = parser.parse_args(argv)
    modes = {fast: Predictor.from_bundle(find_bundle(args.bundle), fast=fast) for fast in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    dice: dict[bool, list[float]] = {False: [], True: []}
    for number in range(args.count):
        phantom = draw_chest(FIRST_SEED + number, family="held_out", spacing_mm=SPACING_MM, nodules=8)
        for fast, predictor in modes.items():
            spent, labels = _run(predictor, phantom)
            seconds[fast].append(spent)
            dice[fast].append(_dice(labels > 0, phantom.lesion_map > 0))
    ratio = statistics.median(f / s for s, f in zip(seconds[False], seconds[True], strict=True))
    plan = modes[True].inferer.plan
    print(f"{args.count} drawn chests; fast: overlap {plan.overlap:g}, {plan.precision}")
    slow_s, fast_s = (statistics.median(seconds[fast]) for fast in (False, True))
    print(f"network stage, median: {slow_s:.1f} s, fast {fast_s:.1f} s, ratio {ratio:.2f}")
    print(f"Dice to the drawn nodules, mean: {np.mean(dice[False]):.3f}, fast {np.mean(dice[True]):.3f}")
    return 0


def _run(predictor: Predictor, phantom: Phantom) -> tuple[float, NDArray[np.generic]]:
    case = Case(phantom.volume, Source(), CostMeter())
    answers = predictor.infer(case)
    spent = next(cost.seconds for cost in case.meter.costs if cost.stage == "network")
    return spent, answers.outputs.dense["pred"].array[0]


def _dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (found & truth).sum() / max(int(found.sum()) + int(truth.sum()), 1))


if __name__ == "__main__":
    sys.exit(main())
