"""The whole chain on single images: masks, boxes and sizes land on the pixels of the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtnet.inference import MultiTaskInferer
from mtnet.predictor import Predictor, ReadOptions
from mtnet.results import read_findings_json, write_findings_json
from mtnet.structures import Findings, InputDomain, Label, Measured, OutputSpec, RefusedError
from tests.builders import write_ct_series
from tests.bundles import blob_predictor
from tests.planes import MODEL, PHOTO, PRED, US, SpotNet, chain, region, save, spot, spot_predictor, write_dicom

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
SHAPE, LOW, HIGH = (101, 67), (30, 12), (54, 31)


def check_spot(
    predictor: Predictor, path: Path, low: tuple[int, int] = LOW, high: tuple[int, int] = HIGH, within: float = 0.0
) -> None:
    found = predictor.run(path)
    (lesion,) = found.lesions
    wanted = [low[0] - 0.5, low[1] - 0.5, -0.5, high[0] - 0.5, high[1] - 0.5, 0.5]
    np.testing.assert_allclose(lesion.box_index, wanted, atol=max(within, 1e-3))
    assert found.label_map is not None and found.lesion_map is not None
    mask = np.zeros(found.geometry.shape[:2], bool)
    mask[low[0] : high[0], low[1] : high[1]] = True
    assert (found.lesion_map.array[0, :, :, 0] == found.label_map.array[0, :, :, 0]).all()
    wrong = (found.label_map.array[0, :, :, 0] == 1) != mask
    edge = 2 * (high[0] - low[0] + high[1] - low[1])
    assert wrong.sum() <= within * edge
    assert lesion.frame == 0 and lesion.volume_mm3 is None


@pytest.mark.parametrize("window", [None, 48], ids=["whole", "windows"])
def test_a_png_of_odd_size_is_answered_to_the_pixel(tmp_path: Path, window: int | None) -> None:
    path = save(tmp_path / "a.png", spot(SHAPE, LOW, HIGH))
    # The rectangle is seen by one window of those of 48 pixels.
    low, high = (LOW, HIGH) if window is None else ((40, 20), (58, 30))
    path = save(tmp_path / "a.png", spot(SHAPE, low, high))
    check_spot(spot_predictor(window=window), path, low, high)


@pytest.mark.parametrize(
    "preprocessing",
    [
        chain((2 * 67, 2 * 101)),
        chain((352, 352)),
        chain((48, 64)),
        chain(640, letterbox=True),
        chain(96, letterbox=True),
    ],
    ids=["doubled", "stretched", "shrunk", "letterbox", "small letterbox"],
)
def test_resizing_is_undone(tmp_path: Path, preprocessing: Compose) -> None:
    path = save(tmp_path / "a.png", spot(SHAPE, LOW, HIGH, samples=3))
    check_spot(spot_predictor(preprocessing), path, within=1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_grey_jpeg_is_answered_upright_however_it_is_stored(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(spot(SHAPE, LOW, HIGH))
    stored = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    (upright if stored is None else upright.transpose(stored)).save(path, quality=98, exif=exif)
    check_spot(spot_predictor(), path)


def test_without_a_pixel_size_lengths_are_in_pixels_alone(tmp_path: Path) -> None:
    found = spot_predictor().run(save(tmp_path / "a.png", spot(SHAPE, LOW, HIGH)))
    (lesion,) = found.lesions
    assert found.plane is not None and found.plane.spacing_mm is None
    assert lesion.longest_axial_diameter_mm is None and lesion.short_axial_diameter_mm is None
    diagonal = float(np.hypot(24, 19))
    assert lesion.measures["area_px"] == 24 * 19
    assert lesion.measures["longest_diameter_px"] == pytest.approx(diagonal)
    assert not any(key.endswith(("mm", "mm2")) for key in lesion.measures)
    assert "pixel_spacing_unknown" in found.report.codes
    (bright,) = found.image_classes
    assert bright.present


def test_an_outline_in_an_image_that_is_called_free_of_lesions_stays_and_is_flagged(tmp_path: Path) -> None:
    class Called(SpotNet):
        def __init__(self, probability: float) -> None:
            super().__init__()
            classes = (Label(0, "ill"), Label(1, "normal"))
            self.outputs = (*self.outputs[:2], OutputSpec("classes", "global", classes, activation="softmax"))
            self.logits = torch.tensor([1 - probability, probability]).log()

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {**super().forward(image), "classes": self.logits.expand(len(image), 2)}

    def answered(probability: float, pixels: NDArray[np.uint8]) -> Findings:
        domain = InputDomain(spatial_dims=2, colour="any")
        predictor = Predictor(Called(probability), chain(), MultiTaskInferer(None, 0.25, 1), MODEL, domain=domain)
        return predictor.run(save(tmp_path / "a.png", pixels))

    ill, normal = (answered(probability, spot(SHAPE, LOW, HIGH)) for probability in (0.4, 0.6))
    assert len(ill.lesions) == 1 and "answers_disagree" not in ill.report.codes
    (told,) = [line for line in normal.report if line.code == "answers_disagree"]
    assert told.severity == "flagged" and "called normal" in told.message
    assert len(normal.lesions) == 1 and normal.label_map is not None and normal.label_map.array.any()
    assert "answers_disagree" not in answered(0.9, np.zeros((67, 101), np.uint8)).report.codes


def test_an_rgb_photograph_is_answered(tmp_path: Path) -> None:
    check_spot(spot_predictor(), write_dicom(tmp_path / "a", spot(SHAPE, LOW, HIGH, 3), PHOTO, "XC"))


def test_ultrasound_is_measured_in_mm_inside_a_calibrated_region_and_in_pixels_across_its_edge(tmp_path: Path) -> None:
    pixels = spot(SHAPE, LOW, HIGH)
    inside = write_dicom(
        tmp_path / "in", pixels, US, "US", SequenceOfUltrasoundRegions=[region((5, 5, 95, 60), (0.02, 0.05))]
    )
    found = spot_predictor().run(inside)
    (lesion,) = found.lesions
    assert found.plane is not None and found.plane.spacing_mm == pytest.approx((0.2, 0.5))
    assert lesion.measures["area_mm2"] == pytest.approx(24 * 0.2 * 19 * 0.5)
    assert lesion.longest_axial_diameter_mm == pytest.approx(np.hypot(24 * 0.2, 19 * 0.5))
    across = write_dicom(
        tmp_path / "across", pixels, US, "US", SequenceOfUltrasoundRegions=[region((40, 5, 95, 60), (0.02, 0.05))]
    )
    (lesion,) = spot_predictor().run(across).lesions
    assert lesion.longest_axial_diameter_mm is None and "area_px" in lesion.measures


def test_the_other_dimension_is_refused_in_words(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "ct", shape=(20, 22, 9), spacing_mm=(1.5, 1.5, 2.5))
    with pytest.raises(RefusedError, match=r"holds no single image or clip; the network takes single images"):
        spot_predictor().run(tmp_path / "ct")
    path = save(tmp_path / "a.png", spot(SHAPE, LOW, HIGH))
    with pytest.raises(RefusedError, match=r"a single image; the network takes volumes") as refused:
        blob_predictor().run(path)
    assert refused.value.lines[0].code == "dimension_outside"


def test_colour_and_modality_are_held_against_the_domain(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", spot(SHAPE, LOW, HIGH))
    with pytest.raises(RefusedError, match="colour_outside"):
        spot_predictor(colour="colour").run(path)
    photo = write_dicom(tmp_path / "photo", spot(SHAPE, LOW, HIGH, 3), PHOTO, "XC")
    with pytest.raises(RefusedError, match="modality_outside"):
        spot_predictor(modalities=("US",)).run(photo)
    found = spot_predictor(modalities=("US",)).run(photo, ReadOptions(allow_outside=True))
    assert "modality_outside" in found.report.codes
    assert "modality_unknown" in spot_predictor(modalities=("US",)).run(path).report.codes


def test_without_boxes_the_parts_of_the_mask_are_the_lesions(tmp_path: Path) -> None:
    shape = (151, 101)
    pixels = np.maximum(spot(shape, LOW, HIGH), spot(shape, (70, 40), (76, 50)))
    # 0.05 % of the image are 7.6 pixels.
    pixels[60:67, 5] = 230
    pixels[80:82, 100:104] = 230
    path = save(tmp_path / "a.png", pixels)
    network = SpotNet()
    network.outputs = (PRED,)
    predictor = Predictor(
        network, chain(), MultiTaskInferer(None), MODEL, domain=InputDomain(spatial_dims=2, colour="any")
    )
    found = predictor.run(path)
    boxes = {lesion.box_index for lesion in found.lesions}
    assert boxes == {
        (29.5, 11.5, -0.5, 53.5, 30.5, 0.5),
        (69.5, 39.5, -0.5, 75.5, 49.5, 0.5),
        (99.5, 79.5, -0.5, 103.5, 81.5, 0.5),
    }
    assert found.lesion_map is not None and found.label_map is not None
    for lesion in found.lesions:
        owned = found.lesion_map.array[0] == lesion.number
        assert owned.sum() == lesion.mask_voxels == lesion.measures["area_px"]
        assert 0.99 < lesion.score <= 1.0
    assert (found.label_map.array == 1).sum() == (found.lesion_map.array > 0).sum() + 7
    assert {"lesions_from_mask", "specks_in_mask"} <= set(found.report.codes)


class MeanNet(SpotNet):
    """Measures how bright an image is, and how sure it is of that, as a network without mask and boxes does."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = (OutputSpec("brightness", "global", units="percent", log_variance=True),)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean = image.mean((1, 2, 3))[:, None] * 100
        return {"brightness": torch.cat([mean, torch.full_like(mean, 2 * np.log(0.5))], 1)}


def test_what_is_measured_of_an_image_as_a_whole_stands_beside_its_classes(tmp_path: Path) -> None:
    pixels = np.full((64, 48), 51, np.uint8)
    predictor = Predictor(MeanNet(), chain(), MultiTaskInferer(None), MODEL, domain=InputDomain(spatial_dims=2))
    found = predictor.run(save(tmp_path / "a.png", pixels))
    (measured,) = found.measured.items()
    assert measured == ("brightness_percent", Measured(pytest.approx(20.0), "percent", pytest.approx(0.5)))
    assert not found.lesions and not found.image_classes
    write_findings_json(found, tmp_path / "findings.json")
    assert read_findings_json(tmp_path / "findings.json").measured["brightness_percent"].value == pytest.approx(20.0)
