"""``python -m benchmarks.ablations``: whether several tasks, and each system's own idea, help; ``data/ablations.json``.

Train first, in pieces: ``python -m mtnet.training.queue --jobs data/ablations.json``. Two measurements stand beside
the tables: ``python -m benchmarks.skips`` (memory of U-Net v2's skips) and ``python -m benchmarks.task_features`` (how
alike YOLO-Med's tasks see lesions).
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.run_tables import tell

if __name__ == "__main__":
    sys.exit(tell(Path("data/ablations.json"), "python -m benchmarks.ablations"))
