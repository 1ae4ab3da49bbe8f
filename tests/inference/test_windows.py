import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices

from mtnet.inference.plan import Plan
from mtnet.inference.windows import axis_starts, importance_map, lay_windows, pad_to_window


@given(st.integers(1, 12), st.integers(0, 60), st.sampled_from([1, 2, 4, 8]), st.floats(0, 0.95))
def test_windows_lie_on_the_stride_grid_and_leave_no_voxel_out(cells, more, stride, overlap):
    window, size = cells * stride, (cells + more) * stride
    starts = axis_starts(size, window, stride, overlap)
    assert all(start % stride == 0 for start in starts)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] + window == size
    assert all(b <= a + window for a, b in itertools.pairwise(starts))


def test_windows_are_monai_s_where_its_own_fall_on_the_grid():
    ours = lay_windows(Plan(window=(16, 24, 8), overlap=0.5), (48, 64, 20), 4, 2, 0)
    theirs = {tuple(s.start for s in cut) for cut in dense_patch_slices((48, 64, 20), (16, 24, 8), (8, 12, 4))}
    assert {tuple(start) for start in ours.starts.tolist()} == theirs
    assert len(ours.starts) == ours.total == len(theirs)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_come_in_rising_order_along_the_slab_axis(axis):
    starts = lay_windows(Plan(window=(8, 8, 8)), (24, 16, 32), 4, axis, 0).starts
    assert (np.diff(starts[:, axis]) >= 0).all()


@pytest.mark.parametrize("kind", ["gaussian", "constant"])
@pytest.mark.parametrize("window", [(16, 16), (24, 8), (16, 16, 16), (48, 32, 8)])
def test_the_importance_map_is_monai_s(window, kind):
    expected = compute_importance_map(window, mode=kind, dtype=torch.float32)
    assert torch.equal(importance_map(window, kind), expected)
    coarse = torch.nn.functional.interpolate(expected[None, None], [w // 4 for w in window], mode="nearest-exact")
    assert torch.equal(importance_map(window, kind, 4), coarse[0, 0])


def test_padding_is_at_the_high_end_up_to_window_and_cells():
    image = torch.ones(1, 1, 10, 33, 48)
    padded, valid = pad_to_window(image, (16, 16, 16), 8, -1.0)
    assert padded.shape == (1, 1, 16, 40, 48)
    assert valid == (10, 33, 48)
    assert (padded == 1).sum() == image.numel()
    assert padded[0, 0, 9, 32, 47] == 1
    assert padded[0, 0, 10, 32, 47] == -1


def test_an_image_that_fits_is_not_copied():
    image = torch.ones(1, 1, 16, 24)
    assert pad_to_window(image, (16, 16), 8)[0] is image


def test_only_windows_that_the_region_touches_run_and_know_their_share():
    region = torch.zeros(32, 16, 16, dtype=torch.bool)
    region[4:12, :8, :] = True
    layout = lay_windows(Plan(window=(8, 8, 8), overlap=0.0, region=region), (32, 16, 16), 4, 2, 0)
    share = {tuple(start): s for start, s in zip(layout.starts.tolist(), layout.share, strict=True)}
    assert share == {(x, 0, z): 0.5 for x in (0, 8) for z in (0, 8)}
    assert layout.total == 16
    assert layout.region_share == pytest.approx(8 * 8 * 16 / (32 * 16 * 16))


def test_a_halo_runs_the_windows_that_interpolation_reads_and_gives_them_no_share():
    region = torch.zeros(32, 16, dtype=torch.bool)
    region[8:16] = True
    plan = Plan(window=(8, 8), overlap=0.0, region=region)
    assert set(lay_windows(plan, (32, 16), 4, 1, 0).starts[:, 0]) == {8}
    with_halo = lay_windows(plan, (32, 16), 4, 1, 1)
    assert set(with_halo.starts[:, 0]) == {0, 8, 16}
    assert set(with_halo.share[with_halo.starts[:, 0] != 8]) == {0.0}


def test_shares_count_the_valid_image_only():
    layout = lay_windows(Plan(window=(8, 8), overlap=0.0, valid_shape=(12, 8)), (16, 8), 4, 1, 0)
    assert layout.share.tolist() == [1.0, 0.5]


def test_an_empty_region_means_the_whole_image_and_says_so():
    plan = Plan(window=(8, 8), overlap=0.0, region=torch.zeros(16, 16, dtype=torch.bool))
    layout = lay_windows(plan, (16, 16), 4, 1, 0)
    assert len(layout.starts) == 4
    assert [line.code for line in layout.lines] == ["region_empty"]
    assert layout.region_share == 1.0


def test_given_windows_that_miss_the_region_are_refused():
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[8:] = True
    with pytest.raises(ValueError, match=r"None of the 1 windows of Plan.starts"):
        lay_windows(Plan(window=(8, 8), starts=((0, 0),), region=region), (16, 16), 4, 1, 0)


@pytest.mark.parametrize(
    ("plan", "shape", "words"),
    [
        ({"window": (8, 8)}, (16, 16, 16), "3 spatial axes"),
        ({"window": (8, 10)}, (16, 16), r"take \(8, 12\)"),
        ({"window": (8, 8)}, (16, 18), r"need \(16, 20\)"),
        ({"window": (8, 8)}, (4, 16), r"need \(8, 16\)"),
        ({"window": (8, 8), "starts": ((0, 2),)}, (16, 16), r"\(0, 2\)"),
        ({"window": (8, 8), "starts": ((0, 12),)}, (16, 16), r"\(0, 12\)"),
        ({"window": (8, 8), "valid_shape": (16, 17)}, (16, 16), "valid_shape"),
        ({"window": (8, 8), "region": torch.ones(15, 16, dtype=torch.bool)}, (16, 16), "region"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_size_that_would(plan, shape, words):
    with pytest.raises(ValueError, match=words):
        lay_windows(Plan(**plan), shape, 4, 0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"window": (8,)},
        {"window": (8, 8), "overlap": 1.0},
        {"window": (8, 8), "batch": 0},
        {"window": (8, 8), "importance": "flat"},
        {"window": (8, 8), "precision": "float64"},
        {"window": (8, 8), "nms_iou": 2.0},
        {"window": (8, 8), "memory_limit_bytes": 0},
    ],
)
def test_a_plan_that_makes_no_sense_does_not_exist(fields):
    with pytest.raises(ValueError, match=f"Plan.{list(fields)[-1]}"):
        Plan(**fields)
