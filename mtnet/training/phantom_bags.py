"""Training samples from drawn chests: bags of patches, each with all four targets.

A chest is drawn once, taken through the bundle's own preprocessing, and kept in a folder, so that a training that goes
on later finds it again. One item of the data set is a bag: several patches of one chest. The classification head is
trained on the bag as well as on each patch, since its window weights only mean something over several windows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.utils.data import Dataset

from mtnet.io.atomic import atomic_path
from mtnet.phantoms import NoduleRequest, draw_chest
from mtnet.phantoms.nodules import TEXTURES as NODULE_TEXTURES
from mtnet.structures import Geometry
from mtnet.systems.chest_ct import TEXTURES

NATIVE_GRIDS_MM = (
    (1.5, 1.5, 1.5),
    (1.5, 1.5, 1.5),
    (1.2, 1.2, 2.5),
    (1.1, 1.1, 5.0),
)
"""Voxel sizes that chests are drawn on: thin slices, and thick ones as many hospitals keep them."""

CROWDED = (16, 30)
"""Fewest and most nodules of a crowded chest. Two chests of three are crowded, so that a patch teaches many nodules."""

_LARGE = 0.2
_LARGE_MM = (18.0, 40.0)
_ON_A_VESSEL = 0.5
_NEAR_A_LESION = 0.6
_SUBSOLID = ("part_solid", "ground_glass")
_MIN_VOXELS = 4


UNKNOWN = 255
"""Value of a mask that nobody drew."""


@dataclass(frozen=True, slots=True)
class DrawnSample:
    """One preprocessed chest: ``image`` (i, j, k) float16, ``mask`` uint8 (``UNKNOWN`` where nobody drew one), ``lung``
    bool, and its lesions: ``box_index`` ``(N, 6)`` (None where nobody marked them), ``texture`` ``(N,)`` (-1 unknown).
    """

    image: NDArray[np.float16]
    mask: NDArray[np.uint8]
    lung: NDArray[np.bool_]
    box_index: NDArray[np.float64] | None
    texture: NDArray[np.int64]


def nodules_of_chest(seed: int) -> tuple[NoduleRequest, ...] | None:
    """What chest ``seed`` is drawn with: None (the family's own habit), or a crowd that has each texture equally often.

    A fifth of a crowd is large, and half of it sits on vessels: large and ground-glass nodules are rare by habit, and
    they and those on vessels are what is missed then.
    """
    if seed % 3 == 0:
        return None
    rng = np.random.default_rng((seed, 16))
    sizes = [rng.uniform(*_LARGE_MM) if rng.random() < _LARGE else None for _ in range(rng.integers(*CROWDED))]
    first = int(rng.integers(len(NODULE_TEXTURES)))
    return tuple(
        NoduleRequest(
            diameter_mm=size,
            texture=NODULE_TEXTURES[(first + n) % len(NODULE_TEXTURES)],
            place="vessel" if rng.random() < _ON_A_VESSEL else None,
        )
        for n, size in enumerate(sizes)
    )


def draw_sample(seed: int, preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> DrawnSample:
    """Draw chest ``seed`` of the training family on one of ``NATIVE_GRIDS_MM`` and preprocess it as a study is."""
    from monai.data import MetaTensor
    from monai.transforms import ResampleToMatch

    native = NATIVE_GRIDS_MM[seed % len(NATIVE_GRIDS_MM)]
    phantom = draw_chest(seed, family="train", spacing_mm=native, nodules=nodules_of_chest(seed))
    volume = phantom.volume
    affine = torch.as_tensor(volume.geometry.affine_ras)
    image = MetaTensor(torch.as_tensor(volume.array[0].astype(np.float32)), affine=affine)
    prepared = preprocessing({"image": image})["image"]
    grid = Geometry.from_ras(prepared.shape[1:], prepared.affine)

    def onto_grid(mask: NDArray[Any]) -> NDArray[np.bool_]:
        moved = MetaTensor(torch.as_tensor(mask.astype(np.float32))[None], affine=affine)
        resampled = ResampleToMatch(mode="bilinear", padding_mode="zeros")(moved, prepared).numpy()
        return np.asarray(resampled[0] >= 0.5)

    boxes = [volume.geometry.box_index_to(grid, lesion.box_index) for lesion in phantom.lesions]
    names = [label.name for label in TEXTURES]
    return DrawnSample(
        image=prepared[0].numpy().astype(np.float16),
        mask=onto_grid(phantom.lesion_map > 0).astype(np.uint8),
        lung=onto_grid(phantom.lung_mask),
        box_index=np.asarray(boxes, dtype=np.float64).reshape(-1, 6),
        texture=np.asarray([names.index(lesion.texture) for lesion in phantom.lesions], dtype=np.int64),
    )


def kept_sample(folder: Path, name: str, make: Callable[[], DrawnSample]) -> DrawnSample:
    """The sample ``name`` from ``folder``, memory-mapped; made and kept first where it is not there yet."""
    place = folder / name
    if not (place.with_suffix(".json")).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        sample = make()
        for part in ("image", "mask", "lung"):
            with atomic_path(folder / f"{name}-{part}.npy") as path:
                np.save(path, getattr(sample, part))
        boxes = None if sample.box_index is None else sample.box_index.tolist()
        with atomic_path(place.with_suffix(".json")) as path:
            path.write_text(json.dumps({"box_index": boxes, "texture": sample.texture.tolist()}), encoding="ascii")
    told = json.loads(place.with_suffix(".json").read_text(encoding="ascii"))
    image, mask, lung = (np.load(folder / f"{name}-{part}.npy", mmap_mode="r") for part in ("image", "mask", "lung"))
    boxes = None if told["box_index"] is None else np.asarray(told["box_index"], dtype=np.float64).reshape(-1, 6)
    return DrawnSample(image, mask, lung, boxes, np.asarray(told["texture"], dtype=np.int64))


class PhantomBags(Dataset[dict[str, Any]]):
    """Bags of patches from drawn chests; item ``n`` is always the same for one ``seed``.

    An item is ``{"image": (P, 1, *patch) float32, "label": targets}`` with targets ``mask`` (P, *patch) int64,
    ``boxes`` (a list of P dicts ``{"box_index": (N, 6), "label": (N,), "texture": (N,)}``; only lesions whose centre
    lies in the patch: elsewhere the window that owns them finds them) and ``classes`` (P, 2) float32. What a chest's
    sample does not know is -1 in the mask, None among the boxes, NaN among the classes.

    Args:
        folder: where drawn chests are kept.
        chests: how many different ones, seeds ``0 .. chests - 1``.
        bags: items of one epoch.
        preprocessing: the bundle's, without its loader.
        patch_size: voxels.
        patches: patches in a bag.
        seed: of the sampling.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        *,
        chests: int,
        bags: int,
        patch_size: tuple[int, int, int] = (64, 64, 64),
        patches: int = 4,
        seed: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.preprocessing = preprocessing
        self.chests = chests
        self.bags = bags
        self.patch_size = patch_size
        self.patches = patches
        self.seed = seed

    def __len__(self) -> int:
        return self.bags

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        sample = self.chest(int(rng.integers(self.chests)))
        drawn = [self._patch(sample, rng) for _ in range(self.patches)]
        return {
            "image": torch.stack([patch[0] for patch in drawn]),
            "label": {
                "mask": torch.stack([patch[1] for patch in drawn]),
                "boxes": [patch[2] for patch in drawn],
                "classes": torch.stack([patch[3] for patch in drawn]),
            },
        }

    def chest(self, number: int) -> DrawnSample:
        """Chest ``number``, kept in the folder."""
        return kept_sample(self.folder, f"chest-{number:05d}", lambda: draw_sample(number, self.preprocessing))

    def _patch(
        self, sample: DrawnSample, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor] | None, torch.Tensor]:
        size = np.asarray(self.patch_size)
        start = self._start(sample, rng)
        stop = np.minimum(start + size, sample.image.shape)
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        pad = [(0, int(n)) for n in size - (stop - start)]
        image = np.pad(sample.image[window].astype(np.float32), pad)
        mask = np.pad(sample.mask[window], pad, constant_values=UNKNOWN if sample.mask[0, 0, 0] == UNKNOWN else 0)
        marked = np.zeros((0, 6)) if sample.box_index is None else sample.box_index
        boxes = marked - np.tile(start, 2)
        centres = (boxes[:, :3] + boxes[:, 3:]) / 2
        inside = ((centres >= -0.5) & (centres < size - 0.5)).all(axis=1)
        boxes, texture = boxes[inside], sample.texture[inside]

        image = np.clip(image * rng.uniform(0.95, 1.05) + rng.uniform(-0.03, 0.03), 0.0, 1.0)
        grain = rng.normal(0.0, 1.0, image.shape).astype(np.float32)
        if rng.random() < 0.5:
            grain = gaussian_filter(grain, rng.uniform(0.4, 1.2))
            grain /= grain.std()
        image += grain * np.float32(rng.uniform(0.0, 0.02))
        for axis in range(3):
            if rng.random() < 0.5:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
                low = size[axis] - 1 - boxes[:, 3 + axis]
                boxes[:, 3 + axis] = size[axis] - 1 - boxes[:, axis]
                boxes[:, axis] = low
        told = torch.from_numpy(np.ascontiguousarray(mask)).long()
        told[told == UNKNOWN] = -1
        lesions = {
            "box_index": torch.as_tensor(boxes, dtype=torch.float32),
            "label": torch.zeros(len(boxes), dtype=torch.long),
            "texture": torch.as_tensor(texture, dtype=torch.long),
        }
        return (
            torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None],
            told,
            None if sample.box_index is None else lesions,
            torch.tensor([_visible(told, sample.box_index is not None, len(boxes)), _subsolid(texture, sample)]),
        )

    def _start(self, sample: DrawnSample, rng: np.random.Generator) -> NDArray[np.int64]:
        """First voxel of a patch: around a lesion, or somewhere in the lung."""
        size = np.asarray(self.patch_size)
        boxes = sample.box_index
        if boxes is not None and len(boxes) and rng.random() < _NEAR_A_LESION:
            box = boxes[rng.integers(len(boxes))]
            centre = (box[:3] + box[3:]) / 2 - rng.uniform(-0.45, 0.45, 3) * size
        else:
            shape = np.asarray(sample.lung.shape)
            centre = rng.uniform(0, shape)
            for _ in range(20):
                if sample.lung[tuple(centre.astype(int))]:
                    break
                centre = rng.uniform(0, shape)
        limit = np.maximum(np.asarray(sample.image.shape) - size, 0)
        return np.asarray(np.clip(np.round(centre - size / 2), 0, limit), dtype=np.int64)


def _visible(mask: torch.Tensor, marked: bool, boxes: int) -> float:
    """Whether a patch shows a nodule: by its mask, or where there is none by its boxes; NaN where neither is known."""
    if bool((mask >= 0).any()):
        return float(int((mask == 1).sum()) >= _MIN_VOXELS)
    return float(boxes > 0) if marked else float("nan")


def _subsolid(texture: NDArray[np.int64], sample: DrawnSample) -> float:
    """Whether one of a patch's nodules is subsolid; NaN where nobody can say."""
    if any(TEXTURES[t].name in _SUBSOLID for t in texture if t >= 0):
        return 1.0
    return float("nan") if sample.box_index is None or (texture < 0).any() else 0.0
