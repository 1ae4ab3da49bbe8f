"""``mtnet batch`` beside a plain loop over the same studies in one process, and a second run of a finished batch.

``python -m benchmarks.batch`` draws studies, measures, writes ``benchmarks/results/batch--<machine>.json`` and rewrites
``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chest import FIRST_SEED
from benchmarks.machine import describe_machine
from benchmarks.measure import claim, ratio_claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.bundle import find_bundle
from mtnet.phantoms import draw_chest
from mtnet.phantoms.dicom import write_study

BATCH, LOOP, AGAIN = "mtnet batch", "a loop of Predictor.run and the writers", "mtnet batch, finished before"
SPACING_MM = (1.2, 1.2, 2.0)
LIMIT, GPU_LIMIT, AGAIN_LIMIT_S = 1.0, 0.8, 5.0


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8, help="drawn studies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bundle", default="chest_ct_multitask", metavar="NAME|DIR")
    parser.add_argument("--loop", nargs=2, type=Path, metavar=("SOURCE", "OUT"), help="only run the plain loop")
    options = parser.parse_args(arguments)
    if options.loop:
        loop(*options.loop, options.bundle, options.device)
        return
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        draw(source, options.count)
        taken = measure(source, Path(folder), options.rounds, options.bundle, options.device)
    limit = LIMIT if options.device == "cpu" else GPU_LIMIT
    ours, theirs = taken[BATCH]["seconds"], taken[LOOP]["seconds"]
    claims = [
        ratio_claim(f"{BATCH} against {LOOP}, process start included", ours, theirs, limit),
        claim("a second run of a finished batch", max(taken[AGAIN]["seconds"]), AGAIN_LIMIT_S, unit="s"),
    ]
    setting = {key: getattr(options, key) for key in ("count", "rounds", "bundle", "device")}
    write_result("batch" if options.device == "cpu" else "batch_cuda", setting, taken, claims, machine)
    write_tables()
    print(tell(claims))


def draw(source: Path, count: int) -> None:
    """Drawn chests, a folder each."""
    for seed in range(count):
        write_study(draw_chest(FIRST_SEED + seed, spacing_mm=SPACING_MM), source / f"{seed:03d}")
        print(f"drawn {seed + 1}/{count}", file=sys.stderr)


def measure(source: Path, folder: Path, rounds: int, bundle: str, device: str) -> dict[str, dict[str, Any]]:
    """Seconds, and seconds of the processor, of each contender in every round; they take turns to be first."""
    taken: dict[str, dict[str, Any]] = {name: {"seconds": [], "cpu_seconds": []} for name in (BATCH, LOOP, AGAIN)}
    how = ["--bundle", bundle, "--device", device]
    for number in range(rounds):
        out = folder / f"batch {number}"
        batch = ["-m", "mtnet", "batch", str(source), str(out), *how]
        plain = ["-m", "benchmarks.batch", "--loop", str(source), str(folder / f"loop {number}"), *how]
        work = [(BATCH, batch), (LOOP, plain)]
        for name, command in (*(work if number % 2 == 0 else work[::-1]), (AGAIN, batch)):
            seconds, cpu_seconds = run(command)
            taken[name]["seconds"].append(seconds)
            taken[name]["cpu_seconds"].append(cpu_seconds)
            print(f"round {number + 1}/{rounds} {name}: {seconds:.1f} s", file=sys.stderr)
    return taken


def run(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and processor seconds of a process of this interpreter, with those of its children."""
    begun, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-W", "ignore", *command], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, cpu


def loop(source: Path, out: Path, bundle: str, device: str) -> None:
    """What a person would write: one study after the other, each with all its files."""
    from mtnet.predictor import Predictor
    from mtnet.results import write_results

    predictor = Predictor.from_bundle(find_bundle(bundle), device=device)
    for study in sorted(source.iterdir()):
        case = predictor.read(study)
        findings = predictor.finish(case, predictor.infer(case))
        write_results(findings, case.volume, out / study.name, image=case.header)


if __name__ == "__main__":
    main()
