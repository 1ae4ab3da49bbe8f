"""2D images through the loader: as MONAI's own readers order them, where those are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from monai.data import ITKReader, PILReader
from monai.transforms import Compose, LoadImage, Spacingd
from PIL import Image as PillowImages

from mtnet.io.loader import LoadImageStudyd
from mtnet.structures.report import RefusedError
from tests.builders import write_ct_series
from tests.io.test_dicom_images import DEEP, GREY, RGB, region, write_object
from tests.io.test_video import write_video

pytestmark = [
    # SWIG's warning, turned into an error while itk's modules are first imported, ends the process.
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:monai"),
    pytest.mark.filterwarnings("ignore::FutureWarning:monai"),
    # Of the reader that LoadImage makes beside the one asked for.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]


def load(path: Path, **options: Any) -> Any:
    return LoadImageStudyd("image", **options)({"image": str(path)})["image"]


@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
@pytest.mark.parametrize("reader", [ITKReader, PILReader])
def test_pictures_are_what_monais_readers_give(tmp_path: Path, reader: Any, pixels: Any, channel_first: bool) -> None:
    PillowImages.fromarray(pixels).save(tmp_path / "a.png")
    theirs = LoadImage(reader=reader(), ensure_channel_first=channel_first)(tmp_path / "a.png")
    ours = load(tmp_path / "a.png", ensure_channel_first=channel_first)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert ours.meta["spacing_mm"] == "null" and "pixel_spacing_unknown" in ours.meta["input_report"]
    if reader is ITKReader:
        np.testing.assert_array_equal(ours.affine, theirs.affine)


@pytest.mark.parametrize(("pixels", "photometric"), [(RGB, "RGB"), (DEEP, "MONOCHROME2")])
def test_dicom_images_are_itkreaders_without_its_empty_axis(tmp_path: Path, pixels: Any, photometric: str) -> None:
    write_object(tmp_path / "a.dcm", pixels, photometric)
    theirs = LoadImage(reader=ITKReader(), ensure_channel_first=True)(tmp_path / "a.dcm")
    ours = load(tmp_path / "a.dcm", ensure_channel_first=True)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy().squeeze(-1))


def test_ultrasound_spacing_reaches_the_affine_and_resampling(tmp_path: Path) -> None:
    regions = {"SequenceOfUltrasoundRegions": [region((0, 0, 39, 23), (0.02, 0.04))]}
    write_object(tmp_path / "a.dcm", RGB, "RGB", **regions)
    image = load(tmp_path / "a.dcm", ensure_channel_first=True)
    assert json.loads(image.meta["spacing_mm"]) == pytest.approx([0.2, 0.4]) and image.meta["modality"] == "US"
    chain = Compose([LoadImageStudyd("image", ensure_channel_first=True), Spacingd("image", pixdim=(0.2, 0.2))])
    resampled = chain({"image": str(tmp_path)})["image"]
    assert resampled.shape[0] == 3 and abs(resampled.shape[1] - 40) <= 1 and abs(resampled.shape[2] - 47) <= 1


def test_volumes_come_before_images_and_a_series_of_images_is_taken_by_uid(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "ct", shape=(14, 12, 10))
    write_object(tmp_path / "capture.dcm", RGB, "RGB", SeriesInstanceUID="1.2.3.4")
    assert load(tmp_path).shape == (14, 12, 10)
    assert load(tmp_path, series_uid="1.2.3.4", ensure_channel_first=True).shape == (3, 40, 24)


def test_several_images_and_frames_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        PillowImages.fromarray(GREY).save(tmp_path / name)
    with pytest.raises(RefusedError, match="several_images"):
        load(tmp_path)
    write_object(tmp_path / "cine" / "a.dcm", np.stack([GREY] * 3), "MONOCHROME2", frames=3)
    with pytest.raises(RefusedError, match="several_frames"):
        load(tmp_path / "cine")
    pytest.importorskip("cv2", reason="mtnet[video] is not installed")
    write_video(tmp_path / "a.avi", "FFV1", count=3)
    with pytest.raises(RefusedError, match="several_frames"):
        load(tmp_path / "a.avi")


def test_a_broken_picture_is_refused_and_no_other_reader_is_asked(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(GREY), str(tmp_path / "a.png"))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedError, match="unreadable_image"):
        load(tmp_path / "a.png")
