"""Scores of redrawn images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric

from mtnet.evaluation import reconstruction
from mtnet.evaluation.reconstruction import record_of


def pair(seed: int = 0, depth: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1000, 400, (1, 30, 26, depth)).astype(np.float32)
    return image, image + rng.normal(0, 120, image.shape).astype(np.float32)


def test_likeness_is_that_of_monai() -> None:
    image, redrawn = pair()
    record = record_of(image, redrawn, (-1000.0, 400.0), unit="HU")
    assert record is not None
    # A plane an item, values in 0..1.
    y, pred = (torch.from_numpy((one + 1000) / 1400).permute(3, 0, 1, 2) for one in (image, redrawn))
    ssim = SSIMMetric(spatial_dims=2, win_size=11, kernel_sigma=1.5)(pred, y).mean()
    assert record["ssim"] == pytest.approx(ssim.item(), abs=1e-5)
    psnr = PSNRMetric(max_val=1.0)(pred.reshape(1, 1, -1), y.reshape(1, 1, -1))
    assert record["psnr"] == pytest.approx(psnr.item(), abs=1e-4)
    assert record["error"] == pytest.approx(np.abs(image - redrawn).mean(), rel=1e-5)


def test_only_the_region_counts() -> None:
    image, redrawn = pair()
    region = np.zeros(image.shape[1:], dtype=bool)
    region[8:20, 8:20, 1] = True
    spoiled = np.where(region[None], redrawn, 1e4).astype(np.float32)
    whole, inside = (record_of(image, one, (-1000.0, 400.0), region) for one in (redrawn, spoiled))
    assert whole is not None and inside is not None
    assert inside["error"] == pytest.approx(whole["error"]) and inside["psnr"] == pytest.approx(whole["psnr"])
    assert record_of(image, redrawn, None, np.zeros_like(region)) is None


def test_the_image_is_clipped_to_what_the_network_saw_and_a_perfect_copy_has_a_finite_psnr() -> None:
    image, _ = pair()
    record = record_of(image * 3, (image * 3).clip(-1000, 400), (-1000.0, 400.0))
    assert record is not None and record["error"] == 0.0 and record["psnr"] == pytest.approx(120.0)


def test_a_plane_smaller_than_the_window_has_no_likeness() -> None:
    small = np.zeros((1, 9, 30, 1), dtype=np.float32)
    record = record_of(small, small + 1, None)
    assert record is not None and record["ssim"] is None
    assert set(reconstruction.metrics([record])) == {"mae", "psnr"}


def test_the_error_tells_foreign_images_and_they_count_for_nothing_else() -> None:
    own = [{"error": e, "psnr": 30.0, "ssim": 0.9, "unit": "HU", "foreign": False} for e in (1.0, 2.0, 3.0)]
    foreign = [{"error": e, "psnr": 10.0, "ssim": 0.1, "unit": "HU", "foreign": True} for e in (2.5, 9.0)]
    found = reconstruction.metrics([*own, None, *foreign])
    assert found["auroc_foreign"].value(np.ones(5)) == pytest.approx(5 / 6)
    assert found["mae"].rows.tolist() == [0, 1, 2] and found["mae"].value(np.ones(3)) == 2.0
    assert "auroc_foreign" not in reconstruction.metrics(own)
