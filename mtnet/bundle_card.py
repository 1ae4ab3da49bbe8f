"""What there is to know of a bundle before it is chosen: tasks, input, size, work, licence of its weights, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mtnet.bundle import Bundle, BundleError

if TYPE_CHECKING:
    from mtnet.inference import MultiTaskInferer
    from mtnet.nets.outline import Outline

WeightsState = Literal["published", "trained here", "missing", "changed"]

PICTURE = (512, 512)
"""Columns and rows of the image that stands for all where a network sees an image as a whole: what preprocessing makes
of it is the size for which the work is told."""


@dataclass(frozen=True, slots=True)
class OtherWeights:
    """Weights that a bundle offers beside its own: file in ``models``, terms, what they were trained on, scores."""

    name: str
    licence: str
    training_data: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BundleCard:
    """A bundle in figures.

    Args:
        name: by which ``--bundle`` finds it.
        folder: where it lies.
        version: of its metadata.
        task: one sentence of its metadata.
        outline: its network on one window or image.
        windowed: whether an input is seen window by window, so that the work is that of one window.
        weights: those in ``models``: the published ones, trained here, missing, or neither of the first two.
        weights_licence: their terms, empty where there are none.
        training_data: what they were trained on.
        scores: ``eval_metrics`` of the metadata (MONAI's bundle specification), empty where none are told.
        other_weights: name, terms, training data and scores of further weights in ``models``.
        input_domain: modalities and colour in words.
    """

    name: str
    folder: Path
    version: str
    task: str
    outline: Outline
    windowed: bool
    weights: WeightsState
    weights_licence: str
    training_data: str
    scores: Mapping[str, float]
    other_weights: tuple[OtherWeights, ...]
    input_domain: str

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON can hold it; keys carry their units."""
        outline = self.outline
        return {
            "name": self.name,
            "folder": str(self.folder),
            "version": self.version,
            "task": self.task,
            "tasks": list(outline.tasks),
            "outputs": {task: list(branch.tensors) for task, branch in outline.tasks.items()},
            "input": self.input_domain,
            "input_shape": list(outline.image),
            "input_is": "window" if self.windowed else "image",
            "parameters": outline.parameters,
            "gmac": outline.macs / 1e9,
            "weights": self.weights,
            "weights_licence": self.weights_licence,
            "training_data": self.training_data,
            "scores": dict(self.scores),
            "other_weights": [
                {
                    "name": other.name,
                    "weights_licence": other.licence,
                    "training_data": other.training_data,
                    "scores": dict(other.scores),
                }
                for other in self.other_weights
            ],
        }


def read_card(folder: Path) -> BundleCard:
    """The card of the bundle in ``folder``; its network is built without memory for its weights, and computes nothing.

    Raises:
        BundleError: the bundle is damaged, or asks for what is not allowed.
        ValueError: its network does not take the image that its preprocessing makes.
    """
    import torch

    from mtnet.nets import MultiTaskNet
    from mtnet.nets.outline import outline

    bundle = Bundle.read(folder)
    inferer = bundle.build("inferer")
    with torch.device("meta"):
        network = bundle.build("network_def")
    if not isinstance(network, MultiTaskNet):
        file = folder / "configs" / "inference.json"
        raise BundleError(f"{file}: network_def makes a {type(network).__name__}; only a MultiTaskNet tells its parts.")
    shape = _image_shape(bundle, inferer, network.stride)
    domain = bundle.input_domain()
    words = "any" if domain is None else f"{' or '.join(domain.modalities) or 'any modality'}, {domain.colour}"
    return BundleCard(
        folder.name,
        folder,
        str(bundle.metadata["version"]),
        str(bundle.metadata.get("task", "")),
        outline(network, shape),
        getattr(inferer, "roi_size", None) is not None,
        _weights_state(bundle),
        str(bundle.metadata.get("weights_licence", "")),
        str(bundle.metadata.get("training_data", "unknown")),
        _scores(bundle.metadata),
        tuple(
            OtherWeights(
                name, str(told.get("weights_licence", "")), str(told.get("training_data", "unknown")), _scores(told)
            )
            for name, told in bundle.other_weights().items()
        ),
        words,
    )


def _scores(metadata: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in metadata.get("eval_metrics", {}).items()}


def diagram_title(card: BundleCard) -> str:
    """What stands above the drawing of a bundle's network."""
    size = f"{card.outline.parameters / 1e6:.2f} M parameters, {card.outline.macs / 1e9:.2f} GMAC"
    return f"{card.name}: {size} for one {'window' if card.windowed else 'image'}"


def _image_shape(bundle: Bundle, inferer: MultiTaskInferer, stride: int) -> tuple[int, ...]:
    """``(C, *S)`` of one pass: as the metadata tell, else a window, else what preprocessing makes of a picture."""
    file = bundle.folder / "configs" / "metadata.json"
    try:
        told = bundle.metadata["network_data_format"]["inputs"]["image"]
        channels, sizes = int(told["num_channels"]), list(told["spatial_shape"])
    except (KeyError, TypeError, ValueError):
        raise BundleError(
            f"{file}: network_data_format#inputs#image lacks num_channels or spatial_shape; nobody can tell what the "
            "network takes."
        ) from None
    if all(isinstance(size, int) for size in sizes):
        return (channels, *sizes)
    window = getattr(inferer, "roi_size", None)
    if window is not None:
        return (channels, *([window] * len(sizes) if isinstance(window, int) else window))
    return (channels, *(-(-size // stride) * stride for size in _prepared_size(bundle, channels)))


def _prepared_size(bundle: Bundle, channels: int) -> tuple[int, ...]:
    import numpy as np

    from mtnet.io.loader import as_loaded
    from mtnet.structures import Image

    chain = bundle.build("preprocessing")
    image: Any = {"image": as_loaded(Image(np.zeros((channels, *PICTURE), np.uint8)))}
    for step in chain.transforms:
        if "LoadImage" not in type(step).__name__:
            image = step(image)
    return tuple(int(size) for size in image["image"].shape[1:])


def _weights_state(bundle: Bundle) -> WeightsState:
    if not bundle.weights.is_file():
        return "missing"
    try:
        digest = bundle.check_weights()
    except BundleError:
        return "changed"
    return "published" if digest == bundle.metadata.get("weights_sha256") else "trained here"
