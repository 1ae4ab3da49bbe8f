"""Several processes of a training: how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from pathlib import Path

from mtnet.training.processes import gathered, leave_processes

import torch
from torch import distributed

distributed.init_process_group("gloo")
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 2), find_unused_parameters=True)
# As the parts of a config do: nothing of it is freed before the interpreter shuts down.
network.held = holder = [network]
holder.append(holder)
network(torch.ones(4, 8)).sum().backward()
assert gathered(distributed.get_rank()) == [0, 1]


def threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


assert any("gloo" in name for name in threads()), threads()
rank = distributed.get_rank()
leave_processes(network)
assert not any("gloo" in name for name in threads()), threads()
assert not distributed.is_initialized()
Path(f"left.{rank}").touch()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux tells them")
def test_no_thread_of_the_group_outlives_it_to_abort_the_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert (tmp_path / "left.0").exists() and (tmp_path / "left.1").exists()
