"""What U-Net v2's skips take: ``python -m benchmarks.skips`` compares SDI, sum and concatenation in a training step.

The same encoder (PVTv2-B0), 256 x 256, structure loss over all answers, float32. *Kept for backward* is what autograd
holds between the two passes, exactly and on any machine; the peak is resident memory over base in a process of its own
(sampled), or on CUDA the allocator's own. Each after one step that does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.machine import peak_over_base
from benchmarks.variants import unet_v2_with
from mtnet.nets.macs import count_macs
from mtnet.systems import unet_v2

ENCODER, SKIPS = "pvt_v2_b0", ("sdi", "sum", "concatenation")


def step(network: nn.Module, image: Tensor) -> None:
    """Forwards and backwards."""
    mask = (torch.arange(image.shape[-1], device=image.device) % 2).float().expand(len(image), 1, *image.shape[2:])
    total, _ = unet_v2.loss()(network(image), {"pred": mask})
    total.backward()


def kept_for_backward(network: nn.Module, image: Tensor) -> int:
    """Bytes that autograd holds after the forward pass; weights and the image, which are there anyway, not counted."""
    there = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers(), image)}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        answers = network(image)
    del answers
    return sum(kept.values())


def peak(network: nn.Module, image: Tensor) -> int:
    """Bytes at the peak of a step, over what was there before."""
    if image.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(image.device)
        base = torch.cuda.memory_allocated(image.device)
        step(network, image)
        return torch.cuda.max_memory_allocated(image.device) - base
    return peak_over_base(lambda: step(network, image))


def measured(skips: str, batch: int, size: int, device: str) -> dict[str, float]:
    """Parameters, GMAC an image, and memory in MiB of one kind of skips."""
    torch.manual_seed(0)
    network = unet_v2_with(skips, encoder=ENCODER).to(device)  # type: ignore[arg-type]
    gmac = count_macs(network.eval(), torch.rand(1, 3, size, size, device=device)) / 1e9
    network.train()
    # What torch and its libraries take once is no part of the comparison.
    step(network, torch.rand(1, 3, 64, 64, device=device))
    network.zero_grad(set_to_none=False)
    image = torch.rand(batch, 3, size, size, device=device)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac": gmac,
        "kept_mib": kept_for_backward(network, image) / 2**20,
        "peak_mib": peak(network, image) / 2**20,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each kind in a process of its own and print a table; or (``--of``) print one as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--of", choices=SKIPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.of:
        print(json.dumps(measured(options.of, options.batch, options.size, options.device)))
        return
    print(f"A training step of {options.batch} images of {options.size} x {options.size}, {options.device}\n")
    print("| skips | parameters | GMAC | kept for backward, MiB | peak, MiB |\n| --- | --- | --- | --- | --- |")
    for skips in SKIPS:
        told = ["--of", skips, "--batch", str(options.batch), "--size", str(options.size), "--device", options.device]
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.skips", *told]
        one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        row = f"{one['parameters']:,} | {one['gmac']:.3f} | {one['kept_mib']:.0f} | {one['peak_mib']:.0f}"
        print(f"| {skips} | {row} |", flush=True)


if __name__ == "__main__":
    main()
