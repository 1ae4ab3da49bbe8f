import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from mtnet.inference import components
from mtnet.inference.components import own_components, voxels_of_box

_EVEN = (1.0, 1.0, 1.0)


def _ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def _box(centre: tuple[float, ...], radius: float) -> list[float]:
    return [c - radius - 0.5 for c in centre] + [c + radius + 0.5 for c in centre]


def test_two_touching_lesions_in_one_component_are_split_between_their_boxes():
    shape = (40, 24, 24)
    a, b = _ball(shape, (12, 12, 12), 7), _ball(shape, (25, 12, 12), 6)
    mask = a | b
    assert ndimage.label(mask)[1] == 1
    owned = own_components(mask, [_box((12, 12, 12), 7), _box((25, 12, 12), 6)], _EVEN)
    assert owned.lines == ()
    assert np.array_equal(owned.lesion_map > 0, mask)
    assert np.count_nonzero((owned.lesion_map == 1) & a) / a.sum() > 0.97
    assert np.count_nonzero((owned.lesion_map == 2) & b) / b.sum() > 0.97
    assert owned.lesion_map[12, 12, 12] == 1
    assert owned.lesion_map[25, 12, 12] == 2


def test_the_tail_of_a_shared_component_goes_to_the_box_whose_face_is_nearest_in_mm():
    mask = np.zeros((30, 3, 30), bool)
    mask[2:20, 1, 2] = True
    mask[10, 1, 2:25] = True
    boxes = [[1.5, 0.5, 1.5, 5.5, 1.5, 2.5], [15.5, 0.5, 1.5, 19.5, 1.5, 2.5]]
    tail = (10, 1, 20)
    assert own_components(mask, boxes, _EVEN).lesion_map[tail] == 1
    assert own_components(mask, [boxes[1], boxes[0]], _EVEN).lesion_map[tail] == 2


def test_a_component_in_reach_of_one_box_belongs_to_it_whole():
    mask = _ball((30, 30, 30), (15, 15, 15), 8)
    owned = own_components(mask, [_box((13, 15, 15), 5)], _EVEN)
    assert np.array_equal(owned.lesion_map == 1, mask)
    assert owned.crops == ((slice(7, 24), slice(7, 24), slice(7, 24)),)


def test_a_box_owns_every_component_that_it_claims():
    mask = _ball((30, 30, 30), (10, 15, 15), 3) | _ball((30, 30, 30), (19, 15, 15), 3)
    owned = own_components(mask, [_box((14.5, 15, 15), 8)], _EVEN)
    assert np.array_equal(owned.lesion_map == 1, mask)


def test_the_edge_of_a_neighbour_is_not_claimed():
    mask = _ball((40, 24, 24), (25, 12, 12), 7)
    grazing = [8.5, 5.5, 5.5, 18.5, 18.5, 18.5]
    assert mask[9:19, 6:19, 6:19].any()
    owned = own_components(mask, [grazing], _EVEN)
    assert not owned.lesion_map.any()
    assert [line.code for line in owned.lines] == ["mask_without_box", "box_without_mask"]


def test_components_that_nobody_claims_are_counted_and_left_out():
    shape = (40, 20, 20)
    mask = _ball(shape, (8, 10, 10), 4) | _ball(shape, (22, 10, 10), 3) | _ball(shape, (33, 10, 10), 3)
    owned = own_components(mask, [_box((8, 10, 10), 4)], _EVEN)
    assert [line.code for line in owned.lines] == ["mask_without_box"]
    assert "2." in owned.lines[0].message
    assert not owned.lesion_map[15:].any()


def test_a_box_without_mask_is_named():
    mask = _ball((40, 20, 20), (8, 10, 10), 4)
    owned = own_components(mask, [_box((30, 10, 10), 4), _box((8, 10, 10), 4)], _EVEN)
    assert owned.crops[0] is None
    assert owned.lesion_map.max() == 2
    assert [line.code for line in owned.lines] == ["box_without_mask"]
    assert "number 1." in owned.lines[0].message


def test_an_empty_mask_and_no_boxes_are_nothing_to_report():
    owned = own_components(np.zeros((4, 5, 6), bool), np.zeros((0, 6)), _EVEN)
    assert owned.lesion_map.dtype == np.uint16
    assert owned.lesion_map.shape == (4, 5, 6)
    assert (owned.crops, owned.lines) == ((), ())


def test_voxels_that_touch_by_a_corner_are_one_component():
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = mask[3, 3, 3] = True
    owned = own_components(mask, [[0.5, 0.5, 0.5, 1.5, 1.5, 1.5]], _EVEN)
    assert np.array_equal(owned.lesion_map == 1, mask)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.5, 0.5, 0.5, 2.5, 3.5, 4.5), (slice(1, 3), slice(1, 4), slice(1, 5))),
        ((1.0, 1.1, 0.9, 2.0, 2.1, 2.1), (slice(1, 2), slice(2, 3), slice(1, 3))),
        ((1.1, 1.1, 1.6, 1.3, 1.9, 1.7), (slice(1, 2), slice(2, 3), slice(2, 3))),
        ((-0.5, -0.5, -0.5, -0.4, 0.2, 9.5), (slice(0, 1), slice(0, 1), slice(0, 10))),
    ],
)
def test_a_box_holds_the_voxels_whose_centres_lie_in_it_and_never_none(box: tuple[float, ...], expected: object):
    assert voxels_of_box(np.asarray(box), (10, 10, 10)) == expected


def test_boxes_without_extent_are_refused():
    with pytest.raises(ValueError, match="low is not below its high"):
        own_components(np.ones((3, 3, 3), bool), [[0, 0, 0, 1, 1, 0]], _EVEN)


_MASK = hnp.arrays(bool, (7, 6, 5), elements=st.sampled_from([False, False, False, True]))
_CORNER = st.tuples(st.floats(-0.5, 4), st.floats(-0.5, 3), st.floats(-0.5, 2))
_SIZE = st.tuples(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(0.3, 3))
_BOXES = st.lists(st.tuples(_CORNER, _SIZE), max_size=4).map(
    lambda pairs: np.asarray([[*low, *np.add(low, size)] for low, size in pairs]).reshape(-1, 6)
)


@settings(max_examples=120, deadline=None)
@given(mask=_MASK, boxes=_BOXES)
def test_every_component_is_owned_whole_or_not_at_all_and_nothing_else_is(mask: np.ndarray, boxes: np.ndarray):
    owned = own_components(mask, boxes, (0.7, 0.7, 2.0))
    assert not owned.lesion_map[~mask].any()
    numbered, count = ndimage.label(mask, np.ones((3, 3, 3)))
    free = 0
    for component in range(1, count + 1):
        values = owned.lesion_map[numbered == component]
        assert (values > 0).all() or not values.any()
        free += not values.any()
    unclaimed = [line for line in owned.lines if line.code == "mask_without_box"]
    assert len(unclaimed) == (free > 0)
    assert not free or f": {free}." in unclaimed[0].message
    for number, crop in enumerate(owned.crops, 1):
        held = np.argwhere(owned.lesion_map == number)
        if crop is None:
            assert not len(held)
        else:
            assert [(s.start, s.stop) for s in crop] == list(zip(held.min(0), held.max(0) + 1, strict=True))


def test_sharing_a_large_component_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    shape = (40, 24, 24)
    mask = _ball(shape, (12, 12, 12), 7) | _ball(shape, (25, 12, 12), 6)
    boxes = [_box((12, 12, 12), 7), _box((25, 12, 12), 6)]
    whole = own_components(mask, boxes, _EVEN).lesion_map
    monkeypatch.setattr(components, "_POINTS_AT_ONCE", 100)
    assert np.array_equal(own_components(mask, boxes, _EVEN).lesion_map, whole)
