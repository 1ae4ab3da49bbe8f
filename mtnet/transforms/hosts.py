"""Transforms for hosts: several answers where one is expected, and items that hold what is the host's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Spacingd


class SplitOutputsd(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Spread the dict under ``keys`` (answers by output name) into ``pred``, ``pred_<name>``...

    A ``MapTransform``, since MONAI Deploy decides by the first transform whether a chain works on dicts.

    Args:
        keys: where the dict of answers lies, usually ``pred``.
        main: the output that becomes ``pred`` itself.
    """

    def __init__(self, keys: KeysCollection = "pred", main: str = "pred", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.main = main

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with one entry an answer; a plain tensor under the key stays as it is."""
        spread = dict(data)
        for key in self.key_iterator(spread):
            answers = spread[key]
            if not isinstance(answers, Mapping):
                continue
            spread.update({f"{key}_{name}": value for name, value in answers.items() if name != self.main})
            spread[key] = answers[self.main]
        return spread


class ResultJsond(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Put the entries under ``keys`` as plain Python lists and numbers into ``result``, which hosts send as JSON."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` whose ``result`` holds every one of ``keys`` that is there."""
        told = dict(data)
        result = dict(told.get("result", {}))
        for key in self.key_iterator(told):
            value = told[key]
            result[str(key)] = value.tolist() if hasattr(value, "tolist") else value
        told["result"] = result
        return told


class SpacingAloned(Spacingd):  # type: ignore[misc]  # MONAI is not typed
    """``Spacingd`` that sees nothing of an item but its own keys.

    MONAI's takes every key that begins with ``image_`` for metadata that it has to update where the image came from
    NIfTI; MONAI Label keeps the path under ``image_path``.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with its own keys resampled."""
        own = {key: data[key] for key in self.keys if key in data}
        return {**data, **super().__call__(own, lazy)}
