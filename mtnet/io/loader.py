"""The loader of mtnet's configs: a MONAI transform over ``mtnet.io.read``. No other io module needs MONAI."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import DtypeLike, KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, ensure_tuple

from mtnet.io.limits import Limits
from mtnet.io.read import Reading, read_volume_or_image
from mtnet.io.select import CHEST_CT_RULE, SeriesRule
from mtnet.structures.image import Image

_DEFAULT_LIMITS = Limits()


class StudyReader(ImageReader):  # type: ignore[misc]  # MONAI is not followed by mypy
    """MONAI reader of a DICOM folder or zip (the series that the rule chooses), NIfTI, NRRD or MetaImage; of one 2D
    image (PNG, JPEG, TIFF, BMP, DICOM) where the input holds no volume.

    ``LoadImage(reader=...)`` tries other readers when this one refuses, and they would be wrong in silence: use
    ``LoadImageStudyd``, or hand this reader to each call.

    Args:
        rule: which series suits, and which is best.
        series_uid: take this series whatever the rule says.
        strict: refuse what would be repaired.
        repair: mend what is refused by default and can be mended.
        limits: what the input may cost.
    """

    def __init__(
        self,
        rule: SeriesRule = CHEST_CT_RULE,
        *,
        series_uid: str | None = None,
        strict: bool = False,
        repair: bool = False,
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.series_uid = series_uid
        self.strict = strict
        self.repair = repair
        self.limits = limits

    def verify_suffix(self, filename: Any) -> bool:
        """Whether the path exists: content, not name, tells the format."""
        return all(Path(name).exists() for name in ensure_tuple(filename))

    def read(self, data: Any, **kwargs: Any) -> Reading | Image:
        """Read one path.

        Raises:
            ValueError: several paths were given.
            FileNotFoundError, RefusedError: as ``read_volume_or_image``.
        """
        names = ensure_tuple(data)
        if len(names) != 1:
            raise ValueError(f"{len(names)} paths were given for one image; give the folder, zip or file itself.")
        return read_volume_or_image(
            Path(names[0]),
            rule=self.rule,
            series_uid=self.series_uid,
            strict=self.strict,
            repair=self.repair,
            limits=self.limits,
        )

    def get_data(self, img: Reading | Image) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Array and metadata: RAS affine and, as JSON text, the input report and choice of series.

        A volume is ``(i, j, k)``. A 2D image is ``(i, j)``, or ``(i, j, 3)`` in colour, as MONAI's ITKReader gives it;
        its affine is 3 x 3. Where its spacing is unknown, the affine counts pixels and ``spacing_mm`` is ``null``.
        """
        if isinstance(img, Image):
            return _image_data(img)
        volume = img.volume
        affine = volume.geometry.affine_ras
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.geometry.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
            "modality": volume.modality,
            "series_instance_uid": img.selection.series.series_instance_uid if img.selection else "",
            "input_report": json.dumps([asdict(item) for item in volume.report]),
            "series_choices": json.dumps([asdict(choice) for choice in img.choices]),
        }
        return volume.array[0], meta


def _image_data(image: Image) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    step_i, step_j = image.spacing_mm or (1.0, 1.0)
    affine = np.diag([-step_i, -step_j, 1.0])
    grey = image.array.shape[0] == 1
    meta: dict[str, Any] = {
        MetaKeys.AFFINE: affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(image.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel" if grey else -1,
        "modality": image.modality,
        "spacing_mm": json.dumps(image.spacing_mm),
        "series_instance_uid": "",
        "input_report": json.dumps([asdict(item) for item in image.report]),
        "series_choices": "[]",
    }
    return image.array[0] if grey else np.moveaxis(image.array, 0, -1), meta


def as_loaded(image: Image) -> MetaTensor:
    """A 2D image that was read before, as ``LoadImageStudyd`` would give it, in float32."""
    array, meta = _image_data(image)
    return MetaTensor.ensure_torch_and_prune_meta(array.astype(np.float32, copy=False), meta)


class LoadImageStudyd(MapTransform):  # type: ignore[misc]  # MONAI is not followed by mypy
    """Loads as ``LoadImaged`` does, with ``StudyReader`` and nothing else; usable in any bundle config by ``_target_``.

    The loaded item is a ``MetaTensor`` with RAS affine; ``meta["input_report"]`` and ``meta["series_choices"]`` are
    JSON text, so that batches of them collate. MONAI's own readers are not even made: one of them changes pydicom's
    decoders when it is. It is no subclass of ``LoadImaged``: MONAI Label wraps each of those in a loader of its own,
    which wants every key.

    Args:
        keys: keys of the items that hold a path.
        rule: which series suits, and which is best.
        series_uid: take this series whatever the rule says.
        strict: refuse what would be repaired.
        repair: mend what is refused by default and can be mended.
        limits: what the input may cost.
        dtype: of the tensor.
        ensure_channel_first: give ``(1, i, j, k)`` rather than ``(i, j, k)``; of a 2D image ``(1 or 3, i, j)``.
        allow_missing_keys: pass over keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        rule: SeriesRule = CHEST_CT_RULE,
        *,
        series_uid: str | None = None,
        strict: bool = False,
        repair: bool = False,
        limits: Limits = _DEFAULT_LIMITS,
        dtype: DtypeLike = np.float32,
        ensure_channel_first: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reader = StudyReader(rule, series_uid=series_uid, strict=strict, repair=repair, limits=limits)
        self.dtype = dtype
        self.ensure_channel_first = ensure_channel_first

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Load every key of ``data``.

        Args:
            data: item with paths under the keys.
            reader: another reader for this call alone.

        Raises:
            FileNotFoundError, RefusedError: as ``read_volume_or_image``; no other reader is tried.
        """
        loaded = dict(data)
        chosen = reader or self.reader
        for key in self.key_iterator(loaded):
            name = str(Path(loaded[key]).expanduser())
            array, meta = chosen.get_data(chosen.read(name))
            meta[ImageMetaKey.FILENAME_OR_OBJ] = name
            image = MetaTensor.ensure_torch_and_prune_meta(array.astype(self.dtype, copy=False), meta)
            loaded[key] = EnsureChannelFirst()(image) if self.ensure_channel_first else image
        return loaded
