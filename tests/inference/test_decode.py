import itertools
import math

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtnet.inference.decode import decode_global, decode_lesions, hashed_uid, reconstruction_error
from mtnet.inference.plan import Detections
from mtnet.structures import Geometry, Label, Lesion, LesionChannel, OutputSpec, Volume

_TEXTURES = (Label(0, "solid"), Label(1, "ground_glass"))
_SPEC = OutputSpec(
    "lesions",
    "boxes",
    (Label(1, "nodule"), Label(2, "mass")),
    (4,),
    "sigmoid",
    lesion_channels=(LesionChannel("texture", _TEXTURES, "softmax"), LesionChannel("diameter", units="mm")),
)
_GRID = Geometry.from_parts((48, 40, 36), (1.5, 1.5, 1.5), (-30.0, -25.0, 100.0))


def _detections(boxes: object, scores: list[float], labels: list[int] | None = None) -> Detections:
    count = len(scores)
    return Detections(
        box_index=torch.as_tensor(np.asarray(boxes, dtype=np.float32)),
        score=torch.tensor(scores),
        label=torch.tensor(labels or [0] * count),
        lesion={
            "texture": torch.tensor([[0.25, 0.75]]).repeat(count, 1),
            "diameter": torch.arange(count, dtype=torch.float32)[:, None] + 5,
        },
    )


def _ball(geometry: Geometry, centre_mm: tuple[float, ...], radius_mm: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    return np.linalg.norm(geometry.index_to_lps_mm(index) - centre_mm, axis=-1) <= radius_mm


def _index_box(geometry: Geometry, centre_mm: tuple[float, ...], radius_mm: float) -> np.ndarray:
    half = radius_mm / np.asarray(geometry.spacing_mm)
    centre = geometry.lps_mm_to_index(centre_mm)
    return np.concatenate([centre - half, centre + half])


def _lesions(boxes: object, scores: list[float], **options: object) -> tuple[Lesion, ...]:
    given = {"image_geometry": _GRID, "geometry": _GRID, "uid_seed": "seed", **options}
    return decode_lesions(_detections(boxes, scores), _SPEC, **given)[0]  # type: ignore[arg-type]


_THREE = [[1, 2, 3, 8, 9, 10], [20, 20, 20, 30, 31, 32], [4, 20, 20, 9, 26, 27]]


def test_lesions_are_numbered_by_falling_score_and_keep_what_travels_with_them():
    detections = _detections(_THREE, [0.6, 0.9, 0.7], [0, 1, 0])
    lesions, lesion_map, lines = decode_lesions(
        detections, _SPEC, image_geometry=_GRID, geometry=_GRID, uid_seed="seed"
    )
    assert [lesion.number for lesion in lesions] == [1, 2, 3]
    assert [lesion.score for lesion in lesions] == pytest.approx([0.9, 0.7, 0.6])
    assert [lesion.label for lesion in lesions] == ["mass", "nodule", "nodule"]
    assert [lesion.measures["diameter_mm"] for lesion in lesions] == [6, 7, 5]
    assert lesions[0].class_probabilities == {"texture": {"solid": 0.25, "ground_glass": 0.75}}
    assert lesions[0].box_index == pytest.approx(_THREE[1])
    assert lesions[0].centre_lps_mm == pytest.approx(_GRID.index_to_lps_mm((25, 25.5, 26)))
    assert (lesions[0].mask_voxels, lesions[0].volume_mm3, lesion_map, lines) == (0, None, None, ())


def test_only_boxes_that_reach_the_threshold_count():
    assert len(_lesions(_THREE, [0.5, 0.49, 0.2])) == 1
    assert len(_lesions(_THREE, [0.5, 0.49, 0.2], threshold=0.3)) == 2
    assert _lesions(np.zeros((0, 6)), []) == ()


def test_boxes_are_cut_to_the_grid_and_those_outside_are_dropped_with_a_line():
    boxes = [[-9, 2, 3, 8, 90, 10], [60, 2, 3, 70, 9, 10]]
    lesions, _, lines = decode_lesions(
        _detections(boxes, [0.9, 0.8]), _SPEC, image_geometry=_GRID, geometry=_GRID, uid_seed="seed"
    )
    assert [lesion.box_index for lesion in lesions] == [pytest.approx((-0.5, 2, 3, 8, 39.5, 10))]
    assert [line.code for line in lines] == ["box_outside_grid"]


def test_a_lesion_is_placed_at_the_centroid_of_its_mask():
    label_map = np.zeros((1, *_GRID.shape), np.uint8)
    label_map[0, 21:29, 20:30, 22:30] = 1
    lesions, lesion_map, lines = decode_lesions(
        _detections(_THREE, [0.6, 0.9, 0.7]),
        _SPEC,
        image_geometry=_GRID,
        geometry=_GRID,
        uid_seed="seed",
        label_map=label_map,
    )
    assert lesion_map is not None
    assert lesion_map.array.dtype == np.uint16
    assert np.array_equal(lesion_map.array > 0, label_map > 0)
    first, second, _ = lesions
    assert first.mask_voxels == 640
    assert first.volume_mm3 == pytest.approx(640 * 1.5**3)
    assert first.centre_lps_mm == pytest.approx(_GRID.index_to_lps_mm((24.5, 24.5, 25.5)))
    assert first.longest_axial_diameter_mm == pytest.approx(1.5 * math.hypot(8, 10))
    assert (second.mask_voxels, second.longest_axial_diameter_mm) == (0, None)
    assert [line.code for line in lines] == ["box_without_mask"]


def test_only_lesion_values_of_the_label_map_make_lesions():
    label_map = np.zeros((1, *_GRID.shape), np.uint8)
    label_map[0, 18:34, 18:34, 18:34] = 3
    label_map[0, 22:26, 22:26, 22:26] = 1
    assert _lesions(_THREE[1:2], [0.9], label_map=label_map)[0].mask_voxels == 16**3
    assert _lesions(_THREE[1:2], [0.9], label_map=label_map, lesion_values=(1, 2))[0].mask_voxels == 64


def test_a_label_map_on_another_grid_is_refused():
    with pytest.raises(ValueError, match="target grid"):
        _lesions(_THREE, [0.9, 0.9, 0.9], label_map=np.zeros((1, 5, 5, 5), np.uint8))


def test_boxes_of_a_flat_image_span_its_one_slice():
    flat = Geometry.from_parts((40, 30, 1), (0.5, 0.5, 1.0))
    label_map = np.zeros((1, 40, 30), np.uint8)
    label_map[0, 5:15, 5:10] = 1
    lesions = _lesions([[4, 4, 16, 12]], [0.9], image_geometry=flat, geometry=flat, label_map=label_map)
    assert lesions[0].box_index == (4, 4, -0.5, 16, 12, 0.5)
    assert lesions[0].mask_voxels == 50


def _targets() -> list[Geometry]:
    """The source's grid in all 48 orientations, and two that lie obliquely."""
    targets = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        direction = np.eye(3)[:, list(order)] * signs
        spacing = np.asarray((0.8, 0.9, 2.5))[list(order)]
        shape = np.asarray((100, 80, 26))[list(order)]
        middle = np.asarray(_GRID.index_to_lps_mm((23.5, 19.5, 17.5)))
        targets.append(Geometry.from_parts(shape, spacing, middle - direction @ (spacing * (shape - 1) / 2), direction))
    for turn in (0.3, -0.7):
        c, s = math.cos(turn), math.sin(turn)
        direction = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        shape, spacing = np.asarray((110, 110, 60)), np.asarray((0.9, 0.9, 1.6))
        targets.append(Geometry.from_parts(shape, spacing, middle - direction @ (spacing * (shape - 1) / 2), direction))
    return targets


@pytest.mark.parametrize("target", _targets())
def test_a_lesion_lies_at_the_same_millimetres_on_every_target_grid(target: Geometry):
    centres, radii = [(-8.0, -2.0, 118.0), (18.0, 12.0, 135.0)], [7.0, 10.0]
    boxes = [_index_box(_GRID, centre, radius) for centre, radius in zip(centres, radii, strict=True)]
    label_map = np.zeros((1, *target.shape), np.uint8)
    for centre, radius in zip(centres, radii, strict=True):
        label_map[0] |= _ball(target, centre, radius)
    lesions, lesion_map, lines = decode_lesions(
        _detections(boxes, [0.6, 0.8]),
        _SPEC,
        image_geometry=_GRID,
        geometry=target,
        uid_seed="seed",
        label_map=label_map,
    )
    assert lines == ()
    assert lesion_map is not None
    for lesion, centre, radius in zip(lesions, centres[::-1], radii[::-1], strict=True):
        assert np.abs(np.subtract(lesion.centre_lps_mm, centre)).max() < 0.3
        assert lesion.volume_mm3 == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.06)
        low, high = np.asarray(lesion.box_lps_mm[:3]), np.asarray(lesion.box_lps_mm[3:])
        assert (low <= np.asarray(centre) - radius + 1e-3).all()
        assert (high >= np.asarray(centre) + radius - 1e-3).all()
        # The judge reads the lesion from the map as any other program would.
        image = SimpleITK.GetImageFromArray((lesion_map.array[0] == lesion.number).astype(np.uint8).transpose(2, 1, 0))
        image.SetSpacing(target.spacing_mm)
        image.SetOrigin(target.origin_lps_mm)
        image.SetDirection(target.direction_lps.ravel().tolist())
        judge = SimpleITK.LabelShapeStatisticsImageFilter()
        judge.Execute(image)
        assert lesion.centre_lps_mm == pytest.approx(judge.GetCentroid(1), abs=1e-6)


_PLACE = st.tuples(*[st.floats(0, 10)] * 3)
_SIZE = st.tuples(*[st.floats(1, 20)] * 3)


@settings(max_examples=60, deadline=None)
@given(low=_PLACE, size=_SIZE, number=st.integers(0, 47))
def test_a_box_keeps_its_millimetres_on_every_aligned_grid_that_holds_it(
    low: tuple[float, ...], size: tuple[float, ...], number: int
):
    box = np.concatenate([low, np.add(low, size)])
    target = _targets()[number]
    lesion = _lesions([box], [0.9], geometry=target)[0]
    corners = _GRID.index_to_lps_mm(np.float32([box[:3], box[3:]]))
    edge = target.box_index_to_lps_mm(np.concatenate([np.full(3, -0.5), np.asarray(target.shape) - 0.5]))
    expected = np.concatenate([np.maximum(corners[0], edge[:3]), np.minimum(corners[1], edge[3:])])
    assert lesion.box_lps_mm == pytest.approx(expected, abs=1e-3)
    # Read back by hand, without the code that carried it.
    straight = target.affine_lps[:3, :3] @ np.reshape(lesion.box_index, (2, 3)).T + target.affine_lps[:3, 3:]
    assert sorted(straight.ravel()) == pytest.approx(sorted(expected), abs=1e-3)


def test_tracking_uids_are_valid_repeatable_and_change_with_seed_and_lesion():
    from pydicom.uid import UID

    once = [lesion.tracking_uid for lesion in _lesions(_THREE, [0.6, 0.9, 0.7])]
    assert once == [lesion.tracking_uid for lesion in _lesions(_THREE, [0.6, 0.9, 0.7])]
    assert len(set(once)) == 3
    for uid in once:
        assert UID(uid).is_valid
        assert uid.startswith("2.25.")
    other = [lesion.tracking_uid for lesion in _lesions(_THREE, [0.6, 0.9, 0.7], uid_seed="another")]
    moved = [lesion.tracking_uid for lesion in _lesions(np.add(_THREE, 0.25), [0.6, 0.9, 0.7])]
    assert not set(once) & set(other)
    assert not set(once) & set(moved)


def test_a_hashed_uid_is_a_version_8_uuid_and_keeps_its_parts_apart():
    import uuid

    made = uuid.UUID(int=int(hashed_uid("a", "b").removeprefix("2.25.")))
    assert made.variant == uuid.RFC_4122
    assert made.version == 8
    assert hashed_uid("a", "b") != hashed_uid("ab")


def test_sigmoid_classes_are_present_from_the_threshold():
    spec = OutputSpec("image", "global", (Label(0, "nodule"), Label(1, "fluid")), activation="sigmoid", threshold=0.4)
    classes = decode_global(torch.tensor([0.4, 0.39], dtype=torch.float64), spec)
    assert [(c.output, c.name, c.present) for c in classes] == [("image", "nodule", True), ("image", "fluid", False)]


def test_of_softmax_classes_the_most_probable_is_present():
    labels = (Label(0, "normal"), Label(1, "benign"), Label(2, "malignant"))
    classes = decode_global([0.3, 0.3, 0.4], OutputSpec("image", "global", labels, activation="softmax"))
    assert [c.present for c in classes] == [False, False, True]


def test_values_that_are_no_probabilities_make_no_image_classes():
    labels = (Label(0, "nodule"),)
    with pytest.raises(ValueError, match="no activation"):
        decode_global([0.3], OutputSpec("image", "global", labels))
    with pytest.raises(ValueError, match="1 labels"):
        decode_global([0.3, 0.7], OutputSpec("image", "global", labels, activation="sigmoid"))


def _volume(array: np.ndarray, geometry: Geometry) -> Volume:
    return Volume(array[None], geometry, "CT")


def test_reconstruction_error_is_the_mean_over_the_region_within_the_limits():
    rng = np.random.default_rng(0)
    image = rng.integers(-1024, 2000, _GRID.shape).astype(np.int16)
    redrawn = rng.uniform(-1000, 400, _GRID.shape).astype(np.float32)
    region = rng.random(_GRID.shape) > 0.7
    error = reconstruction_error(_volume(image, _GRID), _volume(redrawn, _GRID), region=region, limits=(-1000.0, 400.0))
    expected = np.abs(np.clip(image, -1000, 400)[region] - redrawn[region]).mean()
    assert error == {"mean_absolute_error_hu": pytest.approx(expected, rel=1e-5)}
    everywhere = reconstruction_error(_volume(image, _GRID), _volume(redrawn, _GRID), units="normalised")
    assert everywhere == {"mean_absolute_error_normalised": pytest.approx(np.abs(image - redrawn).mean(), rel=1e-5)}


@pytest.mark.parametrize("target", [_targets()[n] for n in (0, 13, 29, 48, 49)])
def test_the_region_is_looked_up_in_millimetres_on_another_grid(target: Geometry):
    # Moved a little, so that no voxel centre lies on a border of two region voxels, where either answer is right.
    origin = np.add(target.origin_lps_mm, (0.11, 0.13, 0.17))
    target = Geometry.from_parts(target.shape, target.spacing_mm, origin, target.direction_lps)
    region = _ball(_GRID, (0.0, 0.0, 120.0), 17.0)
    rng = np.random.default_rng(1)
    redrawn = rng.uniform(-1000, 400, target.shape).astype(np.float32)
    image = np.zeros(target.shape, np.int16)
    error = reconstruction_error(_volume(image, target), _volume(redrawn, target), region=region, region_geometry=_GRID)

    moving = SimpleITK.GetImageFromArray(region.astype(np.uint8).transpose(2, 1, 0))
    moving.SetSpacing(_GRID.spacing_mm)
    moving.SetOrigin(_GRID.origin_lps_mm)
    fixed = SimpleITK.Image([int(n) for n in target.shape], SimpleITK.sitkUInt8)
    fixed.SetSpacing(target.spacing_mm)
    fixed.SetOrigin(target.origin_lps_mm)
    fixed.SetDirection(target.direction_lps.ravel().tolist())
    judge = SimpleITK.Resample(moving, fixed, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    chosen = SimpleITK.GetArrayFromImage(judge).transpose(2, 1, 0) > 0
    assert 0 < chosen.mean() < 0.5
    assert error["mean_absolute_error_hu"] == pytest.approx(np.abs(redrawn[chosen]).mean(), rel=1e-4)


def test_a_region_that_misses_the_image_gives_no_error():
    far = Geometry.from_parts((4, 4, 4), (1, 1, 1), (5000, 0, 0))
    image = _volume(np.zeros(_GRID.shape, np.int16), _GRID)
    region = np.ones((4, 4, 4), bool)
    assert reconstruction_error(image, image, region=region, region_geometry=far) == {}
    with pytest.raises(ValueError, match="one grid"):
        reconstruction_error(image, _volume(region.astype(np.float32), far))
