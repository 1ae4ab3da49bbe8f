"""From an image and a network to findings: windows, mergers, decoding."""

from typing import Any

__all__ = ["MultiTaskInferer"]


def __getattr__(name: str) -> Any:
    # A config names it here; importing MONAI takes seconds, so only who asks for it pays.
    if name == "MultiTaskInferer":
        from mtnet.inference.inferer import MultiTaskInferer

        return MultiTaskInferer
    raise AttributeError(f"module 'mtnet.inference' has no attribute {name!r}")
