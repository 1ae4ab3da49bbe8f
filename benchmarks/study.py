"""A whole study through ``mtnet infer``'s chain in a warm process, by stage, and the region's windows against MONAI's
on the whole volume.

``python -m benchmarks.study`` takes the real chest CT under ``MTNET_DATA``, or another with ``--study``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.chest import as_loaded, monai_labels, shipped
from benchmarks.machine import describe_machine
from benchmarks.measure import claim, in_turns, ratio_claim, tell, write_result
from benchmarks.scoreboard import DATA
from benchmarks.tables import write_tables
from mtnet.answers import prepared
from mtnet.inference.inferer import MultiTaskInferer
from mtnet.inference.plan import Outputs
from mtnet.inference.region import Region
from mtnet.predictor import Predictor
from mtnet.structures import Geometry
from mtnet.study_folder import answer_studies

MONAI_WHOLE, MTNET_REGION = "MONAI, whole volume", "mtnet, lung region, all answers restored"
LIMITS_S = {"all": 60.0, "all but the network's forward": 12.0, "write": 4.0}
REGION_LIMIT, DENSE_TOLERANCE = 0.7, 1e-5


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=DATA / "chest_ct_study" / "Lung_Dx-A0001")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages-only", action="store_true", help="leave out the comparison with MONAI's inferer")
    options = parser.parse_args(arguments)
    if not options.study.exists():
        print(f"There is no study {options.study.name}; set MTNET_DATA or give --study. Nothing was measured.")
        return
    machine = describe_machine()
    predictor = shipped()
    stages = measure_stages(predictor, options.study, options.rounds)
    contenders: dict[str, dict[str, Any]] = {f"stage: {name}": {"seconds": seconds} for name, seconds in stages.items()}
    claims = [
        claim(f"{name}, seconds of the study in a warm process", statistics.median(stages[name]), limit, unit="s")
        for name, limit in LIMITS_S.items()
    ]
    setting: dict[str, Any] = {"study": options.study.name, "rounds": options.rounds}
    if not options.stages_only:
        taken, facts, agreed = measure_region(predictor, options.study, options.rounds)
        contenders |= taken
        setting |= facts
        claims.append(
            ratio_claim(
                "lung region, all answers, against MONAI's inferer on the whole volume",
                taken[MTNET_REGION]["seconds"],
                taken[MONAI_WHOLE]["seconds"],
                REGION_LIMIT,
            )
        )
        claims.append(claim("largest difference of dense answers within the region", agreed, DENSE_TOLERANCE))
    write_result("study", setting, contenders, claims, machine)
    write_tables()
    print(tell(claims))


def measure_stages(predictor: Predictor, study: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of every stage in every round, after one run that does not count."""
    taken: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as out, forward_seconds(predictor.network) as forward:
            begun = time.perf_counter()
            (outcome,) = answer_studies(predictor, study, Path(out) / "out")
            seconds = {"all": time.perf_counter() - begun}
        if outcome.written is None:
            raise SystemExit(f"{study.name} was refused: {'; '.join(line.message for line in outcome.refusal)}")
        for cost in outcome.written.findings.costs:
            seconds[cost.stage] = seconds.get(cost.stage, 0.0) + cost.seconds
        seconds["network's forward"] = forward[0]
        seconds["all but the network's forward"] = seconds["all"] - forward[0]
        print(f"round {number}: " + ", ".join(f"{k} {v:.2f} s" for k, v in seconds.items()), file=sys.stderr)
        if number:
            for name, one in seconds.items():
                taken.setdefault(name, []).append(one)
    return taken


@contextmanager
def forward_seconds(network: torch.nn.Module) -> Iterator[list[float]]:
    """While entered, seconds spent in the network's forward add up in the one value that is given."""
    total, begun = [0.0], [0.0]

    def before(_net: torch.nn.Module, _inputs: Any) -> None:
        begun[0] = time.perf_counter()

    def after(_net: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        total[0] += time.perf_counter() - begun[0]

    handles = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()


def measure_region(
    predictor: Predictor, study: Path, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], float]:
    """MONAI's inferer on the whole volume beside the region's windows, shares, and how dense answers differ within."""
    case = predictor.read(study)
    whole, grid = prepared(case, predictor.preprocessing)
    image, inferer = whole[None], predictor.inferer
    theirs = as_loaded(shipped().network)
    padded, _, window = inferer.padded(image, predictor.network)
    work: dict[str, Callable[[], object]] = {
        MONAI_WHOLE: lambda: monai_labels(theirs, padded, window, inferer.plan.overlap, inferer.plan.batch),
        MTNET_REGION: lambda: inferer.outputs_of(image, predictor.network, grid=grid, target=case.volume.geometry),
    }
    taken = in_turns(work, rounds, warm_up=False)
    outputs, region = inferer.outputs_of(image, predictor.network, grid=grid)
    assert region is not None and inferer.region is not None
    body = Region("body", inferer.region.hu_window).of(image[0, 0], grid)
    facts = {
        "image": "x".join(map(str, image.shape[2:])),
        "share of the image in the lung region": region.share,
        "share of the image in the body": body.share,
        "windows run": outputs.windows_run,
        "windows of the whole image": outputs.windows_total,
    }
    return taken, facts, _difference(inferer, predictor, image, grid, region.mask.numpy())


def _difference(
    inferer: MultiTaskInferer, predictor: Predictor, image: Tensor, grid: Geometry, inside: np.ndarray[Any, Any]
) -> float:
    """Largest difference within the region of probabilities, and of values over the range that they can take."""
    window = inferer.region.hu_window if inferer.region else None
    scale = 1.0 if window is None else window[1] - window[0]
    found: list[Outputs] = []
    for region in (inferer.region, None):
        one = MultiTaskInferer(inferer.roi_size, inferer.plan.overlap, region=region)
        one.plan = replace(inferer.plan, keep_probabilities=True)
        found.append(one.outputs_of(image, predictor.network, grid=grid)[0])
    largest = 0.0
    for name, dense in found[0].dense.items():
        other = found[1].dense[name]
        a, b = (d.array if d.probabilities is None else d.probabilities for d in (dense, other))
        inside = inside[tuple(slice(n) for n in a.shape[1:])]
        divisor = scale if dense.probabilities is None else 1.0
        largest = max(largest, float(np.abs(a - b)[:, inside].max()) / divisor)
    return largest


if __name__ == "__main__":
    main()
