"""One lesion, one place: SEG, NIfTI and JSON put its centroid at the same point of the patient, however it lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from mtnet import io
from mtnet.results import read_findings_json, write_results
from tests.builders import write_ct_series
from tests.results.samples import findings_on

SHAPE, SPACING = (11, 9, 7), (0.8, 1.1, 2.0)
# In millimetres from the middle of the stack, with radii: neither ball is symmetric to the other.
BALLS = (((0.4, -0.3, 0.9), 2.6), ((-2.0, 1.7, -2.2), 1.7))


def _orientations() -> Iterator[tuple[str, NDArray[np.float64]]]:
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            direction = np.zeros((3, 3))
            direction[list(order), range(3)] = signs
            yield "".join("xyz"[a] + "-+"[s > 0] for a, s in zip(order, signs, strict=True)), direction
    c, s = np.cos(0.4), np.sin(0.4)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    yield "oblique", turned
    yield "oblique, slices downwards", turned * [1, 1, -1]


ALL = dict(_orientations())


def test_there_are_48_orientations_and_oblique_ones() -> None:
    assert len(ALL) == 50
    assert sum(np.linalg.det(direction) > 0 for direction in ALL.values()) == 25


@pytest.mark.parametrize("direction", ALL.values(), ids=ALL.keys())
def test_seg_nifti_and_json_agree_with_the_patient(direction: NDArray[np.float64], tmp_path: Path) -> None:
    origin = -direction @ (np.multiply(SPACING, np.subtract(SHAPE, 1)) / 2)
    written = write_ct_series(
        tmp_path / "in",
        shape=SHAPE,
        spacing_mm=SPACING,
        direction_lps=direction,
        origin_lps_mm=tuple(origin),
        file_order="shuffled",
    )
    # The truth, from what was written alone: every pixel's place, and whether it lies in a ball.
    column, row = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]))
    in_plane = column[..., None] * SPACING[0] * direction[:, 0] + row[..., None] * SPACING[1] * direction[:, 1]
    places = np.array(written.positions_lps_mm)[:, None, None] + in_plane
    truth = [places[np.linalg.norm(places - centre, axis=-1) <= radius].mean(axis=0) for centre, radius in BALLS]

    series = io.scan(written.folder)[0].series[0]
    volume = io.load(series.stacks[0], series)
    index = np.stack(np.meshgrid(*map(np.arange, volume.geometry.shape), indexing="ij"), axis=-1)
    world = volume.geometry.index_to_lps_mm(index)
    masks = [np.linalg.norm(world - centre, axis=-1) <= radius for centre, radius in BALLS]
    findings = findings_on(
        volume.geometry,
        masks,
        stack=series.stacks[0],
        study_uid=series.study_instance_uid,
        series_uid=series.series_instance_uid,
    )
    done = write_results(findings, volume, tmp_path / "out", overlay=False)
    assert "seg_resampled" not in done.findings.report.codes

    lesions = nibabel.load(tmp_path / "out" / "lesions.nii.gz")
    numbers = np.asarray(lesions.dataobj)
    seg = _seg_centroids(tmp_path / "out" / "segmentation.dcm")
    back = read_findings_json(tmp_path / "out" / "findings.json")
    for n, place in enumerate(truth, start=1):
        ras = nibabel.affines.apply_affine(lesions.affine, np.argwhere(numbers == n)).mean(axis=0)
        np.testing.assert_allclose(ras * [-1, -1, 1], place, rtol=0, atol=1e-4)
        np.testing.assert_allclose(seg[n], place, rtol=0, atol=1e-4)
        np.testing.assert_allclose(back.lesions[n - 1].centre_lps_mm, place, rtol=0, atol=1e-4)


def _seg_centroids(path: Path) -> dict[int, NDArray[np.float64]]:
    """Centroid of every segment from the frames' own positions, with pydicom alone (PS3.3 C.7.6.2.1.1)."""
    seg = pydicom.dcmread(path)
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points: dict[int, list[NDArray[np.float64]]] = {}
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.nonzero(frame)
        place = (
            position
            + columns[:, None] * between_columns * orientation[:3]
            + rows[:, None] * between_rows * orientation[3:]
        )
        where = group if "SegmentIdentificationSequence" in group else shared
        points.setdefault(int(where.SegmentIdentificationSequence[0].ReferencedSegmentNumber), []).append(place)
    return {number: np.concatenate(parts).mean(axis=0) for number, parts in points.items()}


def test_a_misplaced_centre_would_be_noticed(tmp_path: Path) -> None:
    """The comparison above can fail: findings on a mirrored grid put the segment somewhere else."""
    written = write_ct_series(tmp_path / "in", shape=SHAPE, spacing_mm=SPACING, origin_lps_mm=(-4, -4.4, -6))
    series = io.scan(written.folder)[0].series[0]
    volume = io.load(series.stacks[0], series)
    index = np.stack(np.meshgrid(*map(np.arange, volume.geometry.shape), indexing="ij"), axis=-1)
    mask = np.linalg.norm(volume.geometry.index_to_lps_mm(index) - BALLS[1][0], axis=-1) <= 2.0
    findings = findings_on(volume.geometry, [mask[::-1]], stack=series.stacks[0], series_uid=series.series_instance_uid)
    findings = dataclasses.replace(findings, label_map=None)
    write_results(findings, None, tmp_path / "out")
    assert np.abs(_seg_centroids(tmp_path / "out" / "segmentation.dcm")[1] - BALLS[1][0]).max() > 1
