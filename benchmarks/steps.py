"""What mtnet's own forms of two layers save: ``python -m benchmarks.steps``, on the chest-CT network.

A convolution of an upsampled level that does not upsample it (``mtnet.nets.upsampled_conv``), and the gradient of group
norm with channels last (``mtnet.nets.group_norm``), each against torch's own, same weights, same windows. And what a
process saves that keeps the memory which a step frees (``mtnet.training.freed_memory``), against one that does not.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine
from benchmarks.measure import in_turns, ratio_claim, tell, write_result
from benchmarks.tables import write_tables
from mtnet.nets.group_norm import GroupNorm
from mtnet.nets.upsampled_conv import fold_upsampling
from mtnet.systems import chest_ct
from mtnet.training.freed_memory import keep_freed_memory

STEP_WINDOWS, PASS_WINDOWS = 8, 2
GIVING, KEEPING = "step in a process of its own", "step in one that keeps freed memory"


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    machine = describe_machine()
    ours = as_trained()
    plain = copy.deepcopy(ours)
    fold_upsampling(plain, folded=False)
    for module in plain.modules():
        if isinstance(module, GroupNorm):
            module.__class__ = nn.GroupNorm
    folded = copy.deepcopy(plain)
    fold_upsampling(folded, folded=True)
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, processes) as usual, ProcessPoolExecutor(1, processes, keep_freed_memory) as keeping:
        work: dict[str, Callable[[], object]] = {
            "step: torch's layers": lambda: step(plain),
            "step: upsampled convolutions folded": lambda: step(folded),
            "step: and mtnet's group norm": lambda: step(ours),
            "step in float32: torch's layers": lambda: step(plain, half=False),
            "step in float32: upsampled convolutions folded": lambda: step(folded, half=False),
            "step in float32: and mtnet's group norm": lambda: step(ours, half=False),
            GIVING: lambda: usual.submit(step_as_trained).result(),
            KEEPING: lambda: keeping.submit(step_as_trained).result(),
            "pass: torch's layers": lambda: once(plain),
            "pass: upsampled convolutions folded": lambda: once(folded),
        }
        taken = in_turns(work, options.rounds)
    for other_process in (GIVING, KEEPING):
        del taken[other_process]["cpu_seconds"]
    seconds = [times["seconds"] for times in taken.values()]
    claims = [
        ratio_claim("a training step in bfloat16, to one with torch's layers", seconds[2], seconds[0], 1.0),
        ratio_claim("a training step in float32, to one with torch's layers", seconds[5], seconds[3], 1.0),
        ratio_claim("a training step that keeps freed memory, to one that does not", seconds[7], seconds[6], 1.0),
        ratio_claim("a pass in float32, to one with torch's layers", seconds[9], seconds[8], 1.0),
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


@cache
def as_trained() -> nn.Module:
    """The network in the form in which it is trained on a CPU."""
    torch.manual_seed(0)
    network: nn.Module = chest_ct.network()
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    fold_upsampling(network, folded=True)
    return network


def step_as_trained() -> None:
    """A step in bfloat16."""
    step(as_trained())


def step(network: nn.Module, half: bool = True) -> None:
    """Forwards and backwards through all outputs."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        answers = network(windows(STEP_WINDOWS))
    sum(answer.float().mean() for answer in answers.values()).backward()


def once(network: nn.Module) -> None:
    """Forwards."""
    with torch.no_grad():
        network(windows(PASS_WINDOWS))


if __name__ == "__main__":
    main()
