"""Pre-training without labels: a bundle's encoder learns to redraw images of which parts are hidden.

``data/pretraining.json`` turns the training of a bundle for pictures or patches into one. What it ends with are weights
that ``initial_weights`` takes. Images of several licence classes are never mixed, and weights that restricted images
touched do not begin a training on freer ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtnet.bundle import Bundle
from mtnet.io.atomic import atomic_path
from mtnet.sources import read_manifest
from mtnet.sources.manifest import TERMS

if TYPE_CHECKING:
    from mtnet.losses import MultiTaskLoss
    from mtnet.nets import MultiTaskNet

REDRAWN = "reconstruction"
_WIDTHS = (128, 64, 32, 16, 8)
_SIDE_CAR = ".sources.json"


def redrawing_network(bundle_root: str | Path) -> MultiTaskNet:
    """The encoder of a bundle, as its ``inference.json`` says, with a branch that redraws the mean of the channels from
    the deepest level alone; the encoder's weights have the names that they have in the bundle's network.

    Raises:
        BundleError: there is no such bundle, or its network asks for what is not allowed.
        ValueError: its coarsest stride is no power of 2 up to 32.
    """
    from mtnet.inference.memory_layout import kernel_dims
    from mtnet.nets import Branch, MultiTaskNet, ReconstructionDecoder, ReconstructionHead

    whole = Bundle.read(Path(bundle_root)).build("network_def")
    encoder, dims = whole.encoder, kernel_dims(whole)
    blocks = int(encoder.strides[-1]).bit_length() - 1
    if 2**blocks != encoder.strides[-1] or blocks > len(_WIDTHS):
        raise ValueError(f"The encoder's coarsest stride is {encoder.strides[-1]}; expected a power of 2 up to 32.")
    decoder = ReconstructionDecoder(dims, encoder.channels, encoder.strides, channels=_WIDTHS[-blocks:])
    head = ReconstructionHead(dims, decoder.channels, decoder.strides, name=REDRAWN)
    return MultiTaskNet(encoder, {REDRAWN: Branch(decoder, head)})


def redrawing_loss() -> MultiTaskLoss:
    """Mean absolute difference of redrawn and whole image."""
    from mtnet.losses import MaskedL1Loss, MultiTaskLoss

    return MultiTaskLoss({REDRAWN: MaskedL1Loss()})


class HiddenParts:
    """``prepare_batch`` of trainer and evaluator: images of which squares (cubes) are hidden, and as the target the
    mean over the channels of the images as they are.

    Args:
        share: of the squares that are hidden.
        edge: of a square, in voxels.
        noise: standard deviation of noise on what is left, in the units that preprocessing gives.
        seed: hides the same places at every call, for validation; by default torch's generator decides.

    Raises:
        ValueError: the share is not from 0 to 1 (excluded), or the edge not 1 or more.
    """

    def __init__(self, share: float = 0.5, edge: int = 16, noise: float = 0.1, seed: int | None = None) -> None:
        if not 0 <= share < 1 or edge < 1:
            raise ValueError(f"HiddenParts has share {share} and edge {edge}; expected 0..1 (excluded) and 1 or more.")
        self.share = share
        self.edge = edge
        self.noise = noise
        self.seed = seed

    def __call__(
        self, batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Image ``(B, C, *S)``, hidden parts 0 (the mean after normalisation), and the target ``(B, 1, *S)``."""
        image = torch.as_tensor(batch["image"]).float()
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        cells = [-(-n // self.edge) for n in image.shape[2:]]
        shown = (torch.rand((len(image), 1, *cells), generator=generator) >= self.share).float()
        for axis, n in enumerate(image.shape[2:], start=2):
            shown = shown.repeat_interleave(self.edge, axis).narrow(axis, 0, n)
        grain = torch.randn(image.shape, generator=generator) * self.noise
        seen = ((image + grain) * shown).to(device=device, non_blocking=non_blocking)
        return seen, {REDRAWN: image.mean(1, keepdim=True).to(device=device, non_blocking=non_blocking)}


def note_sources(manifest: str | Path, weights: str | Path) -> None:
    """Write beside weights, as ``<weights>.sources.json``, which images touch them and under which terms.

    Raises:
        FileNotFoundError, ValueError: there is no manifest, or it mixes terms.
    """
    sources = read_manifest(Path(manifest)).sources
    if len({source.terms for source in sources}) > 1:
        told = ", ".join(f"{source.name} ({source.terms})" for source in sources)
        raise ValueError(
            f"The manifest mixes licence classes: {told}. Pre-training keeps to one; prepare a manifest for each."
        )
    path = Path(weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    told_sources = [{"name": s.name, "licence": s.licence, "terms": s.terms} for s in sources]
    with atomic_path(path.with_name(path.name + _SIDE_CAR)) as temporary:
        temporary.write_text(json.dumps(told_sources, indent=1) + "\n", encoding="utf-8")


def check_licences(weights: str | Path, manifest: str | Path | None) -> None:
    """Refuse weights that were pre-trained on images under stricter terms than any that the training has itself.

    Raises:
        ValueError: naming both sides.
    """
    path = Path(weights)
    side_car = path.with_name(path.name + _SIDE_CAR)
    if manifest is None or not side_car.is_file():
        return
    own = max(TERMS.index(source.terms) for source in read_manifest(Path(manifest)).sources)
    stricter = [one for one in json.loads(side_car.read_text(encoding="utf-8")) if TERMS.index(one["terms"]) > own]
    if stricter:
        told = ", ".join(f"{one['name']} ({one['terms']})" for one in stricter)
        raise ValueError(
            f"{path.name} was pre-trained on {told}; the images of this training are {TERMS[own]}, and what is trained "
            "on them may not inherit stricter terms. Begin with weights of the same licence class."
        )
