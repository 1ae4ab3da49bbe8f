"""``python -m benchmarks.grids``: the papers' whole grids, trained and told, where a GPU is.

``data/grids.json`` has breast ultrasound's four encoders by four decoders in their published size, and the fifteen sets
of tasks of the chest. On two cores they would take weeks, so without a GPU this says so and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.run_tables import tell
from mtnet.training.queue import main as run_queue

JOBS = Path("data/grids.json")


def main() -> int:
    """Train what is left and print the tables; 1 where something is not done, or there is no GPU."""
    if not torch.cuda.is_available():
        print("not run: these trainings want a GPU, and torch sees none here. Smaller ones: benchmarks.ablations.")
        return 1
    run_queue(["--jobs", str(JOBS)])
    return tell(JOBS, "python -m benchmarks.grids", ["--device", "cuda"])


if __name__ == "__main__":
    sys.exit(main())
