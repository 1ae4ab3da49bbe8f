"""Restoration onto other grids, judged by SimpleITK's linear resampling of full-size probabilities."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from mtnet.inference.engine import run
from mtnet.inference.plan import Plan
from mtnet.structures import Geometry, Label, OutputSpec
from tests.inference.toy_nets import COARSE, PRED, VALUES, DenseNet

SHAPE = (40, 32, 24)
GRID = Geometry.from_parts(SHAPE, (1.5, 1.5, 1.5), (-10.0, 20.0, 30.0))


def smooth_image(shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, *shape, generator=generator)


def sitk_image(array, geometry):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float64))
    image.SetOrigin(geometry.origin_lps_mm)
    image.SetSpacing(geometry.spacing_mm)
    image.SetDirection(geometry.direction_lps.ravel().tolist())
    return image


def resampled(channels, grid, target):
    """SimpleITK's linear interpolation of each channel, and where the target lies in the image."""
    reference = sitk_image(np.zeros(target.shape), target)
    out = [
        sitk.GetArrayFromImage(sitk.Resample(sitk_image(c, grid), reference, sitk.Transform(), sitk.sitkLinear, 0.0))
        for c in (*channels, np.ones(grid.shape))
    ]
    arrays = [a.transpose(2, 1, 0) for a in out]
    return np.stack(arrays[:-1]), arrays[-1] > 0.5


def turned(degrees):
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def aligned_targets():
    swap = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    return {
        "finer": Geometry.from_parts((78, 62, 46), (0.75, 0.75, 0.75), (-9.7, 20.1, 30.2)),
        "anisotropic": Geometry.from_parts((80, 64, 8), (0.74, 0.74, 5.0), (-10.0, 20.0, 30.0)),
        "coarser": Geometry.from_parts((13, 10, 8), (4.2, 4.2, 4.2), (-9.0, 20.5, 31.0)),
        "flipped": Geometry.from_parts((60, 46, 34), (1, 1, 1), (48.4, 66.2, 64.3), np.diag([-1.0, -1, -1])),
        "permuted": Geometry.from_parts((34, 60, 46), (1, 1, 1), (-9.6, 20.3, 30.1), swap),
        "larger": Geometry.from_parts((60, 50, 50), (1.5, 1.5, 1.5), (-20.3, 9.9, 20.2)),
        "smaller": Geometry.from_parts((11, 9, 7), (1.1, 1.2, 1.3), (0.3, 31.1, 40.2)),
        "shifted by whole voxels": Geometry.from_parts((20, 20, 20), (1.5, 1.5, 1.5), (-4.0, 26.0, 33.0)),
    }


def infer(target, image=None, outputs=(PRED, VALUES), **fields):
    net = DenseNet(outputs=outputs)
    plan = Plan(window=(16, 16, 16), grid=GRID, target=target, **fields)
    return run(net, smooth_image() if image is None else image, plan)


def blended(name="values", spec=VALUES):
    """The blend on the image grid (held against MONAI's in test_engine)."""
    return run(DenseNet(outputs=(spec,)), smooth_image(), Plan(window=(16, 16, 16))).dense[name].array


def full_probabilities():
    raw = OutputSpec("pred", "dense", (), (1,))
    return torch.from_numpy(np.array(blended("pred", raw))).softmax(0).numpy()


@pytest.mark.parametrize("case", aligned_targets())
def test_an_aligned_target_gets_simpleitk_s_linear_interpolation(case):
    target = aligned_targets()[case]
    out = infer(target, keep_probabilities=True)
    expected, held = resampled(full_probabilities(), GRID, target)
    values, _ = resampled(blended(), GRID, target)
    got = out.dense["pred"].probabilities
    assert got.shape == (3, *target.shape)
    assert held.any()
    assert np.abs(got - expected)[:, held].max() < 1e-5
    assert np.abs(out.dense["values"].array - values)[:, held].max() < 2e-5
    top = np.sort(expected, axis=0)
    clear = held & (top[-1] - top[-2] > 1e-4)
    assert clear.sum() > 0.95 * held.sum()
    assert (out.dense["pred"].array[0] == expected.argmax(0))[clear].all()


def test_beyond_the_image_lies_background():
    target = aligned_targets()["larger"]
    out = infer(target, keep_probabilities=True)
    _, held = resampled(np.zeros((1, *SHAPE)), GRID, target)
    assert (~held).any()
    assert (out.dense["pred"].array[0][~held] == 0).all()
    assert (out.dense["values"].array[:, ~held] == VALUES.background).all()
    assert (out.dense["pred"].probabilities[:, ~held] == np.array([[1.0], [0.0], [0.0]])).all()


@pytest.mark.parametrize("degrees", [3.0, 25.0])
def test_an_oblique_target_gets_it_within_half_precision(degrees):
    target = Geometry.from_parts((50, 46, 40), (1.1, 1.0, 0.9), (0.0, 18.0, 28.0), turned(degrees))
    out = infer(target, keep_probabilities=True)
    expected, held = resampled(full_probabilities(), GRID, target)
    assert held.sum() > 10_000
    assert np.abs(out.dense["pred"].probabilities - expected)[:, held].max() < 1e-3
    top = np.sort(expected, axis=0)
    clear = held & (top[-1] - top[-2] > 4e-3)
    assert (out.dense["pred"].array[0] == expected.argmax(0))[clear].all()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), axis=-1)
    at = GRID.lps_mm_to_index(target.index_to_lps_mm(index))
    beyond = ((at < -0.51) | (at > np.array(SHAPE) - 0.49)).any(-1)
    assert beyond.any()
    assert (out.dense["pred"].array[0][beyond] == 0).all()


def test_a_sheared_target_gets_linear_interpolation_too():
    affine = np.diag([1.0, 1.1, 2.0, 1.0])
    affine[:3, 3] = (-8.0, 21.0, 31.0)
    affine[1, 2] = 0.5
    target = Geometry((50, 30, 16), affine)
    out = infer(target, keep_probabilities=True)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), axis=-1)
    at = GRID.lps_mm_to_index(target.index_to_lps_mm(index))
    held = ((at >= -0.5) & (at <= np.array(SHAPE) - 0.5)).all(-1)
    expected = np.stack(
        [ndimage.map_coordinates(c, np.moveaxis(at, -1, 0), order=1, mode="nearest") for c in full_probabilities()]
    )
    assert np.abs(out.dense["pred"].probabilities - expected)[:, held].max() < 1e-3


def test_a_coarse_map_is_interpolated_from_the_middles_of_its_cells():
    whole = Plan(window=SHAPE)
    raw = OutputSpec("pred", "dense", (), (1,))
    fine = torch.from_numpy(np.array(run(DenseNet(outputs=(raw,)), smooth_image(), whole).dense["pred"].array))
    cells = torch.nn.functional.avg_pool3d(fine[None], 2)
    expected = torch.nn.functional.interpolate(cells, scale_factor=2, mode="trilinear", align_corners=False)
    out = run(DenseNet(outputs=(COARSE,)), smooth_image(), whole)
    assert np.abs(out.dense["coarse"].array - expected[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("case", ["finer", "flipped"])
def test_a_blended_coarse_map_reaches_a_target_as_the_grid_of_its_cells_does(case):
    target = aligned_targets()[case]
    cells = infer(cell_grid(), outputs=(COARSE,)).dense["coarse"].array
    expected, held = resampled(cells, cell_grid(), target)
    assert np.abs(infer(target, outputs=(COARSE,)).dense["coarse"].array - expected)[:, held].max() < 1e-5


def cell_grid():
    """The grid whose voxels are the cells of stride 2."""
    return Geometry.from_parts([n // 2 for n in SHAPE], (3, 3, 3), GRID.index_to_lps_mm([0.5, 0.5, 0.5]))


def test_a_two_dimensional_image_is_restored_as_a_grid_with_one_slice():
    grid = Geometry.from_parts((40, 32, 1), (1.5, 1.5, 1.0))
    target = Geometry.from_parts((64, 50, 1), (0.9, 0.9, 1.0), (0.5, 0.6, 0.0))
    net = DenseNet(2)
    image = smooth_image((40, 32))
    raw = run(net, image, Plan(window=(16, 16), grid=grid)).dense["values"].array
    out = run(net, image, Plan(window=(16, 16), grid=grid, target=target)).dense["values"].array
    at = np.stack(np.meshgrid(*((np.arange(n) * 0.9 + o) / 1.5 for n, o in ((64, 0.5), (50, 0.6))), indexing="ij"))
    expected = np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in raw])
    held = (at <= np.array([39.5, 31.5]).reshape(2, 1, 1)).all(0)
    assert out.shape == (2, 64, 50)
    assert np.abs(out - expected)[:, held].max() < 1e-5


def test_a_two_dimensional_target_may_be_turned():
    grid = Geometry.from_parts((40, 32, 1), (1.5, 1.5, 1.0))
    affine = np.eye(4)
    affine[:2, :2] = np.array([[0.8, -0.6], [0.6, 0.8]])
    affine[:2, 3] = (14.0, 2.0)
    target = Geometry((30, 26, 1), affine)
    net, image = DenseNet(2), smooth_image((40, 32))
    raw = run(net, image, Plan(window=(16, 16), grid=grid)).dense["values"].array
    out = run(net, image, Plan(window=(16, 16), grid=grid, target=target)).dense["values"].array
    index = np.stack(np.meshgrid(np.arange(30), np.arange(26), indexing="ij"))
    at = (np.einsum("de,eij->dij", affine[:2, :2], index) + affine[:2, 3].reshape(2, 1, 1)) / 1.5
    held = ((at >= -0.5) & (at <= np.array([39.5, 31.5]).reshape(2, 1, 1))).all(0)
    expected = np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in raw])
    assert held.mean() > 0.5
    assert np.abs(out - expected)[:, held].max() < 5e-3


def test_rows_and_columns_may_be_swapped_in_two_dimensions():
    grid = Geometry.from_parts((16, 24, 1), (1, 1, 1))
    swapped = Geometry((24, 16, 1), np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    net, image = DenseNet(2), smooth_image((16, 24))
    plain = run(net, image, Plan(window=(8, 8), grid=grid)).dense["pred"].array
    out = run(net, image, Plan(window=(8, 8), grid=grid, target=swapped)).dense["pred"].array
    assert np.array_equal(out[0], plain[0].T)


def test_temperature_is_applied_before_the_activation():
    calm = OutputSpec("pred", "dense", PRED.labels, (1,), "softmax", temperature=3.0)
    out = infer(None, outputs=(calm,), keep_probabilities=True)
    raw = torch.from_numpy(np.array(blended("pred", OutputSpec("pred", "dense", (), (1,)))))
    assert np.abs(out.dense["pred"].probabilities - (raw / 3).softmax(0).numpy()).max() < 1e-6


def test_sigmoid_classes_below_the_threshold_are_background_and_labels_keep_their_values():
    labels = (Label(5, "a"), Label(9, "b"), Label(2, "c"))
    spec = OutputSpec("pred", "dense", labels, (1,), "sigmoid", background=1, threshold=0.7)
    out = infer(None, outputs=(spec,))
    p = torch.from_numpy(np.array(blended("pred", OutputSpec("pred", "dense", (), (1,))))).sigmoid().numpy()
    expected = np.where(p.max(0) >= 0.7, np.array([5, 9, 2])[p.argmax(0)], 1)
    assert set(np.unique(expected)) == {1, 2, 5, 9}
    assert (out.dense["pred"].array[0] == expected).mean() > 0.9999


def test_a_value_that_is_no_number_is_an_error_and_not_background():
    image = smooth_image()
    image[0, 0, 5, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="'pred' holds values that are no numbers"):
        infer(None, image)


def test_labels_that_do_not_fit_the_channels_are_refused():
    two = OutputSpec("pred", "dense", PRED.labels[:2], (1,), "softmax")
    with pytest.raises(ValueError, match="3 channels and 2 labels"):
        infer(None, outputs=(two,))


def test_a_target_without_the_image_s_grid_is_refused():
    with pytest.raises(ValueError, match=r"Plan.target is given without Plan.grid"):
        Plan(window=(16, 16, 16), target=GRID)


def test_a_grid_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Plan.grid has shape"):
        run(DenseNet(), smooth_image(), Plan(window=(16, 16, 16), grid=Geometry.from_parts((40, 32, 25), (1, 1, 1))))
