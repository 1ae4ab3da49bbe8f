import itertools
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from mtnet.inference.region import Region, RegionResult, body, lung_field, whole
from mtnet.structures import Geometry

_DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
_RULES = (lung_field, body, whole)

_CHEST = Geometry.from_parts((97, 70, 53), (3.9, 4.2, 5.0), (-187.0, -145.0, -130.0))


class _Chest:
    """A chest of ellipsoids on a table; centres and radii in LPS mm of an adult, of which ``size`` is drawn."""

    def __init__(self, geometry: Geometry, size: float = 1.0) -> None:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
        self.geometry = geometry
        self.points = geometry.index_to_lps_mm(index) / size
        self.hu = np.full(geometry.shape, -1000, np.int16)
        self.draw((0, 0, 0), (155, 105, 400), 40)
        self.draw((70, 0, 0), (60, 80, 110), -850)
        self.draw((-70, 0, -5), (60, 80, 105), -850)
        self.draw((0, 30, 0), (9, 9, 400), -1000)
        table = (np.abs(self.points[..., 1] - 118) < 5) & (np.abs(self.points[..., 0]) < 175)
        self.hu[table] = -100

    def inside(self, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        return (((self.points - centre) / radii) ** 2).sum(axis=-1) <= 1

    def draw(self, centre: tuple[float, ...], radii: tuple[float, ...], hu: int) -> np.ndarray:
        part = self.inside(centre, radii)
        self.hu[part] = hu
        return part


@pytest.fixture
def chest() -> _Chest:
    return _Chest(_CHEST)


def _missed(result: RegionResult, part: np.ndarray) -> int:
    return int(np.count_nonzero(part & ~result.mask.numpy()))


def test_the_lung_field_holds_both_lungs_and_leaves_out_most_of_the_rest(chest: _Chest):
    result = lung_field(chest.hu, chest.geometry)
    assert result.lines == ()
    assert result.mask.dtype == torch.bool
    assert result.share == pytest.approx(result.mask.float().mean().item())
    assert _missed(result, chest.inside((70, 0, 0), (60, 80, 110)) | chest.inside((-70, 0, -5), (60, 80, 105))) == 0
    outside = chest.points[..., 1] > 118
    assert not result.mask.numpy()[outside].any()
    assert result.share < 0.5


@pytest.mark.parametrize("rule", _RULES)
def test_every_orientation_gives_the_same_region(rule):
    chest = _Chest(Geometry.from_parts((53, 41, 29), (3.9, 4.2, 5.0), (-105.0, -83.0, -70.0)), size=0.55)
    chest.draw((-95, 20, 10), (30, 30, 30), 30)
    straight = rule(chest.hu, chest.geometry)
    assert straight.lines == ()
    for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        steps = tuple(slice(None, None, flip) for flip in flips)
        affine = chest.geometry.affine_lps.copy()
        affine[:3, :3] = affine[:3, list(order)]
        shape = tuple(chest.hu.shape[axis] for axis in order)
        for axis, flip in enumerate(flips):
            if flip < 0:
                affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
                affine[:3, axis] *= -1
        moved = rule(chest.hu.transpose(order)[steps], Geometry(shape, affine))
        assert np.array_equal(moved.mask.numpy(), straight.mask.numpy().transpose(order)[steps])
        assert moved.lines == straight.lines


@pytest.mark.parametrize(
    ("centre", "radii"),
    [
        ((125, 10, 0), (25, 40, 45)),  # a mass at the lateral wall
        ((80, 70, -20), (45, 22, 45)),  # a consolidation along the back
        ((-70, 0, 100), (35, 35, 25)),  # an apex
        ((-20, 10, 20), (16, 16, 16)),  # a mass at the mediastinum
        ((70, -78, 10), (6, 6, 6)),  # a juxtapleural nodule
        ((70, 20, 0), (32, 32, 32)),  # a large mass in the middle
        ((80, 0, -80), (60, 90, 45)),  # a lower lobe
    ],
)
def test_dense_disease_at_the_pleura_stays_in_the_lung_field(chest: _Chest, centre, radii):
    lungs = chest.hu == -850
    sick = chest.draw(centre, radii, 35)
    assert np.count_nonzero(sick & lungs) > 5
    # What was lung before: the ellipsoid reaches into the wall too.
    assert _missed(lung_field(chest.hu, chest.geometry), sick & lungs) == 0


def test_emphysema_and_noise_stay_in_the_lung_field(chest: _Chest):
    lung = chest.draw((70, 0, 0), (60, 80, 110), -960)
    noisy = chest.hu + np.random.default_rng(0).normal(0, 80, chest.hu.shape).astype(np.int16)
    result = lung_field(noisy, chest.geometry)
    assert _missed(result, lung) == 0
    assert result.share == pytest.approx(lung_field(chest.hu, chest.geometry).share, abs=0.02)


def test_an_opaque_lung_widens_the_region_to_the_whole_body_at_its_height(chest: _Chest):
    lost = chest.draw((70, 0, 0), (60, 80, 110), 30)
    result = lung_field(chest.hu, chest.geometry)
    assert [line.code for line in result.lines] == ["region_widened"]
    assert _missed(result, lost & (np.abs(chest.points[..., 2]) < 100)) == 0


def test_lungs_with_little_air_on_both_sides_are_not_trusted(chest: _Chest):
    for side in (-70, 70):
        chest.draw((side, 40, -10), (75, 90, 80), 30)
    result = lung_field(chest.hu, chest.geometry)
    assert [line.code for line in result.lines] == ["region_failed"]
    assert result.mask.all()


def test_lungs_cut_off_by_the_first_and_last_slice_are_kept(chest: _Chest):
    part = slice(15, 35)
    affine = chest.geometry.affine_lps.copy()
    affine[:3, 3] = chest.geometry.index_to_lps_mm((0, 0, 15))
    result = lung_field(chest.hu[:, :, part], Geometry((97, 70, 20), affine))
    assert _missed(result, (chest.hu == -850)[:, :, part]) == 0


def test_a_lung_cut_off_by_the_field_of_view_is_not_taken_for_outside_air(chest: _Chest):
    part = (slice(20, 75), slice(20, 45), slice(None))
    lungs = (chest.hu == -850)[part]
    assert lungs[0].sum() > 50
    assert lungs[:, 0].sum() > 50
    affine = chest.geometry.affine_lps.copy()
    affine[:3, 3] = chest.geometry.index_to_lps_mm((20, 20, 0))
    result = lung_field(chest.hu[part], Geometry(lungs.shape, affine))
    assert _missed(result, lungs) == 0


def test_bright_air_in_some_slices_is_still_outside(chest: _Chest):
    plain = lung_field(chest.hu, chest.geometry)
    blurred = chest.hu.copy()
    blurred[:, :, -4:][blurred[:, :, -4:] == -1000] = -900
    result = lung_field(blurred, chest.geometry)
    assert result.share == pytest.approx(plain.share, abs=0.01)


def test_the_body_leaves_the_table_out_and_fills_its_holes(chest: _Chest):
    result = body(chest.hu, chest.geometry)
    assert result.lines == ()
    assert _missed(result, chest.inside((0, 0, 0), (145, 95, 400))) == 0
    beside = (np.abs(chest.points[..., 0]) > 140) & (chest.points[..., 1] > 100)
    assert chest.hu[beside].max() == -100
    assert not result.mask.numpy()[beside].any()


@pytest.mark.parametrize("rule", _RULES)
def test_padding_changes_nothing_and_is_never_looked_at(rule, chest: _Chest):
    plain = rule(chest.hu, chest.geometry)
    padded = np.full((112, 80, 64), -1000, np.int16)
    padded[:97, :70, :53] = chest.hu
    result = rule(padded, chest.geometry, valid_shape=(97, 70, 53))
    assert np.array_equal(result.mask[:97, :70, :53], plain.mask)
    assert result.mask.sum() == plain.mask.sum()
    assert result.share == plain.share


@pytest.mark.parametrize("kind", [np.int16, np.float32, "tensor", "fortran"])
def test_arrays_and_tensors_of_any_layout_give_one_answer(kind, chest: _Chest):
    plain = lung_field(chest.hu, chest.geometry)
    if kind == "tensor":
        image = torch.from_numpy(chest.hu).float()
    else:
        image = np.asfortranarray(chest.hu) if kind == "fortran" else chest.hu.astype(kind)
    assert torch.equal(lung_field(image, chest.geometry).mask, plain.mask)


@pytest.mark.parametrize("hu", [-1000, -850, 40])
@pytest.mark.parametrize("rule", [lung_field, body])
def test_where_the_rule_fails_everything_is_looked_at_and_it_says_so(rule, hu: int):
    geometry = Geometry.from_parts((30, 40, 20), (4, 4, 4))
    result = rule(np.full((32, 40, 20), hu, np.int16), geometry, valid_shape=(30, 40, 20))
    assert [line.code for line in result.lines] == ["region_failed"]
    assert result.share == 1.0
    assert result.mask[:30].all()
    assert not result.mask[30:].any()


@pytest.mark.parametrize("radius", [12, 40])
def test_pockets_of_air_in_an_abdomen_are_no_lungs(chest: _Chest, radius: int):
    chest.draw((0, 0, 0), (155, 105, 400), 40)
    for side in (-60, 60):
        chest.draw((side, 0, 0), (radius,) * 3, -850)
    result = lung_field(chest.hu, chest.geometry)
    assert [line.code for line in result.lines] == ["region_failed"]
    assert result.mask.all()


def test_lungs_that_fill_a_twentieth_of_the_image_or_less_are_not_trusted(chest: _Chest):
    wide = np.full((230, 230, 53), -1000, np.int16)
    wide[:97, :70] = chest.hu
    result = lung_field(wide, Geometry(wide.shape, chest.geometry.affine_lps))
    assert [line.code for line in result.lines] == ["region_failed"]
    assert "4%" in result.lines[0].message


@pytest.mark.parametrize("name", ["lung_field", "body", "whole"])
def test_a_rule_by_name_reads_an_image_as_preprocessing_leaves_it(name: str, chest: _Chest):
    scaled = torch.from_numpy((chest.hu.astype(np.float32).clip(-1000, 400) + 1000) / 1400)
    named = Region(name, (-1000.0, 400.0)).of(scaled, chest.geometry, (97, 70, 53))
    (rule,) = (rule for rule in _RULES if rule.__name__ == name)
    assert torch.equal(named.mask, rule(chest.hu, chest.geometry).mask)


def test_an_unknown_rule_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="lung_field, body, whole"):
        Region("liver")


def test_an_image_that_is_no_volume_is_refused():
    with pytest.raises(ValueError, match="volume"):
        lung_field(np.zeros((10, 10), np.int16), Geometry.from_parts((10, 10, 1), (1, 1, 1)))


def _annotated_series(folder: str) -> tuple[np.ndarray, Geometry, list[tuple[int, ...]]]:
    """Voxels, grid and the tumour boxes ``(k, x low, y low, x high, y high)`` of one series of the real study."""
    study = _DATA / "chest_ct_study"
    (path,) = study.glob(f"Lung_Dx-A0001/*/{folder}*")
    reader = SimpleITK.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(path))
    reader.SetFileNames(names)
    image = reader.Execute()
    geometry = Geometry.from_parts(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    boxes = []
    header = SimpleITK.ImageFileReader()
    for k, name in enumerate(names):
        header.SetFileName(name)
        header.ReadImageInformation()
        note = study / "annotations" / "A0001" / f"{header.GetMetaData('0008|0018')}.xml"
        if note.exists():
            corner = ElementTree.parse(note).find("object/bndbox")
            boxes.append((k, *(int(corner.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))))
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), geometry, boxes


@pytest.mark.study
@pytest.mark.parametrize(("folder", "slices"), [("2.0", 11), ("3.0", 9)])
def test_the_real_tumour_lies_in_the_lung_field_and_more_than_a_quarter_of_the_windows_is_spared(
    folder: str, slices: int
):
    image, geometry, boxes = _annotated_series(folder)
    assert len(boxes) == slices
    result = lung_field(image, geometry)
    assert result.lines == ()
    for k, x_low, y_low, x_high, y_high in boxes:
        assert result.mask[x_low : x_high + 1, y_low : y_high + 1, k].all(), f"slice {k}"
    # Windows of 96 mm (64 voxels of 1.5 mm), a quarter shared.
    edges = []
    for n, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True):
        last = n * spacing - 96
        starts = [*np.arange(0, last, 72), last]
        edges.append([slice(int(start / spacing), int(np.ceil((start + 96) / spacing))) for start in starts])
    touched = [bool(result.mask[window].any()) for window in itertools.product(*edges)]
    assert np.mean(touched) < 0.75
