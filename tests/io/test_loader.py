"""The loader inside MONAI: in chains, in data loaders, in configs, and never answered by another reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    Spacingd,
)

from mtnet.io.loader import LoadImageStudyd, StudyReader
from mtnet.io.select import SeriesRule
from mtnet.structures import Geometry, RefusedError
from tests.builders import ramp_hu, write_ct_series
from tests.dcm2niix_judge import read_canonical

pytestmark = [
    # SWIG's warning, turned into an error while itk's modules are first imported, ends the process.
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:monai"),
    pytest.mark.filterwarnings("ignore::FutureWarning:monai"),
]
DIRECTION = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], dtype=float)


def write_study(folder: Path, **options: Any) -> Path:
    write_ct_series(folder, shape=(14, 12, 10), spacing_mm=(0.8, 0.8, 2.0), direction_lps=DIRECTION, **options)
    return folder


def assert_tells_its_place(image: MetaTensor, tolerance_hu: float) -> None:
    shape = tuple(image.shape[-3:])
    geometry = Geometry.from_ras(shape, np.asarray(image.affine))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    expected = ramp_hu(geometry.index_to_lps_mm(index))
    np.testing.assert_allclose(image.numpy().reshape(shape), expected, atol=tolerance_hu)


def test_it_gives_what_monais_readers_give_and_is_not_wrapped_by_hosts(tmp_path: Path) -> None:
    loader = LoadImageStudyd("image")
    assert not isinstance(loader, LoadImaged)
    image = loader({"image": str(write_study(tmp_path))})["image"]
    assert isinstance(image, MetaTensor)
    assert image.shape == (14, 12, 10) and image.dtype == torch.float32
    assert image.meta["original_channel_dim"] == "no_channel"
    assert image.meta["filename_or_obj"] == str(tmp_path)
    assert_tells_its_place(image, 0.51)


def test_report_and_choice_travel_in_the_metadata(tmp_path: Path) -> None:
    write_study(tmp_path / "a", drop=(4,))
    write_study(tmp_path / "b", series="lung", kernel="B70f")
    image = LoadImageStudyd("image", ensure_channel_first=True)({"image": tmp_path})["image"]
    assert image.shape == (1, 14, 12, 10)
    codes = [item["code"] for item in json.loads(image.meta["input_report"])]
    assert "missing_slices" in codes and "several_series" in codes
    choices = json.loads(image.meta["series_choices"])
    assert sorted(choice["taken"] for choice in choices) == [False, True]
    taken = next(choice for choice in choices if choice["taken"])
    assert taken["series_instance_uid"] == image.meta["series_instance_uid"]
    other = next(choice for choice in choices if not choice["taken"])["series_instance_uid"]
    named = LoadImageStudyd("image", series_uid=other)({"image": tmp_path})["image"]
    assert named.meta["series_instance_uid"] == other


def test_preprocessing_inverts_and_saves_on_the_source_grid(tmp_path: Path) -> None:
    chain = Compose(
        [
            LoadImageStudyd("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(1.0, 1.0, 1.5), mode="bilinear"),
        ]
    )
    item = chain({"image": str(write_study(tmp_path / "in"))})
    source = LoadImageStudyd("image")({"image": str(tmp_path / "in")})["image"]
    item["pred"] = item["image"].clone()
    post = Compose(
        [
            Invertd("pred", transform=chain, orig_keys="image", nearest_interp=False),
            SaveImaged("pred", output_dir=tmp_path / "out", separate_folder=False, print_log=False),
        ]
    )
    restored = post(item)["pred"]
    assert restored.shape == (1, 14, 12, 10)
    np.testing.assert_allclose(np.asarray(restored.affine), np.asarray(source.affine), atol=1e-9)
    np.testing.assert_allclose(restored.numpy()[0, 3:-3, 3:-3, 2:-2], source.numpy()[3:-3, 3:-3, 2:-2], atol=2)
    (saved,) = (tmp_path / "out").glob("*.nii.gz")
    written = read_canonical(saved)
    assert written.values.shape == (14, 12, 10)


def test_batches_collate_and_come_apart(tmp_path: Path) -> None:
    items = [
        {"image": str(write_study(tmp_path / "even", study="a", series="a"))},
        {"image": str(write_study(tmp_path / "gap", study="b", series="b", drop=(4,)))},
    ]
    data = Dataset(items, LoadImageStudyd("image", ensure_channel_first=True))
    (batch,) = DataLoader(data, batch_size=2, num_workers=0)
    assert batch["image"].shape == (2, 1, 14, 12, 10)
    even, gap = decollate_batch(batch)
    assert "missing_slices" not in even["image"].meta["input_report"]
    assert "missing_slices" in gap["image"].meta["input_report"]


def test_a_bundle_config_makes_it_by_target(tmp_path: Path) -> None:
    parser = ConfigParser(
        {
            "load": {
                "_target_": "mtnet.io.loader.LoadImageStudyd",
                "keys": "image",
                "rule": {"_target_": "mtnet.io.SeriesRule", "minimum_slices": 3},
                "ensure_channel_first": True,
            }
        }
    )
    loader = parser.get_parsed_content("load")
    assert loader.reader.rule == SeriesRule(minimum_slices=3)
    write_ct_series(tmp_path, shape=(14, 12, 4))
    assert loader({"image": str(tmp_path)})["image"].shape == (1, 14, 12, 4)


def test_a_refusal_is_the_answer_and_no_other_reader_is_asked(tmp_path: Path) -> None:
    folder = write_study(tmp_path, rescale=None)
    with pytest.raises(RefusedError, match="rescale_missing"):
        LoadImageStudyd("image")({"image": str(folder)})
    assert LoadImageStudyd("image", repair=True)({"image": str(folder)})["image"].shape == (14, 12, 10)


def test_strict_refuses_what_is_repaired_by_default(tmp_path: Path) -> None:
    folder = write_study(tmp_path, drop=(4,))
    assert LoadImageStudyd("image")({"image": str(folder)})["image"].shape == (14, 12, 10)
    with pytest.raises(RefusedError, match="missing_slices"):
        LoadImageStudyd("image", strict=True)({"image": str(folder)})


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_image_files_come_in_by_the_same_loader(tmp_path: Path, name: str) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    image.SetOrigin((3, 4, 5))
    SimpleITK.WriteImage(image, str(tmp_path / name))
    loaded = LoadImageStudyd("image")({"image": str(tmp_path / name)})["image"]
    assert loaded.shape == (6, 5, 4)
    np.testing.assert_allclose(loaded.affine[:3, 3], (-3, -4, 5))


def test_several_paths_or_image_files_for_one_image_are_refused(tmp_path: Path) -> None:
    import SimpleITK

    for name in ("a.nii", "b.nii"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(tmp_path / name))
    with pytest.raises(RefusedError, match="several_image_files"):
        LoadImageStudyd("image")({"image": str(tmp_path)})
    with pytest.raises(ValueError, match="2 paths"):
        StudyReader().read((str(tmp_path / "a.nii"), str(tmp_path / "b.nii")))
