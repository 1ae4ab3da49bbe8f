"""``python -m benchmarks.blend BUNDLE BEGAN TRAINED SHARE OUT``: weights between those that a training began with and
those that it ended with.

``(1 - SHARE) * BEGAN + SHARE * TRAINED``, tensor by tensor: Wortsman et al., "Robust fine-tuning of zero-shot models"
(arXiv 2109.01903), section 3. What was learned first is kept so beside what was learned last. Meant for networks
without batch norm, whose running statistics a mean does not fit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mtnet.bundle import Bundle
from mtnet.nets import MultiTaskNet, load_state, read_state, save_state


def blend(bundle: Path, began: Path, trained: Path, share: float, out: Path) -> None:
    """Write the weights that lie ``share`` of the way from ``began`` to ``trained``.

    Raises:
        ValueError: ``share`` is none, or the two do not fit the bundle's network.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"The share is {share}; expected 0 (as the training began) to 1 (as it ended).")
    network: MultiTaskNet = Bundle.read(bundle).build("network_def")
    for file in (began, trained):
        load_state(network, file)
    first, last = read_state(began), read_state(trained)
    blended = {
        name: torch.lerp(tensor, last[name], share) if tensor.is_floating_point() else last[name]
        for name, tensor in first.items()
    }
    network.load_state_dict(blended)
    save_state(network, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Blend two files of weights."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blend", description=__doc__.split("\n")[0])
    for name in ("bundle", "began", "trained"):
        parser.add_argument(name, type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    try:
        blend(options.bundle, options.began, options.trained, options.share, options.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
