"""The shipped network in every runtime and precision against MONAI's inferer in float32, the same windows, none left
out.

``python -m benchmarks.runtimes`` measures on the middle of a drawn chest. ``--without compile`` saves minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.chest import agreement, as_loaded, drawn_image, monai_labels, shipped
from benchmarks.machine import describe_machine
from benchmarks.measure import claim, in_turns, ratio_claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.inference.engine import run
from mtnet.inference.plan import Outputs, Plan
from mtnet.inference.precision import fast_precision
from mtnet.inference.runtimes import RUNTIMES, prepare

PEER = "MONAI eager float32"
LIMIT, LEAST_DICE = 0.25, 0.995


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 160, 112), help="voxels of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", default=[], choices=RUNTIMES, help="runtimes to leave out")
    options = parser.parse_args(arguments)
    machine = describe_machine()

    theirs, ours = as_loaded(shipped().network), shipped()
    image = drawn_image(ours, tuple(options.size))
    plan = replace(ours.inferer.plan, window=tuple(ours.inferer.roi_size))
    work: dict[str, Callable[[], object]] = {
        PEER: lambda: monai_labels(theirs, image, plan.window, plan.overlap, plan.batch),
    }
    plans: dict[str, Plan] = {}
    for runtime in (r for r in RUNTIMES if r not in options.without):
        for precision in dict.fromkeys(("float32", fast_precision("cpu", runtime))):
            plans[f"mtnet {runtime} {precision}"] = replace(plan, runtime=runtime, precision=precision)
    outputs: dict[str, Outputs] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, one in plans.items():
        begun = time.perf_counter()
        ready = prepare(ours.network, one.runtime, one.precision, "cpu")
        with torch.no_grad():
            ready(torch.zeros(plan.batch, 1, *plan.window), plan.batch)
        facts[name] = {"first_pass_seconds": time.perf_counter() - begun}
        print(f"{name}: first pass {facts[name]['first_pass_seconds']:.1f} s", file=sys.stderr)

        def once(name: str = name, one: Plan = one, ready: Any = ready) -> None:
            outputs[name] = run(ours.network, image, one, ready=ready)

        work[name] = once
    taken = in_turns(work, options.rounds)
    threshold = next(spec.threshold for spec in ours.network.outputs if spec.name == "lesions")
    for name in plans:
        found = agreement(outputs[name], outputs["mtnet eager float32"], threshold)
        facts[name] |= {"dice_to_float32": found.dice, "boxes_shared": found.boxes, "boxes_told": found.boxes_told}
    contenders = {name: {**times, "facts": facts.get(name, {})} for name, times in taken.items()}
    claims = _claims(contenders)
    setting = {
        "image": "x".join(map(str, options.size)),
        "window": "x".join(map(str, plan.window)),
        "overlap": plan.overlap,
        "batch": plan.batch,
        "rounds": options.rounds,
        "half": fast_precision("cpu"),
    }
    write_result("runtimes", setting, contenders, claims, machine)
    write_tables()
    print(tell(claims))


def _claims(contenders: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The best runtime among those whose answers agree, and what its answers are worth."""
    agreeing = {
        name: one
        for name, one in contenders.items()
        if name != PEER and one["facts"]["dice_to_float32"] >= LEAST_DICE and one["facts"]["boxes_shared"] == 1.0
    }
    best = min(agreeing, key=lambda name: sorted(agreeing[name]["seconds"])[len(agreeing[name]["seconds"]) // 2])
    peer, facts = contenders[PEER]["seconds"], agreeing[best]["facts"]
    return [
        ratio_claim(f"best runtime on this CPU without skipping ({best})", agreeing[best]["seconds"], peer, LIMIT),
        claim("its Dice to the labels of float32", facts["dice_to_float32"], LEAST_DICE, at_least=True),
        claim("its boxes shared with float32 at IoU 0.5", facts["boxes_shared"], 1.0, at_least=True),
    ]


if __name__ == "__main__":
    main()
