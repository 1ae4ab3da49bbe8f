"""The engine on a CUDA device: windows a second against the bare network, device memory, seconds of a whole study.

``python -m benchmarks.cuda`` needs a device; ``make bench-cuda`` runs it, after the tests marked ``gpu``, on a machine
without a network from the pack that ``make gpu-pack`` makes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.chest import agreement, shipped
from benchmarks.machine import describe_machine
from benchmarks.measure import claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.inference.cost import CostMeter
from mtnet.inference.precision import fast_precision
from mtnet.inference.runtimes import prepare
from mtnet.phantoms import draw_chest
from mtnet.predictor import Case, Predictor
from mtnet.structures import Source

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BARE_LIMIT, STUDY_LIMIT_S, LEAST_DICE = 0.95, 3.0, 0.995
SPACING_MM = (0.8, 0.8, 0.8)
SHAPE = (400, 400, 400)


def bare_rate(predictor: Predictor, precision: str, batch: int, seconds: float = 2.0) -> float:
    """Windows a second of the network alone, on a batch that lies on the device; 0 where memory does not hold it."""
    try:
        ready = prepare(predictor.network, "eager", precision, "cuda")  # type: ignore[arg-type]
        windows = torch.rand(batch, 1, *predictor.inferer.roi_size, device="cuda")
        with torch.no_grad():
            for _ in range(3):
                ready(windows, batch)
            torch.cuda.synchronize()
            begun, count = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                ready(windows, batch)
                torch.cuda.synchronize()
                count += batch
        return count / (time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 0.0


def engine_run(predictor: Predictor, case: Case, rounds: int, whole: bool) -> dict[str, Any]:
    """Median seconds and windows a second of the network stage over the study, and the device's peak."""
    inferer = predictor.inferer
    kept, inferer.region = inferer.region, None if whole else inferer.region
    rates, seconds, peak, answers = [], [], 0, None
    try:
        for number in range(rounds + 1):
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
            case.meter.costs.clear()
            answers = predictor.infer(case)
            spent = {cost.stage: cost.seconds for cost in case.meter.costs}
            peak = torch.cuda.max_memory_allocated() - base
            if number:
                rates.append(answers.outputs.windows_run / spent["network"])
                seconds.append(sum(spent.values()))
    finally:
        inferer.region = kept
    return {"seconds": seconds, "rate": statistics.median(rates), "peak": peak, "answers": answers}


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print what was claimed; returns 1 where there is no device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="voxels of the drawn chest")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here: nothing was measured.")
        return 1
    machine = describe_machine()
    machine |= {"gpu": torch.cuda.get_device_name(), "gpu_memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1)}
    phantom = draw_chest(300_000, family="held_out", nodules=8, spacing_mm=SPACING_MM, shape=tuple(options.shape))
    case = Case(phantom.volume, Source(), CostMeter())
    contenders: dict[str, dict[str, Any]] = {}
    claims, reference = [], None
    for precision in dict.fromkeys(("float32", fast_precision("cuda"))):
        predictor = shipped(device="cuda")
        bare = {batch: bare_rate(predictor, precision, batch) for batch in BATCHES}
        best = max(bare, key=lambda batch: bare[batch])
        predictor.inferer.plan = replace(predictor.inferer.plan, precision=precision, batch=best)
        whole = engine_run(predictor, case, options.rounds, whole=True)
        study = engine_run(predictor, case, options.rounds, whole=False)
        contenders[f"bare network, {precision}"] = {"facts": {"batch": best, "windows_a_second": bare[best]}}
        contenders[f"engine, whole volume, {precision}"] = {
            "seconds": whole["seconds"],
            "peak_over_base_bytes": [whole["peak"]],
            "facts": {"batch": best, "windows_a_second": whole["rate"]},
        }
        contenders[f"study, lung region, {precision}"] = {
            "seconds": study["seconds"],
            "peak_over_base_bytes": [study["peak"]],
            "facts": {"batch": best, "windows_a_second": study["rate"]},
        }
        share = whole["rate"] / bare[best]
        claims.append(
            claim(f"engine's windows a second over the bare network's, {precision}", share, BARE_LIMIT, at_least=True)
        )
        seconds = statistics.median(study["seconds"])
        claims.append(
            claim(f"a drawn study of {options.shape[2]} slices, {precision}", seconds, STUDY_LIMIT_S, unit="s")
        )
        outputs = study["answers"].outputs
        if reference is None:
            reference = outputs
        else:
            threshold = next(spec.threshold for spec in predictor.network.outputs if spec.name == "lesions")
            found = agreement(outputs, reference, threshold)
            claims.append(claim(f"Dice of {precision} to float32", found.dice, LEAST_DICE, at_least=True))
    setting = {"study": "x".join(map(str, options.shape)), "rounds": options.rounds}
    write_result("cuda", setting, contenders, claims, machine)
    write_tables()
    print(tell(claims))
    return 0


if __name__ == "__main__":
    sys.exit(main())
