from __future__ import annotations

import nibabel
import numpy as np
import pytest

from mtnet.training import NoduleOfLabel


def write_ball(path, value=2, radius_mm=6.0):
    affine = np.diag([-0.5, -0.75, 1.0, 1.0])
    affine[:3, 3] = 30, 20, -10
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (60, 50, 30)), indexing="ij"), -1)
    away = np.linalg.norm((index - (30, 22, 14)) * (0.5, 0.75, 1.0), axis=-1)
    nibabel.save(nibabel.Nifti1Image(((away <= radius_mm) * value).astype(np.uint8), affine), path)


def test_a_drawn_ball_gives_its_centre_diameter_and_class(tmp_path):
    write_ball(tmp_path / "drawn.nii.gz")
    item = NoduleOfLabel(["low", "high"])({"image": "scan", "label": str(tmp_path / "drawn.nii.gz")})
    assert item["at_lps_mm"] == pytest.approx((-(30 - 15), -(20 - 16.5), 4.0), abs=1e-3)
    assert item["diameter_mm"] == pytest.approx(12.0, rel=0.02)
    assert item["class"] == "high" and "label" not in item


def test_an_item_without_a_label_map_stays_as_it_is():
    assert NoduleOfLabel(["low"])({"image": "scan", "diameter_mm": 3.0}) == {"image": "scan", "diameter_mm": 3.0}


@pytest.mark.parametrize("value", [0, 3])
def test_an_empty_label_map_and_an_unknown_class_are_errors_that_say_what_is_expected(tmp_path, value):
    write_ball(tmp_path / "drawn.nii.gz", value)
    with pytest.raises(ValueError, match=r"drawn.nii.gz has values .* 1 \(low\) or 2 \(high\)"):
        NoduleOfLabel(["low", "high"])({"label": str(tmp_path / "drawn.nii.gz")})
