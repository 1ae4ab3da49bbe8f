"""The steps of the MONAI Deploy App SDK's bundle operator and of its DICOM series operator, after their documentation
and behaviour (version 4); the SDK itself needs a CUDA runtime."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose, MapTransform
from numpy.typing import NDArray


@dataclass(frozen=True)
class SdkImage:
    """The SDK's image: slices, rows, columns (any order where it does not come from DICOM), and what is told of it."""

    array: NDArray[Any]
    metadata: dict[str, Any] = field(default_factory=dict)


def series_to_volume(folder: Path) -> SdkImage:
    """One regular series as the SDK stacks it: sorted along the normal, rescaled to 16 bits, with a RAS affine."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    cosines = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*cosines)
    slices.sort(key=lambda one: float(normal @ np.array(one.ImagePositionPatient, float)))
    first, last = (np.array(slices[n].ImagePositionPatient, float) for n in (0, -1))
    step = (last - first) / (len(slices) - 1)
    spacing = [float(n) for n in slices[0].PixelSpacing]
    affine = np.eye(4)
    affine[:3] = np.stack([cosines[0] * spacing[0], cosines[1] * spacing[1], step, first], axis=1)
    affine[:2] *= -1
    array = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])
    told = {
        "row_pixel_spacing": spacing[0],
        "col_pixel_spacing": spacing[1],
        "depth_pixel_spacing": float(np.linalg.norm(step)),
        "nifti_affine_transform": affine,
        "series_instance_uid": str(slices[0].SeriesInstanceUID),
        "modality": str(slices[0].Modality),
    }
    return SdkImage(array.astype(np.int16), told)


def config_of(model: Path, names: Sequence[str]) -> ConfigParser:
    """What the operator reads of a TorchScript file: it looks in the folder that is named as the file is now.

    Where the file was renamed, the metadata are found by a search. So are the configs, but those are not read then.
    """
    parser = ConfigParser()
    with zipfile.ZipFile(model) as archive, TemporaryDirectory() as place:
        held = archive.namelist()
        own = f"{model.stem}/extra"
        metadata = [name for name in (f"{own}/metadata.json", *held) if name in held and name.endswith("metadata.json")]
        parser.read_meta(json.loads(archive.read(metadata[0])))
        wanted = [f"{own}/{name}.json" for name in names]
        if not all(name in held for name in wanted):
            missing = [name for name in names if not any(f"{name}.json" in one for one in held)]
            if missing:
                raise OSError(f"Failed to extract content for these config(s): {missing}.")
            wanted = []
        archive.extractall(place, members=wanted)
        parser.read_config([Path(place, name) for name in wanted])
    parser.parse()
    return parser


class StockOperator:
    """The bundle operator on one image.

    Args:
        model: TorchScript file with metadata and configs in it.
        preproc, inferer, postproc: ids of what it takes from them.
        configs: their names, later ones over earlier ones.
    """

    def __init__(
        self,
        model: Path,
        preproc: str = "preprocessing",
        inferer: str = "inferer",
        postproc: str = "postprocessing",
        configs: Sequence[str] = ("inference",),
    ) -> None:
        self.parser = config_of(model, configs)
        formats = self.parser["_meta_"]["network_data_format"]
        self.inputs, self.outputs = list(formats["inputs"]), dict(formats["outputs"])
        self.preprocessing, self.postprocessing = self._chain(preproc), self._chain(postproc)
        has_inferer = self.parser.get(inferer) is not None
        self.inferer = self.parser.get_parsed_content(inferer) if has_inferer else SimpleInferer()
        self.network = torch.jit.load(str(model)).eval()

    def __call__(self, image: SdkImage) -> dict[str, Any]:
        """What is sent on, by output."""
        with torch.no_grad():
            (name,) = self.inputs
            item: Any = {name: MetaTensor.ensure_torch_and_prune_meta(*_as_loaded(image))}
            if _works_on_dicts(self.preprocessing):
                item = self.preprocessing(item)
            else:
                item = {key: self.preprocessing(value) for key, value in item.items()}
            seen = item.pop(name)
            others = {key: value[None] for key, value in item.items() if isinstance(value, torch.Tensor)}
            answers = self.inferer(inputs=seen[None], network=self.network, **others)
            answer = answers[0] if isinstance(answers, list | tuple) else next(iter(answers))
            item[name] = seen
            if _works_on_dicts(self.postprocessing):
                known = answer if isinstance(answer, dict) else {next(iter(self.outputs)): answer}
                made = self.postprocessing({**known, **item})
            else:
                made = self.postprocessing(answer)
        if not isinstance(made, dict):
            made = {next(iter(self.outputs)): made}
        return {key: self._sent(made[key], told["type"]) for key, told in self.outputs.items()}

    def _chain(self, name: str) -> Compose:
        if self.parser.get(name) is None:
            return Compose([])
        chain = self.parser.get_parsed_content(name)
        dropped = ("LoadImage", "SaveImage")
        return Compose([step for step in chain.transforms if not any(d in type(step).__name__ for d in dropped)])

    @staticmethod
    def _sent(value: Any, kind: str) -> Any:
        if kind == "image":
            array = value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            return SdkImage(np.swapaxes(np.squeeze(array, 0), 0, 2).astype(np.uint8))
        if kind in ("series", "tuples"):
            return np.asarray(value)
        raise AssertionError(f"the operator would fail on an output of type {kind!r}, or name its values wrongly")


def _works_on_dicts(chain: Compose) -> bool:
    return bool(chain.transforms) and isinstance(chain.transforms[0], MapTransform)


def _as_loaded(image: SdkImage) -> tuple[Any, dict[str, Any]]:
    """Array and metadata as a MONAI loader would give them; of DICOM with its axes turned around."""
    told: Mapping[str, Any] = image.metadata
    if "row_pixel_spacing" not in told:
        return image.array, dict(told)
    array = np.swapaxes(image.array, 0, 2)
    affine = np.asarray(told["nifti_affine_transform"])
    meta = {
        **told,
        "spacing": [told[f"{axis}_pixel_spacing"] for axis in ("row", "col", "depth")],
        "original_affine": affine,
        "affine": affine.copy(),
        "space": "LPS",
        "spatial_shape": np.asarray(array.shape),
        "original_channel_dim": "no_channel",
    }
    return array, meta
