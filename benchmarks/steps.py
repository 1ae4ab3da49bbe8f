"""What mtnet's own forms of two layers save: ``python -m benchmarks.steps``, on the chest-CT network.

A convolution of an upsampled level that does not upsample it (``mtnet.nets.upsampled_conv``), and the gradient of group
norm in bfloat16 with channels last (``mtnet.nets.group_norm``), each against torch's own, same weights, same windows.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine
from benchmarks.measure import in_turns, ratio_claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.nets.group_norm import GroupNorm
from mtnet.nets.upsampled_conv import fold_upsampling
from mtnet.systems import chest_ct

STEP_WINDOWS, PASS_WINDOWS = 8, 2


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    machine = describe_machine()
    torch.manual_seed(0)
    ours = chest_ct.network().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    fold_upsampling(ours, folded=True)
    plain = copy.deepcopy(ours)
    fold_upsampling(plain, folded=False)
    for module in plain.modules():
        if isinstance(module, GroupNorm):
            module.__class__ = nn.GroupNorm
    folded = copy.deepcopy(plain)
    fold_upsampling(folded, folded=True)
    work: dict[str, Callable[[], object]] = {
        "step: torch's layers": lambda: step(plain),
        "step: upsampled convolutions folded": lambda: step(folded),
        "step: and mtnet's group norm": lambda: step(ours),
        "pass: torch's layers": lambda: once(plain),
        "pass: upsampled convolutions folded": lambda: once(folded),
    }
    taken = in_turns(work, options.rounds)
    step_torch, _, step_ours, pass_torch, pass_ours = (times["seconds"] for times in taken.values())
    claims = [
        ratio_claim("a training step in bfloat16, to one with torch's layers", step_ours, step_torch, 1.0),
        ratio_claim("a pass in float32, to one with torch's layers", pass_ours, pass_torch, 1.0),
    ]
    setting = {
        "network": "chest_ct compact",
        "window": "x".join(map(str, chest_ct.WINDOW)),
        "windows_a_step": STEP_WINDOWS,
        "windows_a_pass": PASS_WINDOWS,
        "rounds": options.rounds,
    }
    write_result("steps", setting, taken, claims, machine)
    write_tables()
    print(tell(claims))


def windows(count: int) -> Tensor:
    """Noise of the network's window."""
    drawn = torch.rand(count, 1, *chest_ct.WINDOW, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last_3d)


def step(network: nn.Module) -> None:
    """Forwards and backwards through all outputs."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        answers = network(windows(STEP_WINDOWS))
    sum(answer.float().mean() for answer in answers.values()).backward()


def once(network: nn.Module) -> None:
    """Forwards."""
    with torch.no_grad():
        network(windows(PASS_WINDOWS))


if __name__ == "__main__":
    main()
