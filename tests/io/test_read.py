"""From any path to one volume, with files that cannot be read taken into account."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mtnet.io.nifti_out import write_nifti
from mtnet.io.read import read_volume
from mtnet.structures import RefusedError
from tests.builders import write_ct_series


def spoil(path: Path) -> None:
    """Cut the header so that the file still claims to be DICOM and says nothing."""
    path.write_bytes(path.read_bytes()[:200])


def test_a_zip_reads_as_its_folder_does(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "in", shape=(12, 10, 9))
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in written.paths:
            archive.write(path, f"deep/{path.name}")
    one, two = (read_volume(tmp_path / name).volume for name in ("in", "in.zip"))
    np.testing.assert_array_equal(one.array, two.array)
    assert one.geometry.almost_equal(two.geometry, 1e-9)


def test_an_unreadable_file_is_noted_where_no_slice_is_missing(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(12, 10, 9))
    stray = write_ct_series(tmp_path / "stray", shape=(12, 10, 1), series="stray")
    spoil(stray.paths[0])
    reading = read_volume(tmp_path)
    found = {item.code: item.severity for item in reading.volume.report}
    assert found["unreadable_file"] == "note"
    assert reading.volume.geometry.shape == (12, 10, 9)


def test_an_unreadable_file_is_not_bridged_as_if_it_were_missing(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path, shape=(12, 10, 10))
    spoil(written.paths[4])
    with pytest.raises(RefusedError) as caught:
        read_volume(tmp_path)
    assert {item.code for item in caught.value.lines} == {"unreadable_file", "missing_slices"}
    assert any(item.where == written.paths[4].name for item in caught.value.lines)


def test_a_file_that_does_not_say_its_modality_is_read_with_a_note_that_it_was_assumed(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in", shape=(12, 10, 9))
    write_nifti(read_volume(tmp_path / "in").volume, tmp_path / "volume.nii.gz")
    (found,) = read_volume(tmp_path / "volume.nii.gz").volume.report
    assert (found.code, found.severity) == ("modality_assumed", "note")
    assert "CT" in found.message
