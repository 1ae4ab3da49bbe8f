from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from torch import Tensor

from mtnet.detection import Candidates, atss, cell_centres, decode_offsets, pairwise_iou, simota
from mtnet.detection.assignment import centre_prior, match_by_cost, simota_cost


def candidates(box_index: Tensor, class_logits: Tensor | None = None) -> Candidates:
    count = box_index.shape[0]
    logits = torch.zeros(count, 1) if class_logits is None else class_logits
    return Candidates(box_index, logits, torch.zeros(count), torch.zeros(count, 0))


@pytest.mark.parametrize(
    ("centre", "cells"), [((12, 12), list(range(9))), ((8, 8), [0, 1, 3, 4]), ((1, 1), [0, 1, 3, 4])]
)
@pytest.mark.parametrize("side", [1.0, 30.0])
def test_the_centre_prior_takes_the_cells_of_the_published_case(
    centre: tuple[int, int], cells: list[int], side: float
) -> None:
    # The case counts pixels from 0 at the image's edge, half a voxel beside our frame.
    grid = cell_centres((3, 3), 8) + 0.5
    middle = torch.tensor([centre], dtype=torch.float32)
    box = torch.cat([middle - side / 2, middle + side / 2], 1)
    near = centre_prior(box, grid, torch.full((9,), 8.0))
    assert torch.nonzero(near[0])[:, 0].tolist() == cells


def test_the_class_cost_is_that_of_the_joint_probability() -> None:
    cost = simota_cost(torch.ones(1, 1), torch.tensor([[0.8]]).logit(), torch.tensor([0.5]).logit(), torch.tensor([0]))
    assert float(cost) == pytest.approx(0.458145, abs=1e-6)


def test_the_cost_of_several_classes_is_the_bce_against_a_one_hot() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    quality = torch.randn(4, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([2, 0])
    iou = torch.rand(2, 4, generator=torch.Generator().manual_seed(2))
    joint = (logits.sigmoid() * quality.sigmoid()[:, None]).sqrt()
    expected = (
        torch.stack(
            [
                torch.nn.functional.binary_cross_entropy(joint, torch.eye(3)[one].expand(4, -1), reduction="none").sum(
                    1
                )
                for one in label
            ]
        )
        - 3 * (iou + 1e-8).log()
    )
    torch.testing.assert_close(simota_cost(iou, logits, quality, label), expected)


def test_a_contested_cell_goes_to_the_cheaper_object() -> None:
    iou = torch.tensor([[0.9, 0.8, 0.3, 0.1, 0.0], [0.0, 0.7, 0.6, 0.5, 0.4]])
    # Logits of +40 make the class cost 0, which leaves the IoU cost of the published rows.
    cost = simota_cost(iou, torch.full((5, 1), 40.0), torch.full((5,), 40.0), torch.tensor([0, 0]))
    expected = torch.tensor([[0.3161, 0.6694, 3.6119, 6.9078, 55.262], [55.262, 1.0700, 1.5325, 2.0794, 2.7489]])
    torch.testing.assert_close(cost, expected, rtol=0, atol=5e-4)
    found = match_by_cost(cost, iou)
    assert found.object_of_cell.tolist() == [0, 0, 1, -1, -1]
    assert found.iou.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.0, 0.0])
    assert found.positive.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dims", [2, 3])
def test_no_object_gives_no_positive(dims: int) -> None:
    grid = cell_centres((4,) * dims, 4)
    strides = torch.full((len(grid),), 4.0)
    nothing = torch.zeros(0, 2 * dims)
    for found in (
        simota(candidates(torch.zeros(len(grid), 2 * dims)), nothing, torch.zeros(0, dtype=torch.long), grid, strides),
        atss(nothing, grid, strides),
    ):
        assert found.positive.numel() == 0 and float(found.iou.abs().sum()) == 0


@settings(deadline=None, max_examples=60)
@given(dims=st.sampled_from([2, 3]), seed=st.integers(0, 10_000), count=st.integers(1, 6), side=st.floats(0.3, 30))
def test_every_object_inside_the_image_keeps_a_near_cell_of_its_own(
    dims: int, seed: int, count: int, side: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    grid = torch.cat([cell_centres((8,) * dims, 4), cell_centres((4,) * dims, 8)])
    strides = torch.cat([torch.full((8**dims,), 4.0), torch.full((4**dims,), 8.0)])
    predicted = decode_offsets(torch.randn(len(grid), 2 * dims, generator=draw), grid, strides[:, None])
    # All objects share one cell of the finer map: the worst crowd that lesions can make.
    middle = 13.5 + 2 * torch.rand(count, dims, generator=draw)
    objects = torch.cat([middle - side / 2, middle + side / 2], 1)
    found = simota(
        candidates(predicted, torch.randn(len(grid), 2, generator=draw)),
        objects,
        torch.arange(count) % 2,
        grid,
        strides,
    )
    assert set(found.object_of_cell.tolist()) == {-1, *range(count)}
    cells = found.positive
    owner = found.object_of_cell[cells]
    assert bool(centre_prior(objects, grid, strides)[owner, cells].all())
    torch.testing.assert_close(found.iou[cells], pairwise_iou(objects, predicted)[owner, cells])


def test_an_object_outside_the_image_takes_no_cell_of_another() -> None:
    grid = cell_centres((4, 4), 8)
    objects = torch.tensor([[10.0, 10.0, 20.0, 20.0], [200.0, 200.0, 210.0, 210.0]])
    found = simota(
        candidates(torch.rand(16, 4)), objects, torch.zeros(2, dtype=torch.long), grid, torch.full((16,), 8.0)
    )
    assert set(found.object_of_cell.tolist()) == {-1, 0}


def test_atss_finds_the_positives_of_the_published_case() -> None:
    # The case places centres at (i + 1/2) * stride, half a voxel beside our frame.
    grid = torch.cat([cell_centres((128 // s,) * 2, s) for s in (8, 16, 32)]) + 0.5
    strides = torch.cat([torch.full(((128 // s) ** 2,), float(s)) for s in (8, 16, 32)])
    found = atss(torch.tensor([[29.0, 42.0, 94.0, 99.0]]), grid, strides)
    # The tabled numbers run over rows (y) of the image first; ours over axis 0 first: cell (a, b) against (b, a).
    level = [(0, 16), (256, 8), (320, 4)]
    tabled = []
    for cell in found.positive.tolist():
        start, side = [one for one in level if one[0] <= cell][-1]
        tabled.append(start + (cell - start) % side * side + (cell - start) // side)
    iou = dict(zip(tabled, found.iou[found.positive].tolist(), strict=True))
    expected = {
        119: 0.677274,
        134: 0.671882,
        135: 0.852969,
        136: 0.735484,
        150: 0.633375,
        151: 0.799124,
        152: 0.691824,
        167: 0.611777,
    }
    assert iou == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_atss_equals_monai(dims: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    levels = [(4, 12), (8, 6)]
    grid = torch.cat([cell_centres((n,) * dims, s) for s, n in levels])
    strides = torch.cat([torch.full((n**dims,), float(s)) for s, n in levels])
    low = torch.rand(5, dims, generator=draw) * 30
    objects = torch.cat([low, low + 5 + 15 * torch.rand(5, dims, generator=draw)], 1)
    half = 2 * strides[:, None]
    anchors = torch.cat([grid - half, grid + half], 1)
    matcher = ATSSMatcher(num_candidates=9, center_in_gt=True)
    _, expected = matcher.compute_matches(objects, anchors, [n**dims for _, n in levels], 1)
    found = atss(objects, grid, strides, anchor_scale=4.0)
    assert found.positive.numel() > 0
    assert found.object_of_cell.tolist() == expected.clamp_min(-1).tolist()
