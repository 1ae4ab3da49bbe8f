"""What the bundle operator of the MONAI Deploy App SDK needs to get every answer out of an exported ``model.ts``.

``inference_deploy.json`` of a bundle names these beside the parts of its ``inference.json``. The operator (read in its
version 4) gives a scripted network to the inferer, takes the first item of what comes back, merges it with the input
into one dict, and hands on the entries that the metadata name as outputs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose, MapTransform
from monai.utils import MetaKeys, SpaceKeys
from torch import Tensor, nn

from mtnet.assembly import without_loader
from mtnet.hosts.answers import RESULT, HostAnswersd
from mtnet.inference import MultiTaskInferer
from mtnet.nets import MultiTaskNet

_RAS_AFFINE_OF_SDK = "nifti_affine_transform"
_VOLUME = 3


def preprocessing_of(chain: Compose) -> Compose:
    """A bundle's chain for an image that the SDK has loaded: without loader, and with its axes named right."""
    rest: Any = without_loader(chain)
    return Compose([SdkImaged("image"), *rest.transforms])


class SdkImaged(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Call the space of an image what its affine says it is.

    The SDK hands on a RAS affine and names the space LPS; steps that orient an image by both would show the network a
    patient turned by half a turn about the long axis, in silence.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``; an image of another source stays as it is."""
        named = dict(data)
        for key in self.key_iterator(named):
            image = named[key]
            if isinstance(image, MetaTensor) and _RAS_AFFINE_OF_SDK in image.meta:
                named[key] = image.clone()
                named[key].meta[MetaKeys.SPACE] = SpaceKeys.RAS
        return named


class ScriptedInferer(Inferer):  # type: ignore[misc]  # MONAI is not typed
    """A bundle's inferer for a network that came out of ``model.ts``, which does not say what its outputs are.

    Args:
        inferer: of the bundle's ``inference.json``.
        network: the same network from the config, of which only what it says of its outputs is used.
    """

    def __init__(self, inferer: MultiTaskInferer, network: MultiTaskNet) -> None:
        super().__init__()
        self.inferer = copy.copy(inferer)
        # Of a dict the operator would take the first key for the answer.
        self.inferer.layout = "list"
        self.outputs = tuple(network.outputs)
        self.stride = network.stride

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> list[dict[str, Tensor]]:
        """One dict of answers for each image of ``inputs`` ``(B, C, *S)``; see ``MultiTaskInferer``."""

        class Told:
            outputs, stride = self.outputs, self.stride

            def __call__(self, image: Tensor, /) -> Mapping[str, Tensor]:
                answers: Mapping[str, Tensor] = network(image, *args, **kwargs)
                return answers

        made = self.inferer(inputs, Told())
        assert isinstance(made, list)
        return made


class StockAnswersd(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Turn the answers in the operator's dict into what it can hand on.

    - ``pred``: the label map ``(1, i, j, k)``, uint8, on the grid of the image as it was loaded; empty where the
      network draws none. The operator makes an image of it, for the SDK's DICOM SEG writer.
    - ``result``: everything else in the words of ``findings.json``, as JSON text: lesions with box, centre, classes and
      measures, image classes, measured values.

    A ``MapTransform``, since the operator decides by the first step whether a chain sees the whole dict.

    Args:
        network: whose answers they are; what it says of its outputs is all that is used.
        keys: of the label map.
        image: key of the image as the network saw it.
    """

    def __init__(self, network: MultiTaskNet, keys: KeysCollection = "pred", image: str = "image") -> None:
        super().__init__(keys)
        self.image = image
        self._answers = HostAnswersd(network, keys, image)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the image, the label map and the result.

        Raises:
            ValueError: the image's metadata do not tell the grid that it was loaded on.
        """
        given = {name: value for name, value in data.items() if name != self.image}
        made = dict(data)
        for key in self.key_iterator(data):
            shown = self._answers({self.image: data[self.image], key: given})
            size = [int(n) for n in data[self.image].meta[MetaKeys.SPATIAL_SHAPE]]
            made[key] = _drawn(shown[key], size)
            made[RESULT] = json.dumps(shown.get(RESULT, {}))
        return made


def _drawn(labels: Tensor | Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
    """``(1, i, j, k)``, of a 2D image with one plane."""
    if not isinstance(labels, Tensor):
        return torch.zeros(1, *size, *[1] * (_VOLUME - len(size)), dtype=torch.uint8)
    return labels[None, ..., None] if labels.ndim < _VOLUME else labels
