"""Training from what annotators saved as final: masks, and boxes, classes and values from side files.

Runs in MONAI Label's environment only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask

from mtnet.hosts.label.side_file import labelled_items
from mtnet.hosts.label.tasks import told_to_client
from mtnet.structures import OutputSpec

_BOXES_FROM = "boxes_from"


class SideFileTraining(BundleTrainTask):  # type: ignore[misc]  # MONAI Label is not typed
    """MONAI Label's training of a bundle by its ``train.json``, with the items of ``labelled_items``.

    The weights that it writes into the bundle answer the next image.

    Args:
        bundle: its folder.
        specs: outputs of its network.
        conf: of the app.
    """

    def __init__(self, bundle: Path, specs: tuple[OutputSpec, ...], conf: Mapping[str, str]) -> None:
        super().__init__(str(bundle), dict(conf))
        self.specs = specs
        self._boxes_told = False

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; see MONAI Label's own ``BundleTrainTask`` for what a request holds.

        Raises:
            HTTPException: a side file is not right, or nothing is labelled; its detail says what.
        """
        with told_to_client():
            trained: dict[str, Any] = super().__call__(dict(request), datastore)
        return trained

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        items = labelled_items([entry for entry in datastore.datalist() if entry], self.specs)
        if not items:
            raise ValueError("No image has a final label to learn from: a mask, or a side file beside it.")
        self._boxes_told = any("boxes" in item for item in items)
        return items

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        # Boxes that a person drew say more than the parts of a mask; a config that prefers masks has this option.
        if self._boxes_told and self.bundle_config.get(_BOXES_FROM) is not None:
            overrides[_BOXES_FROM] = "boxes"
        return overrides
