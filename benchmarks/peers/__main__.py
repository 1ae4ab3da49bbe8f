"""``python -m benchmarks.peers``: ours beside other libraries' networks, as ``data/peers.json`` says.

Train them first: ``python -m mtnet.training.queue --jobs data/peers.json`` (and ``make train-all`` for ours). nnU-Net
v2 has a recipe of its own and wants a GPU: ``python -m benchmarks.peers.nnunet``.
"""

import sys
from pathlib import Path

from benchmarks.run_tables import tell

if __name__ == "__main__":
    sys.exit(tell(Path("data/peers.json"), "python -m benchmarks.peers"))
