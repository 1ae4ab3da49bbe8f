from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mtnet.detection import Candidates, cell_centres, decode, decode_offsets, encode_offsets
from mtnet.detection.coding import MAX_LOG_SIZE


def test_a_cell_is_centred_on_the_voxels_that_it_covers() -> None:
    # Cell 0 of stride 4 covers voxels 0..3, whose mean index is 1.5.
    assert cell_centres((2, 3), 4).tolist() == [[1.5, 1.5], [1.5, 5.5], [1.5, 9.5], [5.5, 1.5], [5.5, 5.5], [5.5, 9.5]]
    assert cell_centres((2,), 1).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_zero_offset_is_the_cell_itself(dims: int) -> None:
    shape = (3, 4, 5)[:dims]
    found = decode(torch.zeros(2, 1 + 2 * dims + 1, *shape), 8, 1, dims)
    cell = torch.tensor(list(torch.cartesian_prod(*[torch.arange(n) for n in shape]).tolist()))
    expected = torch.cat([cell * 8 - 0.5, (cell + 1) * 8 - 0.5], 1)
    assert found.box_index.shape == (2, len(cell), 2 * dims)
    torch.testing.assert_close(found.box_index[1], expected.float())


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_are_class_offsets_quality_then_lesion(dims: int) -> None:
    level = torch.zeros(1, 3 + 2 * dims + 1 + 2, *(2,) * dims)
    cell = (0, slice(None), *(1,) * dims)
    level[cell] = torch.arange(level.shape[1], dtype=torch.float32) / 10
    found = decode(level, 4, 3, dims)[0]
    last = 2**dims - 1
    assert found.class_logits[last].tolist() == pytest.approx([0.0, 0.1, 0.2])
    centre = 5.5 + 4 * torch.arange(3, 3 + dims) / 10
    half = 2 * (torch.arange(3 + dims, 3 + 2 * dims) / 10).exp()
    torch.testing.assert_close(found.box_index[last], torch.cat([centre - half, centre + half]))
    assert float(found.quality_logit[last]) == pytest.approx((3 + 2 * dims) / 10)
    assert found.lesion[last].tolist() == pytest.approx([(4 + 2 * dims) / 10, (5 + 2 * dims) / 10])


@settings(deadline=None, max_examples=60)
@given(
    dims=st.sampled_from([2, 3]),
    seed=st.integers(0, 10_000),
    stride=st.sampled_from([1, 2, 4, 8, 32]),
    size=st.floats(0.2, 500),
)
def test_coding_a_box_and_back_returns_it(dims: int, seed: int, stride: int, size: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    centres = cell_centres((3,) * dims, stride, dtype=torch.float64)
    low = torch.rand(len(centres), dims, generator=draw, dtype=torch.float64) * 100 - 20
    box = torch.cat([low, low + size * (0.1 + torch.rand(len(centres), dims, generator=draw, dtype=torch.float64))], 1)
    raw = encode_offsets(box, centres, stride)
    torch.testing.assert_close(decode_offsets(raw, centres, stride), box, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(encode_offsets(decode_offsets(raw, centres, stride), centres, stride), raw)


def test_one_stride_a_cell_codes_like_one_stride_for_all() -> None:
    centres = cell_centres((2, 2), 8)
    raw = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    strides = torch.full((4, 1), 8.0)
    assert torch.equal(decode_offsets(raw, centres, strides), decode_offsets(raw, centres, 8))


def test_absurd_logits_and_empty_boxes_stay_finite() -> None:
    raw = torch.tensor([[0.0, 0.0, 1e4, -1e4]])
    box = decode_offsets(raw, torch.zeros(1, 2), 8)
    assert bool(torch.isfinite(box).all()) and bool((box[:, 2:] > box[:, :2]).all())
    assert encode_offsets(torch.zeros(1, 4), torch.zeros(1, 2), 8).tolist() == [
        [0.0, 0.0, -MAX_LOG_SIZE, -MAX_LOG_SIZE],
    ]


def test_half_precision_levels_are_decoded_in_float32() -> None:
    level = torch.zeros(1, 6, 40, 40, dtype=torch.float16)
    found = decode(level, 8, 1, 2)
    # 315.5 - 4 is exact in float32; float16 would have steps of 0.25 there.
    assert found.box_index[0, -1].tolist() == [311.5, 311.5, 319.5, 319.5]


def test_a_score_is_the_root_of_class_times_quality() -> None:
    probability = torch.tensor([0.8, 0.5])
    logit = probability.logit()
    found = Candidates(torch.zeros(1, 4), logit[None, :1], logit[1:], torch.zeros(1, 0))
    assert float(found.scores) == pytest.approx((0.8 * 0.5) ** 0.5)


def test_levels_join_in_order() -> None:
    parts = [decode(torch.full((2, 6, n, n), float(n)), 8 // n, 1, 2) for n in (1, 2)]
    joined = Candidates.joined(parts)
    assert joined.class_logits[1, :, 0].tolist() == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert joined.lesion.shape == (2, 5, 0)


def test_a_level_of_a_wrong_form_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        decode(torch.zeros(1, 7, 2, 2, 2), 4, 1, 3)
    with pytest.raises(ValueError, match="3 spatial axes"):
        decode(torch.zeros(1, 8, 2, 2), 4, 1, 3)
    with pytest.raises(ValueError, match="quality_logit"):
        Candidates(torch.zeros(2, 4), torch.zeros(2, 1), torch.zeros(3), torch.zeros(2, 0))
