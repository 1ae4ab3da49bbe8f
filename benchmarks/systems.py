"""What sharing one encoder saves, and how fast every system is beside a plain U-Net of the same encoder.

``python -m benchmarks.systems`` measures, writes ``benchmarks/results/systems--<machine>.json`` and rewrites
``benchmarks/RESULTS.md``, which says how it was done. ``--device cuda`` compiles the networks and runs them in half
precision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine, machine_slug
from benchmarks.systems_tables import RESULTS
from benchmarks.tables import write_tables
from mtnet.nets.macs import count_macs
from mtnet.systems import breast_ultrasound, chest_ct, res_mtnet, unet_v2, yolo_med

MOST_OF_SEGMENTATION = 1.75
MOST_OF_FOUR = 0.6


@dataclass(frozen=True)
class Sharing:
    """A four-task network whose cost is compared with that of its tasks by themselves."""

    variant: str
    spatial_dims: int
    size: tuple[int, ...]


@dataclass(frozen=True)
class Raced:
    """A system as published, and the plain U-Net of segmentation_models_pytorch with its encoder (none in 3D)."""

    make: Callable[[], nn.Module]
    image: tuple[int, ...]
    peer: str | None


SHARED = {
    "compact, 3D (the bundle's)": Sharing("compact", 3, chest_ct.WINDOW),
    "compact, 2D": Sharing("compact", 2, (256, 256)),
    "published, 2D": Sharing("published", 2, (256, 256)),
}
RACED = {
    "chest CT, compact, 3D": Raced(chest_ct.network, (1, *chest_ct.WINDOW), None),
    "chest CT, published, 2D": Raced(lambda: chest_ct.network("published", spatial_dims=2), (1, 256, 256), "vgg13_bn"),
    "YOLO-Med, published": Raced(lambda: yolo_med.network("published"), (3, 640, 640), "tu-cspdarknet53"),
    "YOLO-Med, compact": Raced(yolo_med.network, (3, 320, 320), "tu-cspdarknet53"),
    "breast ultrasound, published": Raced(
        lambda: breast_ultrasound.network("published"), (3, 256, 256), "tu-efficientnet_b4"
    ),
    "breast ultrasound, compact": Raced(breast_ultrasound.network, (3, 256, 256), "tu-efficientnet_b0"),
    "U-Net v2, published": Raced(lambda: unet_v2.network("published"), (3, 352, 352), "tu-pvt_v2_b2"),
    "U-Net v2, compact": Raced(unet_v2.network, (3, 352, 352), "tu-pvt_v2_b0"),
    "Res-MTNet, published": Raced(lambda: res_mtnet.network("published"), (3, 64, 64), "resnet18"),
}


class Pass:
    """One network on one device: passes over a batch, counted and timed."""

    def __init__(self, make: Callable[[], nn.Module], image: tuple[int, ...], batch: int, device: str) -> None:
        torch.manual_seed(0)
        with torch.device("meta"):
            self.gmac = count_macs(make().eval(), torch.zeros(1, *image)) / 1e9
        self.half = device.startswith("cuda")
        layout = torch.channels_last if len(image) == 3 else torch.channels_last_3d
        network = make().eval().to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.network: Callable[[Tensor], Any] = torch.compile(network) if self.half else network
        self.images = torch.rand(batch, *image, device=device).to(memory_format=layout)
        self.device = device

    def __call__(self) -> float:
        """Seconds of one pass."""
        self._wait()
        started = time.perf_counter()
        with torch.no_grad(), torch.autocast("cuda", torch.float16, enabled=self.half):
            self.network(self.images)
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.half:
            torch.cuda.synchronize(self.device)


def rounds_of(passes: dict[str, Pass], rounds: int) -> dict[str, list[float]]:
    """Seconds of every pass in every round, in turns, after two that do not count."""
    for one in passes.values():
        one(), one()
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    names = list(passes)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            seconds[name].append(passes[name]())
    return seconds


def measure_sharing(sharing: Sharing, rounds: int, batch: int, device: str) -> dict[str, Any]:
    """Time and work of four tasks in one pass, of segmentation by itself, and of four networks of one task each."""

    def of(*tasks: str) -> Pass:
        def make() -> nn.Module:
            return chest_ct.network(sharing.variant, spatial_dims=sharing.spatial_dims, tasks=tasks)  # type: ignore[arg-type]

        return Pass(make, (1, *sharing.size), batch, device)

    passes = {"all": of(*chest_ct.TASKS), **{task: of(task) for task in chest_ct.TASKS}}
    seconds = rounds_of(passes, rounds)
    per_round = [
        (seconds["all"][n], seconds["segmentation"][n], sum(seconds[task][n] for task in chest_ct.TASKS))
        for n in range(rounds)
    ]
    gmac = {name: one.gmac for name, one in passes.items()}
    return {
        "size": sharing.size,
        "seconds": seconds,
        "gmac": gmac,
        "to_segmentation": {
            "time": _ratio([a / b for a, b, _ in per_round]),
            "gmac": gmac["all"] / gmac["segmentation"],
            "at_most": MOST_OF_SEGMENTATION,
        },
        "to_four_networks": {
            "time": _ratio([a / c for a, _, c in per_round]),
            "gmac": gmac["all"] / sum(gmac[task] for task in chest_ct.TASKS),
            "at_most": MOST_OF_FOUR,
        },
    }


def measure_race(raced: Raced, rounds: int, batch: int, device: str) -> dict[str, Any]:
    """Images or windows a second of a system and of its peer."""
    passes = {"mtnet": Pass(raced.make, raced.image, batch, device)}
    if raced.peer is not None:
        name = raced.peer

        def peer() -> nn.Module:
            import segmentation_models_pytorch as smp

            made: nn.Module = smp.Unet(name, encoder_weights=None, in_channels=raced.image[0], classes=1)
            return made

        passes["smp"] = Pass(peer, raced.image, batch, device)
    seconds = rounds_of(passes, rounds)
    told: dict[str, Any] = {
        "image": raced.image,
        "batch": batch,
        "seconds": seconds,
        "gmac": {name: one.gmac for name, one in passes.items()},
        "images_per_second": {name: batch / statistics.median(taken) for name, taken in seconds.items()},
    }
    if raced.peer is not None:
        told["peer"] = raced.peer
        told["time_to_peer"] = _ratio([a / b for a, b in zip(seconds["mtnet"], seconds["smp"], strict=True)])
    return told


def _ratio(ratios: list[float]) -> dict[str, float]:
    """Median of the ratios of single rounds, and their range."""
    return {"median": statistics.median(ratios), "lowest_round": min(ratios), "highest_round": max(ratios)}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1...")
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice by default")
    parser.add_argument("--only", default="", help="what does not have this in its name is left out")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = describe_machine()
    how = (options.rounds, options.batch, options.device)
    sharing, races = {}, {}
    for name, shared in SHARED.items():
        if options.only in name:
            print(f"one encoder: {name}", file=sys.stderr)
            sharing[name] = measure_sharing(shared, *how)
    for name, raced in RACED.items():
        if options.only in name:
            print(f"beside smp: {name}", file=sys.stderr)
            races[name] = measure_race(raced, *how)
    cuda = options.device.startswith("cuda")
    result = {
        "benchmark": "systems",
        "machine": machine,
        "device": torch.cuda.get_device_name(options.device) if cuda else machine["cpu"],
        "precision": "float16, compiled" if cuda else "float32, eager",
        "rounds": options.rounds,
        "sharing": sharing,
        "races": races,
    }
    RESULTS.mkdir(exist_ok=True)
    slug = machine_slug(machine).removesuffix("cpu") + ("cuda" if cuda else "cpu")
    (RESULTS / f"systems--{slug}.json").write_text(json.dumps(result, indent=2) + "\n")
    write_tables()


if __name__ == "__main__":
    main()
