from __future__ import annotations

import dataclasses
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mtnet.results import write_overlay
from mtnet.results.axial_view import AxialView
from mtnet.results.canvas import wrapped
from mtnet.results.overlay import colour_of
from mtnet.structures import Findings, Geometry, InputReport, ReportLine, Volume
from tests.results.samples import ball, findings_on

# Where the first slice lies on the page, in pixels; the line with the slice's number is at its top.
LEFT, TOP, SIDE = 14, 62, 480
CAPTION = 28
# Along the patient's axes: right to left, front to back, feet to head.
SHAPE, SPACING = (64, 48, 20), (1.5, 2.0, 3.0)
CENTRE_LPS_MM = np.array([22.0, -18.0, 4.0])


def _world(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """HU at LPS points: tissue with a slow ramp, and one bright ball at the patient's left, in front."""
    value = -700 + 2 * points[..., 0] + 3 * points[..., 1]
    return np.where(np.linalg.norm(points - CENTRE_LPS_MM, axis=-1) <= 8.0, 0.0, value)


def _study(
    direction: NDArray[np.float64], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> tuple[Findings, Volume]:
    """The same patient on a grid with these axes, centred at 0."""
    origin = -direction @ (np.multiply(spacing, np.subtract(shape, 1)) / 2)
    geometry = Geometry.from_parts(shape, spacing, origin, direction)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    values = _world(geometry.index_to_lps_mm(index)).astype(np.int16)[None]
    return findings_on(geometry, [ball(geometry, CENTRE_LPS_MM, 8.0)]), Volume(values, geometry, "CT")


def _page(findings: Findings, volume: Volume, folder: Path) -> NDArray[np.uint8]:
    write_overlay(findings, volume, folder / "overlay.png")
    return np.asarray(Image.open(folder / "overlay.png").convert("RGB"))


def _slice(page: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return page[TOP + CAPTION : TOP + SIDE, LEFT : LEFT + SIDE]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_picture_is_the_same_for_every_order_of_the_voxels(order: tuple[int, int, int], tmp_path: Path) -> None:
    plain = _slice(_page(*_study(np.eye(3), SHAPE, SPACING), tmp_path))
    assert (np.abs(plain.astype(int) - colour_of(1)).max(axis=-1) < 8).any()
    for signs in product((1.0, -1.0), repeat=3):
        direction = np.zeros((3, 3))
        direction[list(order), range(3)] = signs
        study = _study(direction, tuple(SHAPE[a] for a in order), tuple(SPACING[a] for a in order))
        np.testing.assert_array_equal(_slice(_page(*study, tmp_path)), plain)


def test_the_patients_left_is_on_the_right_and_the_front_is_up(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    bare = dataclasses.replace(findings, lesions=(), lesion_map=None, label_map=None)
    one = dataclasses.replace(findings, label_map=None)
    page = _slice(_page(one, volume, tmp_path))
    yellow = (np.abs(page.astype(int) - colour_of(1)).max(axis=-1) < 8).nonzero()
    # 96 mm over 480 pixels: 5 pixels a millimetre, the middle of the page at 0 mm.
    assert np.mean(yellow[1]) == pytest.approx(240 + 5 * CENTRE_LPS_MM[0], abs=12)
    assert np.mean(yellow[0]) == pytest.approx(240 - CAPTION + 5 * CENTRE_LPS_MM[1], abs=12)
    page = _page(bare, volume, tmp_path)
    assert not (np.abs(page.astype(int) - colour_of(1)).max(axis=-1) < 8).any()


def test_a_square_in_voxels_of_unequal_sides_is_square(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((64, 24, 1), (1.5, 4.0, 3.0))
    values = np.full((1, *geometry.shape), -1350, np.int16)
    values[0, 20:36, 8:14] = 150
    findings = dataclasses.replace(findings_on(geometry, []), label_map=None, lesion_map=None)
    page = _slice(_page(findings, Volume(values, geometry, "CT"), tmp_path))
    tall, wide = np.ptp(np.argwhere(page[50:400, 100:400, 0] > 127), axis=0) + 1
    # 24 mm both ways at 5 pixels a millimetre.
    assert tall == pytest.approx(120, abs=3) and wide == pytest.approx(120, abs=3)


def test_the_scale_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    page = _page(dataclasses.replace(findings, lesions=(), lesion_map=None, label_map=None), volume, tmp_path)
    row = page[TOP + SIDE - 12, LEFT : LEFT + 200, 0]
    bar = np.flatnonzero(row == 240)
    # 10 mm at 5 pixels a millimetre; the ticks stand on its ends and are 2 pixels thick.
    assert len(bar) == pytest.approx(50, abs=2)
    assert np.ptp(bar) == len(bar) - 1


def test_the_window_of_ct_is_that_of_the_lung(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((40, 40, 6), (2, 2, 2))
    values = np.zeros((1, *geometry.shape), np.int16)
    for n, hu in enumerate((-1350, -600, 150)):
        values[0, 5 + n * 12 : 15 + n * 12] = hu
    findings = dataclasses.replace(findings_on(geometry, []), label_map=None, lesion_map=None)
    page = _page(findings, Volume(values, geometry, "CT"), tmp_path)
    greys = [int(page[TOP + 250, LEFT + 12 * (10 + n * 12), 0]) for n in range(3)]
    assert greys == pytest.approx([0, 127, 255], abs=1)


def test_another_modality_is_shown_between_its_percentiles(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((40, 40, 6), (2, 2, 2))
    values = np.linspace(0, 3e-3, 40, dtype=np.float32)[None, :, None, None] * np.ones((1, 40, 40, 6), np.float32)
    page = _page(findings_on(geometry, []), Volume(values, geometry, "MR"), tmp_path)
    row = page[TOP + 200, LEFT + 40 : LEFT + SIDE - 40, 0].astype(int)
    assert row[0] < 40 and row[-1] > 215 and (np.diff(row) >= -1).all()


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_flat_image_is_drawn_too(value: float, tmp_path: Path) -> None:
    geometry = Geometry.from_parts((12, 12, 3), (2, 2, 2))
    page = _page(findings_on(geometry, []), Volume(np.full((1, 12, 12, 3), value), geometry), tmp_path)
    assert page.shape[1] >= 3 * SIDE


def test_the_training_data_stand_on_the_picture(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    drawn = _page(findings, volume, tmp_path)
    model = dataclasses.replace(findings.model, training_data="other data")
    other = _page(dataclasses.replace(findings, model=model), volume, tmp_path)
    rows = np.flatnonzero((drawn != other).any(axis=(1, 2)))
    assert rows.min() > TOP + SIDE and np.ptp(rows) < 24


def test_what_is_flagged_stands_whole_above_the_slices(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    plain = _page(findings, volume, tmp_path)
    noted = InputReport((ReportLine("gap", "note", "A slice is missing."),))
    np.testing.assert_array_equal(_page(dataclasses.replace(findings, report=noted), volume, tmp_path), plain)
    message = "The image is unlike those that the network was trained for: " + "far off, " * 12 + "do not rely on it."
    flagged = noted.plus([ReportLine("unlike_training", "flagged", message, where) for where in ("image", "twice")])
    page = _page(dataclasses.replace(findings, report=flagged), volume, tmp_path)
    added = page.shape[0] - plain.shape[0]
    lines = wrapped(f"Flagged: {message}", 15, page.shape[1] - 2 * LEFT)
    assert len(lines) > 1 and " ".join(lines) == f"Flagged: {message}" and added == 22 * len(lines)
    for n in range(len(lines)):
        assert (page[60 + 22 * n : 78 + 22 * n] > 150).any()
    np.testing.assert_array_equal(page[TOP + added :], plain[TOP:])


def test_of_many_flags_the_rest_is_counted(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    flagged = InputReport(tuple(ReportLine("odd", "flagged", f"Odd, {n} times.") for n in range(30)))
    page = _page(dataclasses.replace(findings, report=flagged), volume, tmp_path)
    assert page.shape[0] - _page(findings, volume, tmp_path).shape[0] == 5 * 22


def test_sixty_lesions_make_six_slices_and_a_legend_of_bounded_length(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    many = tuple(dataclasses.replace(findings.lesions[0], number=n, mask_voxels=0) for n in range(1, 61))
    page = _page(dataclasses.replace(findings, lesions=many, lesion_map=None), volume, tmp_path)
    assert page.shape[0] < 62 + 3 * 494 + 26 * 24 + 80


def test_a_lesion_at_the_edge_and_one_slice_are_drawn(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((32, 32, 1), (1, 1, 5))
    mask = np.zeros(geometry.shape, bool)
    mask[:3, 29:] = True
    page = _page(findings_on(geometry, [mask]), Volume(np.zeros((1, 32, 32, 1), np.int16), geometry, "CT"), tmp_path)
    assert (np.abs(page.astype(int) - colour_of(1)).max(axis=-1) < 8)[TOP : TOP + SIDE, LEFT : LEFT + SIDE].any()


def test_an_image_on_another_grid_is_refused(tmp_path: Path) -> None:
    findings, volume = _study(np.eye(3), SHAPE, SPACING)
    moved = Geometry.from_parts(SHAPE, SPACING, (0, 0, 0))
    with pytest.raises(ValueError, match="expected that of the"):
        write_overlay(findings, Volume(volume.array, moved, "CT"), tmp_path / "overlay.png")
    assert list(tmp_path.iterdir()) == []


def _turn(degrees: float) -> NDArray[Any]:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        (np.eye(3), {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        (np.diag([-1.0, -1.0, 1.0]), {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        (_turn(10), {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        (_turn(30), {"left": "RA", "right": "LP", "top": "AL", "bottom": "PR"}),
    ],
)
def test_the_letters_name_the_sides(direction: NDArray[Any], letters: dict[str, str]) -> None:
    assert AxialView.of(Geometry.from_parts((4, 5, 6), (1, 1, 1), direction_lps=direction)).letters() == letters


def test_a_box_goes_with_its_voxels() -> None:
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            direction = np.zeros((3, 3))
            direction[list(order), range(3)] = signs
            view = AxialView.of(Geometry.from_parts((4, 5, 6), (1, 2, 3), (7, 8, 9), direction))
            voxels = np.zeros((4, 5, 6), bool)
            voxels[1:3, 0:4, 5:6] = True
            shown = np.argwhere(view.array(voxels))
            box = view.box((0.5, -0.5, 4.5, 2.5, 3.5, 5.5))
            np.testing.assert_array_equal(box, [*(shown.min(axis=0) - 0.5), *(shown.max(axis=0) + 0.5)])
            middle = view.geometry.index_to_lps_mm((np.array(view.geometry.shape) - 1) / 2)
            assert view.centre_lps_mm(0)[2] < view.centre_lps_mm(1)[2]
            np.testing.assert_allclose(view.centre_lps_mm(0)[:2], middle[:2])
