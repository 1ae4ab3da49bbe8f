"""Images asked about mirrored too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtnet.inference import MultiTaskInferer
from mtnet.inference.mirrored import MirroredInferer
from mtnet.io.nifti_out import write_nifti
from mtnet.predictor import Predictor
from mtnet.structures import Geometry, Label, OutputSpec, Volume
from tests.bundles import ball_predictor, blob_predictor
from tests.planes import MODEL, SpotNet, chain, save, spot, spot_predictor

GRID = Geometry.from_parts((32, 24, 1), (1.0, 1.0, 1.0))


class Lopsided(nn.Module):
    """Sees the left half of what it is given better: a mask, values and a class that change when it is mirrored."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        labels = (Label(0, "background"), Label(1, "spot"))
        self.outputs = (
            OutputSpec("pred", "dense", labels, (1,), "softmax"),
            OutputSpec("redrawn", "dense", (), (1,)),
            OutputSpec("size", "global", units="mm"),
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        ramp = torch.linspace(1, 0, image.shape[2])[None, None, :, None]
        seen = image * ramp
        return {"pred": torch.cat([1 - seen, seen], 1), "redrawn": seen, "size": seen.mean((2, 3))}


def asked(axes: str, image: Tensor, net: nn.Module) -> object:
    return MirroredInferer(MultiTaskInferer(None), axes).outputs_of(image, net, grid=GRID)[0]


def test_every_output_is_the_mean_over_the_mirrored_images_in_its_place() -> None:
    image, net = torch.rand(1, 1, 32, 24), Lopsided()
    plain = MultiTaskInferer(None, dense="probabilities")
    views = [net(image), net(image.flip(2))]
    outputs = asked("i", image, net)
    mean = (views[0]["redrawn"] + views[1]["redrawn"].flip(2)) / 2
    np.testing.assert_allclose(outputs.dense["redrawn"].array, mean[0], atol=1e-6)
    share = (views[0]["pred"].softmax(1) + views[1]["pred"].softmax(1).flip(2)) / 2
    np.testing.assert_array_equal(outputs.dense["pred"].array[0], share[0].argmax(0))
    assert outputs.global_["size"].item() == pytest.approx(((views[0]["size"] + views[1]["size"]) / 2).item())
    assert outputs.dense["pred"].probabilities is None and plain.mirror_axes == ""


@pytest.mark.parametrize("axes", ["i", "j", "ij"])
def test_a_mirrored_image_gets_the_mirrored_answer(axes: str) -> None:
    image, net = torch.rand(1, 1, 32, 24), Lopsided()
    one = asked(axes, image, net).dense["redrawn"].array
    flips = [2 + "ij".index(letter) for letter in axes]
    other = asked(axes, image.flip(flips), net).dense["redrawn"].array
    np.testing.assert_allclose(np.flip(other, [f - 1 for f in flips]), one, atol=1e-6)


@pytest.mark.parametrize("axes", ["i", "ij"])
def test_an_image_is_answered_in_place_and_its_box_fused(tmp_path: Path, axes: str) -> None:
    path = save(tmp_path / "a.png", spot((64, 48), (10, 6), (26, 20)))
    plain = spot_predictor()
    known = plain.run(path)
    predictor = Predictor(SpotNet(), chain(), MirroredInferer(MultiTaskInferer(None), axes), MODEL, domain=plain.domain)
    found = predictor.run(path)
    np.testing.assert_array_equal(found.label_map.array, known.label_map.array)
    assert len(found.lesions) == len(known.lesions) == 1
    np.testing.assert_allclose(found.lesions[0].box_index, known.lesions[0].box_index, atol=1e-3)
    assert found.lesions[0].score == pytest.approx(known.lesions[0].score, abs=1e-3)
    assert found.options["mirrored"] == axes and "mirrored" not in known.options
    assert found.lesions[0].tracking_uid != known.lesions[0].tracking_uid


def test_a_volume_on_another_grid_is_answered_in_place(tmp_path: Path) -> None:
    grid = Geometry.from_parts((40, 36, 32), (1.5, 1.5, 1.5), (10, -20, 30), np.diag([-1.0, -1.0, 1.0]))
    places = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    ball = np.linalg.norm(places - np.array([17, 15, 13]), axis=-1) <= 3
    write_nifti(Volume(np.where(ball, 300, -1000).astype(np.int16)[None], grid, "CT"), tmp_path / "a.nii.gz")
    plain = blob_predictor()
    known = plain.run(tmp_path / "a.nii.gz")
    plain.inferer = MirroredInferer(plain.inferer, "ijk")
    found = plain.run(tmp_path / "a.nii.gz")
    assert (found.label_map.array != known.label_map.array).mean() < 1e-3
    assert len(found.lesions) == len(known.lesions) == 1
    np.testing.assert_allclose(found.lesions[0].box_index, known.lesions[0].box_index, atol=0.75)


def test_a_network_of_points_is_asked_about_mirrored_patches(tmp_path: Path) -> None:
    grid = Geometry.from_parts((40, 40, 24), (0.7, 0.7, 1.25))
    places = grid.index_to_lps_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    ball = np.linalg.norm(places - grid.index_to_lps_mm([19.5, 19.5, 11.5]), axis=-1) <= 4
    write_nifti(Volume(np.where(ball, 100, -800).astype(np.int16)[None], grid, "CT"), tmp_path / "a.nii.gz")
    plain = ball_predictor()
    known = plain.run(tmp_path / "a.nii.gz")
    batches = len(plain.network.batches)
    plain.inferer = MirroredInferer(plain.inferer, "ij")
    found = plain.run(tmp_path / "a.nii.gz")
    assert len(plain.network.batches) == batches + 4
    assert found.lesions[0].measured["diameter_mm"].value == pytest.approx(
        known.lesions[0].measured["diameter_mm"].value, rel=0.02
    )


@pytest.mark.parametrize("axes", ["", "x", "ii"])
def test_unknown_axes_are_refused(axes: str) -> None:
    with pytest.raises(ValueError, match="expected some of i, j and k"):
        MirroredInferer(MultiTaskInferer(None), axes)
