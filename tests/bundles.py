"""Tiny bundles with random weights, and a network that finds bright blobs, for tests of the whole chain."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.bundle import Bundle
from mtnet.inference import MultiTaskInferer
from mtnet.inference.region import Region
from mtnet.nets import save_state
from mtnet.predictor import Predictor
from mtnet.structures import ModelInfo, OutputSpec
from mtnet.systems import chest_ct, res_mtnet

SHIPPED = Path(__file__).parents[1] / "bundles" / "chest_ct_multitask"
BOXES = OutputSpec("lesions", "boxes", (chest_ct.NODULE,), (4,), "sigmoid")
BOX_VOXELS = 9.0
TOY_MODEL = ModelInfo("toy", "1", "ab" * 32, "nothing", "Apache-2.0")


def write_tiny_bundle(folder: Path, seed: int = 0, score_bias: float = -1.0, **options: Any) -> Path:
    """A copy of the shipped bundle's configs with random weights and small windows over the whole image, made for any
    image: tests give it what is no chest.

    The last layers of class and quality are drawn wider, so that random weights find something: less with a lower
    ``score_bias``. ``options`` override top-level values of ``inference.json``.
    """
    (folder / "models").mkdir(parents=True)
    shutil.copytree(SHIPPED / "configs", folder / "configs")
    config = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))
    config |= {"spacing_mm": [6.0, 6.0, 6.0], "window": [16, 16, 16], "overlap": 0.0, "region": "whole", **options}
    (folder / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    bundle = Bundle.read(folder)
    torch.manual_seed(seed)
    network = bundle.build("network_def")
    for level in network.branches["detection"].head.levels:
        for layer in (level.classes, level.quality):
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.constant_(layer.bias, score_bias)
    save_state(network, bundle.weights)
    for key in ("input_domain", "other_weights"):
        del bundle.metadata[key]
    digest = hashlib.sha256(bundle.weights.read_bytes()).hexdigest()
    metadata = {**bundle.metadata, "weights_sha256": digest, "training_data": "drawn data"}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def write_random_bundle(name: str, folder: Path, **options: Any) -> Path:
    """A copy of one of the bundles with random weights; ``options`` override top-level values of ``inference.json``."""
    shutil.copytree(SHIPPED.parent / name, folder, ignore=shutil.ignore_patterns("models"))
    file = folder / "configs" / "inference.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **options}), encoding="utf-8")
    bundle = Bundle.read(folder)
    bundle.weights.parent.mkdir()
    torch.manual_seed(0)
    save_state(bundle.build("network_def"), bundle.weights)
    metadata = {**bundle.metadata, "weights_sha256": hashlib.sha256(bundle.weights.read_bytes()).hexdigest()}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


class BlobSystem(nn.Module):
    """Answers like the chest-CT network: bright voxels are the mask, and the cell of 4 voxels in which the centroid of
    the bright voxels of it and its neighbours lies gives a box about it. Right for balls of up to 4 voxels radius."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.outputs = (chest_ct.SEGMENTATION, BOXES)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        stride = self.stride
        bright = (image > 0.5).float()
        places = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in image.shape[2:]), indexing="ij"))[None]
        mass = F.avg_pool3d(bright, 3 * stride, stride, stride)
        centroid = F.avg_pool3d(bright * places, 3 * stride, stride, stride) / mass.clamp_min(1e-6)
        axes = [(torch.arange(n) + 0.5) * stride - 0.5 for n in mass.shape[2:]]
        offset = centroid - torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        own = (mass > 0) & (offset.abs() <= stride / 2).all(dim=1, keepdim=True)
        logit = torch.where(own, 4.0, -20.0)
        size = torch.full_like(offset, BOX_VOXELS / stride).log()
        return {
            "pred": torch.cat([0.5 - image, image - 0.5], 1) * 10,
            "lesions_s4": torch.cat([logit, offset / stride, size, logit], 1),
        }


def blob_predictor(spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5), window: int = 32) -> Predictor:
    """The whole chain of the chest-CT system, with ``BlobSystem`` for a network."""
    inferer = MultiTaskInferer((window,) * 3, 0.5, region=Region("whole", chest_ct.HU_WINDOW))
    return Predictor(BlobSystem(), chest_ct.preprocessing(spacing_mm), inferer, TOY_MODEL)


class BallSystem(nn.Module):
    """Answers like the nodule network of planes, and measures the ball in the middle of the patch by the area that is
    bright in its middle plane; what is wider than 8 mm is suspicious."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = (res_mtnet.CLASSIFICATION, res_mtnet.DIAMETER, res_mtnet.RATING)
        self.batches: list[int] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.batches.append(len(image))
        pixel_mm2 = (res_mtnet.FIELD_MM[2] / res_mtnet.SIZE[2]) ** 2
        area_mm2 = (image[:, 1] > 0.5).float().sum((1, 2)) * pixel_mm2
        diameter = 2 * (area_mm2 / torch.pi).sqrt()[:, None]
        return {
            "pred": torch.cat([8 - diameter, diameter - 8], 1),
            "diameter": diameter,
            "reader_rating": diameter.clamp(1, 5),
        }


def ball_predictor(batch: int = 2) -> Predictor:
    """The whole chain of the nodule system, with ``BallSystem`` for a network."""
    return Predictor(BallSystem(), res_mtnet.preprocessing(), res_mtnet.inferer(batch), TOY_MODEL)
