"""From a manifest to what a trainer sees: items for MONAI's data sets, their loader, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import MetaKeys
from torch import Tensor

from mtnet.inference.inferer import grid_from_ras
from mtnet.io.loader import LoadImageStudyd
from mtnet.sources import Sample, read_manifest
from mtnet.sources.manifest import Split
from mtnet.sources.masks import read_mask_file, union

CLASS = "class"
"""Key of an item's class, by name."""
AFFINE_OF_BOXES = "boxes_affine"

_VOLUMES = 3


def samples_of(manifest: str | Path | None, split: Split | Literal["all"]) -> list[dict[str, Any]]:
    """The samples of one split as items for a MONAI data set; none without a manifest.

    An item has ``id`` and ``image`` (a path), and, of what is known: ``masks`` (a list of paths, empty for an empty
    mask), ``boxes`` (in index space of the image as loaded), ``class`` (its name), ``at_lps_mm``, and each value under
    its own name. What is unknown is missing.

    Args:
        manifest: file that ``mtnet prepare`` wrote.
        split: ``train``, ``val``, ``test`` or ``all``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no manifest, or there is no such split.
    """
    return [] if manifest is None else [_item(sample) for sample in read_manifest(Path(manifest)).select(split)]


def require_samples(data: Sized, manifest: str | Path | None) -> None:
    """Raise a ``ValueError`` that says what to do where a data set of a manifest is empty."""
    if len(data) == 0:
        told = "no manifest was given" if manifest is None else f"{Path(manifest).name} has none in the split"
        raise ValueError(f"There are no samples: {told}. Make one with mtnet prepare and give it with --manifest.")


def shard(samples: Sequence[Any], rank: int, processes: int) -> Sequence[Any]:
    """Every ``processes``-th sample from ``rank`` on. Where there are fewer samples than processes each has them all:
    one without any would not come to where the others wait for it."""
    return samples[rank::processes] if len(samples) >= processes else samples


class LoadSampled(Transform):  # type: ignore[misc]  # MONAI is not typed
    """Load an item of ``samples_of``: ``image``, its ``label`` (0 and 1, in the image's frame) where masks are known,
    and ``boxes`` as a tensor ``(G, 2D)``.

    A ``label`` that is a path already (MONAI Label's data lists) is one mask file.

    Args:
        masks: read them; a network without a dense output does not need them.
        boxes: keep them; a network without boxes does not need to have them carried along.
    """

    def __init__(self, masks: bool = True, boxes: bool = True) -> None:
        self.masks = masks
        self.boxes = boxes
        self._load = LoadImageStudyd(keys="image")
        self._load_mask = LoadImageStudyd(keys="mask")

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The loaded item.

        Raises:
            FileNotFoundError, RefusedError: a file is missing or cannot be read.
            ValueError: a mask has another size than its image.
        """
        item = dict(self._load(data))
        files = item.pop("masks", [item["label"]] if "label" in item else None)
        if self.masks and files is not None:
            item["label"] = self._mask([Path(file) for file in files], item["image"], str(item.get("id", "the item")))
        else:
            item.pop("label", None)
        if not self.boxes:
            item.pop("boxes", None)
        elif "boxes" in item:
            axes = _axes(item["image"])
            item["boxes"] = torch.tensor(item["boxes"], dtype=torch.float32).reshape(-1, 2 * axes)
            item[AFFINE_OF_BOXES] = item["image"].affine.clone()
        return item

    def _mask(self, files: Sequence[Path], image: MetaTensor, name: str) -> MetaTensor:
        axes = _axes(image)
        if not files:
            return _flat(torch.zeros(image.shape[:axes]), image.affine)
        if axes == _VOLUMES:
            # A volume's mask has an affine of its own, and need not lie on the image's grid.
            loaded = [self._load_mask({"mask": str(file)})["mask"] for file in files]
            inside = union([mask.numpy() > 0.5 for mask in loaded], name)
            return _flat(torch.from_numpy(inside).float(), loaded[0].affine)
        mask = union([read_mask_file(file) for file in files], name)
        if mask.shape != tuple(image.shape[:axes]):
            raise ValueError(
                f"The mask of {name} has {' x '.join(map(str, mask.shape))} pixels, its image "
                f"{' x '.join(map(str, image.shape[:axes]))}; expected the same. Correct the files or leave it out."
            )
        return _flat(torch.from_numpy(mask).float(), image.affine)


class BoxesOnImaged(MapTransform):  # type: ignore[misc]  # MONAI is not typed
    """Carry an item's boxes to where its image is now, after any steps in space that its affine tells of.

    A box that a rotation turned becomes the smallest aligned box around it. Boxes are cut off at the image's border;
    one whose centre lies beyond, or of which less than a pixel is left, is dropped.

    Args:
        keys: of the boxes.
        image: key of the image ``(C, *S)``.
    """

    def __init__(self, keys: str = "boxes", image: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image = image

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return a copy of ``data`` with boxes ``(G', 2D)`` in index space of the image."""
        moved = dict(data)
        for key in self.key_iterator(moved):
            moved[key] = self._moved(moved[key], moved.pop(AFFINE_OF_BOXES), moved[self.image])
        return moved

    def _moved(self, boxes: Tensor, affine: Tensor, image: MetaTensor) -> Tensor:
        size = torch.tensor(image.shape[1:], dtype=torch.float64)
        axes = len(size)
        before = grid_from_ras([1] * axes, affine.cpu().numpy())
        now = grid_from_ras(image.shape[1:], image.affine.cpu().numpy())
        low, high = boxes[:, :axes].double(), boxes[:, axes:].double()
        flat = [torch.full((len(boxes), _VOLUMES - axes), side, dtype=torch.float64) for side in (-0.5, 0.5)]
        corners = torch.cat([low, flat[0], high, flat[1]], dim=1).numpy()
        carried = torch.from_numpy(before.box_index_to(now, corners)).reshape(-1, 2, _VOLUMES)[:, :, :axes]
        centre = carried.mean(1)
        inside = ((centre >= -0.5) & (centre < size - 0.5)).all(1)
        cut = torch.minimum(carried.clamp_min(-0.5), size - 0.5)
        whole = ((cut[:, 1] - cut[:, 0]) >= 1).all(1)
        return cut[inside & whole].flatten(1).float()


def collate_samples(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: ``image`` as one ``MetaTensor`` with an affine each, everything else as a list with None for unknown.

    Images of different sizes (the aspect is kept, or they were cropped) are padded at their high ends to the largest,
    with 0, which is the mean after normalisation; labels with background.
    """
    size = torch.tensor([item["image"].shape[1:] for item in items]).amax(0).tolist()
    images = [item["image"] for item in items]
    stacked = torch.stack([_padded(image, size) for image in images])
    if all(isinstance(image, MetaTensor) for image in images):
        stacked = MetaTensor(stacked, affine=torch.stack([image.affine for image in images]))
    batch: dict[str, Any] = {"image": stacked}
    for key in dict.fromkeys(key for item in items for key in item if key != "image"):
        values = [item.get(key) for item in items]
        batch[key] = [_padded(v, size) if key == "label" and v is not None else v for v in values]
    return batch


def _item(sample: Sample) -> dict[str, Any]:
    item: dict[str, Any] = {**sample.values, "id": sample.id, "image": str(sample.image)}
    if sample.masks is not None:
        item["masks"] = [str(path) for path in sample.masks]
    if sample.boxes is not None:
        item["boxes"] = [list(box) for box in sample.boxes]
    if sample.image_class is not None:
        item[CLASS] = sample.image_class
    if sample.centre_lps_mm is not None:
        item["at_lps_mm"] = sample.centre_lps_mm
    return item


def _axes(image: MetaTensor) -> int:
    """2 for a picture ``(i, j)`` or ``(i, j, 3)`` as it is loaded, 3 for a volume."""
    return int(image.ndim) - int(image.meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM) == -1)


def _flat(values: Tensor, affine: Tensor) -> MetaTensor:
    return MetaTensor(values, affine=affine.clone(), meta={MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel"})


def _padded(tensor: Tensor, size: Sequence[int]) -> Tensor:
    plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    missing = [n for have, want in zip(plain.shape[:0:-1], size[::-1], strict=True) for n in (0, want - have)]
    return torch.nn.functional.pad(plain, missing)
