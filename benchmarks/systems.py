"""What sharing one encoder saves, and how fast every system is beside a plain U-Net of the same encoder.

``python -m benchmarks.systems`` measures; ``--device cuda`` compiles the networks and runs them in half precision.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.machine import describe_machine
from benchmarks.measure import claim, compare, in_turns, ratio_claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.nets.macs import count_macs
from mtnet.systems import breast_ultrasound, chest_ct, res_mtnet, unet_v2, yolo_med

MOST_OF_SEGMENTATION = 1.75
MOST_OF_FOUR = 0.6

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Sharing:
    """A four-task network whose cost is compared with that of its tasks by themselves."""

    variant: chest_ct.Variant
    size: tuple[int, ...]


@dataclass(frozen=True)
class Raced:
    """A system, and the encoder of the plain U-Net of segmentation_models_pytorch beside it (none in 3D)."""

    make: Make
    image: tuple[int, ...]
    peer: str = ""


SHARED = {
    "chest CT, compact, 3D": Sharing("compact", chest_ct.WINDOW),
    "chest CT, compact, 2D": Sharing("compact", (256, 256)),
    "chest CT, published, 2D": Sharing("published", (256, 256)),
}
RACED = {
    "chest CT, compact, 3D": Raced(chest_ct.network, (1, *chest_ct.WINDOW)),
    "chest CT, published, 2D": Raced(lambda: chest_ct.network("published", spatial_dims=2), (1, 256, 256), "vgg13_bn"),
    "YOLO-Med on half of CSPDarknet53": Raced(
        lambda: yolo_med.network(encoder="cspdarknet53"), (3, 320, 320), "tu-cspdarknet53"
    ),
    "YOLO-Med, published": Raced(lambda: yolo_med.network("published"), (3, 640, 640), "tu-cspdarknet53"),
    "breast ultrasound on EfficientNet-B0": Raced(
        lambda: breast_ultrasound.network(encoder="efficientnet_b0"), (3, 256, 256), "tu-efficientnet_b0"
    ),
    "breast ultrasound, published": Raced(
        lambda: breast_ultrasound.network("published"), (3, 256, 256), "tu-efficientnet_b4"
    ),
    "U-Net v2 on PVTv2-B0": Raced(
        lambda: unet_v2.network(encoder="pvt_v2_b0", decoder="unet_v2"), (3, 352, 352), "tu-pvt_v2_b0"
    ),
    "U-Net v2, published": Raced(lambda: unet_v2.network("published"), (3, 352, 352), "tu-pvt_v2_b2"),
    "Res-MTNet, published": Raced(lambda: res_mtnet.network("published"), (3, 64, 64), "resnet18"),
}


def gmac(make: Make, image: tuple[int, ...]) -> float:
    """Exact, with attention; nothing is computed for it."""
    with torch.device("meta"):
        return count_macs(make().eval(), torch.zeros(1, *image)) / 1e9


def one_pass(make: Make, image: tuple[int, ...], batch: int, device: str) -> Callable[[], object]:
    """A network with random weights over a batch that lies on the device: eager float32, on CUDA compiled and half."""
    torch.manual_seed(0)
    cuda = device.startswith("cuda")
    layout: Any = torch.channels_last if len(image) == 3 else torch.channels_last_3d
    network = make().eval().to(device).to(memory_format=layout)
    images = torch.rand(batch, *image, device=device).to(memory_format=layout)
    run = torch.compile(network) if cuda else network

    def once() -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.float16, enabled=cuda):
            run(images)
        if cuda:
            torch.cuda.synchronize(device)

    return once


def measure_sharing(
    name: str, sharing: Sharing, rounds: int, batch: int, device: str
) -> tuple[dict[str, Any], list[Any]]:
    """Four tasks in one pass, segmentation by itself, and four networks of one task each."""

    def network_of(*tasks: chest_ct.Task) -> Make:
        return lambda: chest_ct.network(sharing.variant, spatial_dims=len(sharing.size), tasks=tasks)

    image = (1, *sharing.size)
    makes = {"four tasks": network_of(*chest_ct.TASKS), **{task: network_of(task) for task in chest_ct.TASKS}}
    taken = in_turns({n: one_pass(make, image, batch, device) for n, make in makes.items()}, rounds)
    work = {n: gmac(make, image) for n, make in makes.items()}
    together = taken["four tasks"]["seconds"]
    apart = [sum(each) for each in zip(*(taken[task]["seconds"] for task in chest_ct.TASKS), strict=True)]
    contenders = {f"{name}: {n}": {**one, "facts": {"GMAC": work[n]}} for n, one in taken.items()}
    to_segmentation = f"{name}: four tasks to encoder and segmentation"
    to_four = f"{name}: four tasks to four networks"
    return contenders, [
        ratio_claim(f"{to_segmentation}, time", together, taken["segmentation"]["seconds"], MOST_OF_SEGMENTATION),
        claim(f"{to_segmentation}, GMAC", work["four tasks"] / work["segmentation"], MOST_OF_SEGMENTATION),
        ratio_claim(f"{to_four}, time", together, apart, MOST_OF_FOUR),
        claim(f"{to_four}, GMAC", work["four tasks"] / sum(work[task] for task in chest_ct.TASKS), MOST_OF_FOUR),
    ]


def measure_race(name: str, raced: Raced, rounds: int, batch: int, device: str) -> dict[str, Any]:
    """Images or windows a second of a system, and of its peer on the same image."""
    makes: dict[str, Make] = {name: raced.make}
    if raced.peer:
        makes[f"smp U-Net of {raced.peer}, for {name}"] = lambda: _smp(raced)
    taken = in_turns({n: one_pass(make, raced.image, batch, device) for n, make in makes.items()}, rounds)
    contenders: dict[str, Any] = {}
    for n, one in taken.items():
        facts = {
            "image": " × ".join(map(str, raced.image)),
            "GMAC": gmac(makes[n], raced.image),
            "a_second": batch / statistics.median(one["seconds"]),
        }
        contenders[n] = {**one, "facts": facts}
    if raced.peer:
        ours, theirs = (one["seconds"] for one in taken.values())
        told = compare(ours, theirs)
        low, high = told["lowest_round"], told["highest_round"]
        no_claim = ", no claim" if low <= 1.0 <= high else ""
        contenders[name]["facts"]["time to smp's (rounds)"] = (
            f"{told['ratio_of_medians']:.2f} ({low:.2f} to {high:.2f}){no_claim}"
        )
    return contenders


def _smp(raced: Raced) -> nn.Module:
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.Unet(raced.peer, encoder_weights=None, in_channels=raced.image[0], classes=1)
    return network


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what is to be reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1...")
    parser.add_argument("--only", default="", help="leave out what does not have this in its name")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    cuda = options.device.startswith("cuda")
    if cuda:
        machine["gpu"] = torch.cuda.get_device_name(options.device)
    how = (options.rounds, options.batch, options.device)
    contenders: dict[str, Any] = {}
    claims: list[Any] = []
    for name, sharing in SHARED.items():
        if options.only in name:
            shared, reached = measure_sharing(name, sharing, *how)
            contenders |= shared
            claims += reached
    for name, raced in RACED.items():
        if options.only in name:
            contenders |= measure_race(name, raced, *how)
    setting = {
        "rounds": options.rounds,
        "batch": options.batch,
        "precision": "float16, compiled" if cuda else "float32, eager",
    }
    write_result("systems_cuda" if cuda else "systems", setting, contenders, claims, machine)
    write_tables()
    print(tell(claims))


if __name__ == "__main__":
    main()
