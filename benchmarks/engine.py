"""The window engine against MONAI's ``SlidingWindowInferer``: the same network, the same windows, time and memory.

``python -m benchmarks.engine`` measures, writes ``benchmarks/results/engine--<machine>.json`` and rewrites
``benchmarks/RESULTS.md``, which says how it was done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from benchmarks.machine import describe_machine, machine_slug, peak_over_base
from benchmarks.measure import RESULTS, compare, in_turns, ratio_claim, tell
from benchmarks.tables import write_tables
from mtnet.inference.engine import run
from mtnet.inference.plan import Plan
from mtnet.nets import MultiTaskNet
from mtnet.systems import chest_ct

CONTENDERS = ("monai_one", "mtnet_one", "monai_four", "mtnet_four")
OVERLAP = 0.25
FOUR_LIMIT = 1.02


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


def main(arguments: list[str] | None = None) -> None:
    """Measure and write, or (``--memory-of``, in a process of its own) print one contender's peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", type=int, nargs=3, default=(160, 160, 128), help="voxels of the image, multiples of 16"
    )
    parser.add_argument("--window", type=int, nargs=3, default=chest_ct.WINDOW)
    parser.add_argument("--batch", type=int, default=2)
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
    taken = in_turns({name: contender(name, size, window, options.batch) for name in CONTENDERS}, options.rounds)
    seconds = {name: times["seconds"] for name, times in taken.items()}
    cpu_seconds = {name: times["cpu_seconds"] for name, times in taken.items()}
    claims = [
        ratio_claim(
            "engine with all four answers against MONAI's on the same full forward, float32",
            seconds["mtnet_four"],
            seconds["monai_four"],
            FOUR_LIMIT,
        )
    ]
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
        "four_tasks_against_one": compare(seconds["mtnet_four"], seconds["mtnet_one"]),
        "claims": claims,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"engine--{machine_slug(machine)}.json").write_text(json.dumps(result, indent=2) + "\n")
    write_tables()
    print(tell(claims))


def _passed_on(options: argparse.Namespace) -> list[str]:
    passed = ["--size", *map(str, options.size), "--window", *map(str, options.window), "--batch", str(options.batch)]
    return passed + (["--threads", str(options.threads)] if options.threads else [])


if __name__ == "__main__":
    main()
