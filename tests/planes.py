"""A network of single images whose answers a test can work out, its chain, and pictures to give it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd, Resized, ScaleIntensityRanged, SpatialPadd
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from torch import Tensor, nn

from mtnet.bundle import Bundle
from mtnet.inference import MultiTaskInferer
from mtnet.nets import save_state
from mtnet.predictor import Predictor
from mtnet.structures import InputDomain, Label, ModelInfo, OutputSpec

SPOT = Label(1, "spot", (255, 170, 0))
PRED = OutputSpec("pred", "dense", (Label(0, "background"), SPOT), (1,), "softmax")
BOXES = OutputSpec("lesions", "boxes", (SPOT,), (8,), "sigmoid")
CLASSES = OutputSpec("classes", "global", (Label(0, "bright"),), activation="sigmoid")
MODEL = ModelInfo("spots", "1", "cd" * 32, "nothing", "Apache-2.0")
US_MULTIFRAME, US, SECONDARY, PHOTO = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("3.1", "6.1", "7", "77.1.4"))


class SpotNet(nn.Module):
    """What is brighter than half is the mask, and its bounding rectangle the one box. Rows x columns as they come."""

    stride = 16

    def __init__(self) -> None:
        super().__init__()
        self.outputs = (PRED, BOXES, CLASSES)
        self.batches: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.batches.append(tuple(image.shape))
        grey = image.mean(1, keepdim=True)
        cells = torch.full((len(image), 6, image.shape[2] // 8, image.shape[3] // 8), -20.0)
        for n, mask in enumerate(grey[:, 0] > 0.5):
            if not mask.any():
                continue
            places = mask.nonzero()
            low, high = places.min(0).values - 0.5, places.max(0).values + 0.5
            centre, size = (low + high) / 2, high - low
            cell = ((centre + 0.5) / 8).floor().long().clamp_min(0)
            offset = (centre - ((cell + 0.5) * 8 - 0.5)) / 8
            row = torch.cat([torch.tensor([6.0]), offset, (size / 8).log(), torch.tensor([6.0])])
            cells[n, :, cell[0], cell[1]] = row
        return {
            "pred": torch.cat([0.5 - grey, grey - 0.5], 1) * 40,
            "lesions_s8": cells,
            "classes": (grey.amax((1, 2, 3)) * 10 - 5)[:, None],
        }


def chain(size: int | tuple[int, int] | None = None, letterbox: bool = False) -> Compose:
    """Rows x columns, values to 0..1; with ``size`` stretched to it, or with ``letterbox`` padded to its square."""
    steps: list[Any] = [
        EnsureChannelFirstd(keys="image"),
        Orientationd(keys="image", axcodes="PL", labels=None),
        ScaleIntensityRanged(keys="image", a_min=0, a_max=255, b_min=0, b_max=1),
    ]
    if size is not None:
        mode = "longest" if letterbox else "all"
        steps.append(Resized(keys="image", spatial_size=size, size_mode=mode, mode="bilinear"))
    if letterbox:
        steps.append(SpatialPadd(keys="image", spatial_size=(size, size)))
    return Compose(steps)


def spot_predictor(
    preprocessing: Compose | None = None, window: int | None = None, batch: int = 1, **domain: Any
) -> Predictor:
    """The chain of images with ``SpotNet``; whole images without ``window``."""
    inferer = MultiTaskInferer(window, 0.25, batch)
    domain = {"spatial_dims": 2, "colour": "any", **domain}
    return Predictor(SpotNet(), preprocessing or chain(), inferer, MODEL, domain=InputDomain(**domain))


def spot(shape: tuple[int, int], low: tuple[int, int], high: tuple[int, int], samples: int = 1) -> NDArray[np.uint8]:
    """``(rows, columns[, 3])``: dark, with a bright rectangle from ``low`` to before ``high``, as (column, row)."""
    image = np.full((shape[1], shape[0]), 20, np.uint8)
    image[low[1] : high[1], low[0] : high[0]] = 230
    return image if samples == 1 else np.repeat(image[..., None], samples, axis=2)


def save(path: Path, pixels: NDArray[np.uint8], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_dicom(path: Path, pixels: NDArray[np.uint8], class_uid: str, modality: str, **tags: Any) -> Path:
    """``(rows, columns)``, ``(rows, columns, 3)``, or either behind an axis of frames (then ``NumberOfFrames``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = class_uid, tags.pop("uid", "1.2.826.1.5")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.1.2", f"1.2.826.1.3.{len(modality)}"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Nobody^At", "SECRET", "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200102", "101112", "7", ""
    dataset.ReferringPhysicianName, dataset.SeriesNumber, dataset.InstanceNumber = "", 3, 1
    dataset.Modality = modality
    colour = pixels.shape[-1] == 3
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if pixels.ndim == 4 - (not colour):
        dataset.NumberOfFrames = pixels.shape[0]
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = class_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    pydicom.dcmwrite(
        path,
        dataset,
        **({"enforce_file_format": True} if pydicom.__version__ > "3" else {"write_like_original": False}),
    )
    return path


def region(corners: tuple[int, int, int, int], delta_cm: tuple[float, float]) -> Dataset:
    """A calibrated B-mode region: first column, first row, last column, last row; cm a pixel."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta_cm
    return item


def write_flat_bundle(folder: Path, **domain: Any) -> Path:
    """A bundle of the chest-CT network in 2D with random weights, for grey pictures, seen whole at 64 x 96."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    transforms = [
        {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": "image"},
        {"_target_": "monai.transforms.Orientationd", "keys": "image", "axcodes": "PL", "labels": None},
        {"_target_": "monai.transforms.ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": 0,
         "b_max": 1},
        {"_target_": "monai.transforms.Resized", "keys": "image", "spatial_size": [64, 96]},
    ]  # fmt: skip
    config = {
        "network_def": {"_target_": "mtnet.systems.chest_ct.network", "spatial_dims": 2},
        "preprocessing": {"_target_": "monai.transforms.Compose", "transforms": transforms},
        "inferer": {"_target_": "mtnet.inference.MultiTaskInferer", "roi_size": None, "sw_batch_size": 2},
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    metadata = {"name": "flat", "version": "0.1", "training_data": "nothing"}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    bundle = Bundle.read(folder)
    torch.manual_seed(0)
    network = bundle.build("network_def")
    for level in network.branches["detection"].head.levels:
        for layer in (level.classes, level.quality):
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.constant_(layer.bias, 0.0)
    save_state(network, bundle.weights)
    metadata["weights_sha256"] = hashlib.sha256(bundle.weights.read_bytes()).hexdigest()
    declared = {"spatial_dims": 2, "colour": "grey", **domain}
    text = json.dumps({**metadata, "input_domain": declared})
    (folder / "configs" / "metadata.json").write_text(text, encoding="utf-8")
    return folder
