"""The window engine against MONAI's ``SlidingWindowInferer``: the same network, the same windows, time and memory.

``python -m benchmarks.engine`` measures, writes ``benchmarks/results/engine--<machine>.json`` and rewrites
``benchmarks/RESULTS.md``, which says how it was done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from benchmarks.machine import describe_machine, machine_slug, peak_over_base
from benchmarks.tables import RESULTS, write_tables
from mtnet.inference.engine import run
from mtnet.inference.plan import Plan
from mtnet.nets import MultiTaskNet
from mtnet.systems import chest_ct

CONTENDERS = ("monai_one", "mtnet_one", "monai_four", "mtnet_four")
OVERLAP = 0.25


def contender(name: str, size: tuple[int, ...], window: tuple[int, ...], batch: int) -> Callable[[], object]:
    """What is measured: one image of ``size`` through one engine with one output or all four."""
    torch.manual_seed(0)
    net = chest_ct.network(variant="compact", outputs=["pred"] if name.endswith("one") else None).eval()
    image = torch.rand(1, 1, *size)
    if name.startswith("mtnet"):
        plan = Plan(window=window, overlap=OVERLAP, batch=batch)
        return lambda: run(net, image, plan)
    inferer = SlidingWindowInferer(window, batch, OVERLAP, mode="gaussian")
    forward = _full_size_only(net)

    def monai() -> Tensor:
        with torch.no_grad():
            blended: Mapping[str, Tensor] = inferer(image, forward)
            return blended["pred"].argmax(1).to(torch.uint8)

    return monai


def _full_size_only(net: MultiTaskNet) -> Callable[[Tensor], dict[str, Tensor]]:
    """The full forward, less the outputs that MONAI's inferer cannot blend: boxes and image-level answers."""
    kept = [spec.name for spec in net.outputs if spec.kind == "dense"]

    def forward(image: Tensor) -> dict[str, Tensor]:
        answers = net(image)
        return {name: answers[name] for name in kept}

    return forward


def measure_seconds(
    size: tuple[int, ...], window: tuple[int, ...], batch: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds, and seconds of the processor, of every contender in every round.

    Each round runs all of them, beginning with another one each time.
    """
    work = {name: contender(name, size, window, batch) for name in CONTENDERS}
    for once in work.values():
        once()
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        turn = number % len(CONTENDERS)
        for name in (*CONTENDERS[turn:], *CONTENDERS[:turn]):
            started, cpu_started = time.perf_counter(), time.process_time()
            work[name]()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
            print(f"round {number + 1}/{rounds} {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return seconds, cpu_seconds


def measure_memory(options: argparse.Namespace, repeats: int = 3) -> dict[str, list[int]]:
    """Peaks over base of every contender, each in a fresh process."""
    peaks: dict[str, list[int]] = {name: [] for name in CONTENDERS}
    for name in CONTENDERS * repeats:
        told = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.engine", "--memory-of", name, *_passed_on(options)],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[name].append(int(json.loads(told.stdout)["peak_over_base_bytes"]))
        print(f"memory of {name}: {peaks[name][-1] / 2**20:.0f} MiB", file=sys.stderr)
    return peaks


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Ratio of medians, with the range of the ratios of single rounds as its noise."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
        "lowest_round": min(ratios),
        "highest_round": max(ratios),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write, or (``--memory-of``, in a process of its own) print one contender's peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", type=int, nargs=3, default=(160, 160, 128), help="voxels of the image, multiples of 16"
    )
    parser.add_argument("--window", type=int, nargs=3, default=chest_ct.WINDOW)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice by default")
    parser.add_argument("--memory-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    size, window = tuple(options.size), tuple(options.window)

    if options.memory_of:
        # One window first: what torch and its libraries take once is no part of the comparison.
        contender(options.memory_of, window, window, 1)()
        peak = peak_over_base(contender(options.memory_of, size, window, options.batch))
        print(json.dumps({"peak_over_base_bytes": peak}))
        return

    machine = describe_machine()
    seconds, cpu_seconds = measure_seconds(size, window, options.batch, options.rounds)
    result = {
        "benchmark": "engine",
        "machine": machine,
        "network": "chest_ct compact",
        "size": size,
        "window": window,
        "overlap": OVERLAP,
        "batch": options.batch,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_over_base_bytes": measure_memory(options),
        "one_head": compare(seconds["mtnet_one"], seconds["monai_one"]),
        "four_heads": compare(seconds["mtnet_four"], seconds["monai_four"]),
        "one_head_cpu": compare(cpu_seconds["mtnet_one"], cpu_seconds["monai_one"]),
        "four_heads_cpu": compare(cpu_seconds["mtnet_four"], cpu_seconds["monai_four"]),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"engine--{machine_slug(machine)}.json").write_text(json.dumps(result, indent=2) + "\n")
    write_tables()


def _passed_on(options: argparse.Namespace) -> list[str]:
    passed = ["--size", *map(str, options.size), "--window", *map(str, options.window), "--batch", str(options.batch)]
    return passed + (["--threads", str(options.threads)] if options.threads else [])


if __name__ == "__main__":
    main()
