"""Memory of eight dense channels from an image grid to labels on a source's grid: mtnet beside MONAI's inferer, its
restore and an argmax.

``python -m benchmarks.memory`` takes a grid of 512 x 512 x 400; MONAI's side then needs some 10 GiB. Each contender
runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from torch import Tensor, nn

from benchmarks.machine import describe_machine, peak_over_base
from benchmarks.measure import ratio_claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.inference.engine import run
from mtnet.inference.plan import Plan
from mtnet.structures import Geometry, Label, OutputSpec

CHANNELS = 8
SOURCE_MM, IMAGE_MM = (0.75, 0.75, 1.0), 1.5
WINDOW, OVERLAP = 64, 0.25
LIMIT = 0.4
CONTENDERS = ("MONAI", "mtnet")


class Eight(nn.Module):
    """One convolution to eight classes."""

    outputs = (OutputSpec("pred", "dense", tuple(Label(n, f"class {n}") for n in range(CHANNELS)), (1,), "softmax"),)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv3d(1, CHANNELS, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Eight classes."""
        return {"pred": self.convolution(image)}


def contender(name: str, size: Sequence[int]) -> Callable[[], object]:
    """From an image in memory to a label map on the source's grid of ``size``."""
    source = Geometry(tuple(size), np.diag([*SOURCE_MM, 1.0]))
    # A whole number of windows, as MONAI pads where it is none; centred on the source.
    shape = [-(-int(n * mm / IMAGE_MM) // 16) * 16 for n, mm in zip(size, SOURCE_MM, strict=True)]
    shape = [max(n, WINDOW) for n in shape]
    affine = np.diag([IMAGE_MM] * 3 + [1.0])
    affine[:3, 3] = [((n - 1) * mm - (m - 1) * IMAGE_MM) / 2 for n, mm, m in zip(size, SOURCE_MM, shape, strict=True)]
    grid = Geometry(tuple(shape), affine)
    net, image = Eight().eval(), torch.rand(1, 1, *shape)
    if name == "mtnet":
        plan = Plan((WINDOW,) * 3, OVERLAP, grid=grid, target=source)
        return lambda: run(net, image, plan)
    inferer = SlidingWindowInferer((WINDOW,) * 3, 1, OVERLAP, mode="gaussian")
    restore = SpatialResample(mode="bilinear", padding_mode="border")

    def monai() -> Tensor:
        with torch.no_grad():
            blended = inferer(image, lambda windows: net(windows)["pred"])[0].softmax(0)
            fine = restore(
                MetaTensor(blended, affine=grid.affine_ras), dst_affine=source.affine_ras, spatial_size=source.shape
            )
            labels: Tensor = fine.argmax(0).to(torch.uint8)
            return labels

    return monai


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed; or (``--of``, in a process of its own) print one peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400), help="voxels of the source's grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--of", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.of:
        # A small one first: what torch and its libraries take once is no part of the comparison.
        contender(options.of, (96, 96, 64))()
        print(json.dumps(peak_over_base(contender(options.of, options.size))))
        return
    machine = describe_machine()
    peaks: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for name in CONTENDERS * options.rounds:
        size = map(str, options.size)
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--of", name, "--size", *size]
        peaks[name].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"memory of {name}: {peaks[name][-1] / 2**20:.0f} MiB", file=sys.stderr)
    setting = {"source grid": "x".join(map(str, options.size)), "channels": CHANNELS, "rounds": options.rounds}
    claims = [ratio_claim("peak over base, eight channels restored to labels", peaks["mtnet"], peaks["MONAI"], LIMIT)]
    contenders = {name: {"peak_over_base_bytes": bytes_} for name, bytes_ in peaks.items()}
    write_result("memory", setting, contenders, claims, machine)
    write_tables()
    print(tell(claims))
    print(f"medians: {', '.join(f'{n} {statistics.median(b) / 2**20:.0f} MiB' for n, b in peaks.items())}")


if __name__ == "__main__":
    main()
