"""``python -m benchmarks.exports BUNDLE SHAPE...``: whether ``model.ts`` and ``model.onnx`` answer like the network.

MONAI's own ``verify`` of an export compares nothing where the network gives a dictionary. Here every output is compared
by its name, on random input: to ``TOLERANCE`` of the output's largest value.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4


def differences(bundle: Path, shape: Sequence[int], scripted: Path, onnx: Path) -> dict[str, dict[str, float]]:
    """By export and output: the largest difference to the eager network, in shares of the output's largest value.

    Raises:
        ValueError: an export has other outputs than the network, or the network gives nothing but zeros.
    """
    import onnxruntime
    import torch

    from mtnet.bundle import Bundle
    from mtnet.nets import load_state

    network = Bundle.read(bundle).build("network_def").eval()
    load_state(network, bundle / "models" / "model.pt")
    image = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = network(image)
        answers = {
            "TorchScript": torch.jit.load(str(scripted)).eval()(image),
            "ONNX": dict(
                zip(
                    [output.name for output in session.get_outputs()],
                    session.run(None, {session.get_inputs()[0].name: image.numpy()}),
                    strict=True,
                )
            ),
        }
    found: dict[str, dict[str, float]] = {}
    for export, answer in answers.items():
        if list(answer) != list(wanted):
            raise ValueError(f"The {export} model answers {list(answer)}; the network {list(wanted)}.")
        found[export] = {}
        for name, tensor in wanted.items():
            largest = float(tensor.abs().max())
            if largest == 0:
                raise ValueError(f"The network's output {name!r} is all zero; nothing is compared.")
            found[export][name] = float(np.abs(np.asarray(answer[name]) - tensor.numpy()).max()) / largest
    return found


def main() -> int:
    """Compare the files of the current folder."""
    found = differences(Path(sys.argv[1]), [int(n) for n in sys.argv[2:]], Path("model.ts"), Path("model.onnx"))
    for export, outputs in found.items():
        for name, difference in outputs.items():
            print(f"{export} {name}: {difference:.1e}")
    return int(any(difference > TOLERANCE for outputs in found.values() for difference in outputs.values()))


if __name__ == "__main__":
    sys.exit(main())
