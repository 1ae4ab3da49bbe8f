from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource
import torch
from mtnet.training.freed_memory import keep_freed_memory

def step():
    return float(torch.ones(16 << 20).sum())

if {keep}:
    assert keep_freed_memory()
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that four steps of 64 MiB each ask the system for, after as many before."""
    answer = subprocess.run(
        [sys.executable, "-c", _FAULTS.format(keep=keep)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(answer.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc on Linux is told to keep memory")
def test_a_step_takes_the_memory_that_the_one_before_freed():
    assert faults(keep=True) * 10 < faults(keep=False)


def test_on_another_system_nothing_is_told(monkeypatch):
    from mtnet.training import freed_memory

    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    assert freed_memory.keep_freed_memory() is False
