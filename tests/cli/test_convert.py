"""``mtnet convert``: right volumes, or refusals with their codes, and nothing half written."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from mtnet.cli import convert
from mtnet.io.values import AIR_HU
from mtnet.structures import Geometry, RefusedError
from tests.builders import ramp_hu, write_ct_series
from tests.dcm2niix_judge import convert_with_dcm2niix, read_canonical, worst_distance_mm
from tests.io.test_load import signed_permutations

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
ROBUSTNESS = DATA / "dicom_robustness"


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *map(str, arguments)])
    code: int = args.run(args)
    return code


def summary(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "convert.json").read_text(encoding="utf-8"))
    return content


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


@pytest.mark.parametrize("index", range(48))
def test_the_nifti_tells_the_place_of_every_voxel_in_every_orientation(tmp_path: Path, index: int) -> None:
    direction = signed_permutations()[index]
    write_ct_series(tmp_path / "in", shape=(6, 5, 4), spacing_mm=(0.8, 0.7, 2.0), direction_lps=direction)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    image = nibabel.load(tmp_path / "out" / "volume-0.nii.gz")
    index_ijk = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"), axis=-1)
    lps = nibabel.affines.apply_affine(image.affine, index_ijk) * np.array([-1, -1, 1])
    np.testing.assert_allclose(np.asarray(image.dataobj), ramp_hu(lps), atol=0.52)


def test_each_volume_has_its_report_beside_it_and_its_line_in_the_summary(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in" / "a", shape=(6, 5, 9), drop=(4,), series="a", kernel="B30f")
    write_ct_series(tmp_path / "in" / "b", shape=(6, 5, 9), rescale=None, series="b", series_number=2)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["convert.json", "volume-0.json", "volume-0.nii.gz"]
    one, two = summary(tmp_path / "out")["series"]
    assert (one["file"], one["report"], one["refusals"]) == ("volume-0.nii.gz", "volume-0.json", [])
    assert two["file"] is None
    assert [item["code"] for item in two["refusals"]] == ["rescale_missing"]
    report = json.loads((tmp_path / "out" / "volume-0.json").read_text())
    assert report["series_instance_uid"] == one["series_instance_uid"]
    assert "missing_slices" in [item["code"] for item in report["report"] if item["severity"] == "repaired"]
    assert report["shape"] == [6, 5, 9]
    image = nibabel.load(tmp_path / "out" / "volume-0.nii.gz")
    geometry = Geometry(tuple(report["shape"]), np.array(report["affine_lps"]))
    np.testing.assert_allclose(image.affine, geometry.affine_ras, atol=1e-4)


def test_nothing_that_is_written_or_printed_names_the_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(tmp_path / "in", shape=(6, 5, 9), drop=(4,))
    run(tmp_path / "in", tmp_path / "out")
    printed = capsys.readouterr()
    texts = [printed.out, printed.err, *(path.read_text() for path in (tmp_path / "out").glob("*.json"))]
    for secret in ("Nobody", "SECRET-ID", "20010203", "19000101"):
        assert not any(secret in text for text in texts)


def test_modes_change_what_is_written(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in", shape=(6, 5, 9), drop=(4,))
    assert run(tmp_path / "in", tmp_path / "strict", "--strict") == 1
    assert names(tmp_path / "strict") == ["convert.json"]
    write_ct_series(tmp_path / "plain", shape=(6, 5, 9), rescale=None)
    assert run(tmp_path / "plain", tmp_path / "default") == 1
    assert run(tmp_path / "plain", tmp_path / "repair", "--repair") == 0
    assert summary(tmp_path / "repair")["series"][0]["repaired"] is True


def test_one_series_is_taken_by_uid_and_an_unknown_uid_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in" / "a", shape=(6, 5, 4), series="a")
    wanted = write_ct_series(tmp_path / "in" / "b", shape=(7, 5, 4), series="b")
    assert run(tmp_path / "in", tmp_path / "out", "--series", wanted.series_uid) == 0
    (entry,) = summary(tmp_path / "out")["series"]
    assert (entry["series_instance_uid"], entry["shape"]) == (wanted.series_uid, [7, 5, 4])
    with pytest.raises(RefusedError, match="series_not_found"):
        run(tmp_path / "in", tmp_path / "out", "--series", "1.2.3")
    assert names(tmp_path / "out") == ["convert.json"]
    assert [item["code"] for item in summary(tmp_path / "out")["refusals"]] == ["series_not_found"]


def test_a_second_run_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in" / "a", shape=(6, 5, 4), series="a")
    write_ct_series(tmp_path / "in" / "b", shape=(6, 5, 4), series="b")
    write_ct_series(tmp_path / "less", shape=(6, 5, 4), series="c")
    out = tmp_path / "out"
    run(tmp_path / "in", out)
    (out / ".volume-1.tmp-0badc0de.nii.gz").write_bytes(b"half")
    (out / "notes.txt").write_text("mine")
    assert len(names(out)) == 7
    run(tmp_path / "less", out)
    assert names(out) == ["convert.json", "notes.txt", "volume-0.json", "volume-0.nii.gz"]


@pytest.mark.parametrize("name", ["volume-0.nii.gz", "volume-3.json", "convert.json"])
def test_files_of_others_are_not_overwritten(tmp_path: Path, name: str) -> None:
    write_ct_series(tmp_path / "in", shape=(6, 5, 4))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("[1]")
    with pytest.raises(ValueError, match="not written by mtnet convert"):
        run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "[1]"
    assert names(tmp_path / "out") == [name]


def test_the_input_folder_and_a_file_are_no_place_to_write_to(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in", shape=(6, 5, 4))
    with pytest.raises(ValueError, match="input itself"):
        run(tmp_path / "in", tmp_path / "in")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        run(tmp_path / "in", tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_and_image_files_come_in_too(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path / "in", shape=(6, 5, 4))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in written.paths:
            archive.write(path, path.name)
    assert run(tmp_path / "in.zip", tmp_path / "zip") == run(tmp_path / "in", tmp_path / "folder") == 0
    one, two = ((tmp_path / name / "volume-0.nii.gz").read_bytes() for name in ("zip", "folder"))
    assert one == two
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((4, 5, 6), np.int16)), str(tmp_path / "images" / "a.mha"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((5, 6), np.int16)), str(tmp_path / "images" / "b.nrrd"))
    assert run(tmp_path / "images", tmp_path / "out") == 0
    good, bad = summary(tmp_path / "out")["series"]
    assert (good["image_file"], good["file"]) == ("a.mha", "volume-0.nii.gz")
    assert [item["code"] for item in bad["refusals"]] == ["not_three_dimensional"]


@pytest.mark.parametrize("delay_ms", [0, 15, 40])
def test_a_process_killed_while_converting_leaves_whole_files_only(tmp_path: Path, delay_ms: int) -> None:
    """Killed at several moments after the first temporary file appears; the next run clears up."""
    for name in "abcdef":
        write_ct_series(tmp_path / "in" / name, shape=(256, 256, 6), series=name, values=lambda p: p[..., 0] * 0 + 1)
    out = tmp_path / "out"
    code = (
        "import sys, argparse\nfrom mtnet.cli import convert\np = argparse.ArgumentParser()\n"
        "convert.add_parser(p.add_subparsers())\na = p.parse_args(['convert', *sys.argv[1:]])\na.run(a)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(out)], stdout=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + 60
        while not (out.is_dir() and any(out.iterdir())) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    whole = [path for path in out.iterdir() if not path.name.startswith(".")]
    for path in whole:
        if path.suffix == ".json":
            assert json.loads(path.read_text())["written_by"] == "mtnet convert"
        else:
            assert np.asarray(nibabel.load(path).dataobj).shape == (256, 256, 6)
    if (out / "convert.json").exists():
        assert len(whole) == 13
    assert run(tmp_path / "in", out) == 0
    assert names(out) == ["convert.json", *(f"volume-{k}.{end}" for k in range(6) for end in ("json", "nii.gz"))]


# Volumes, refusals, 2D images, frames of cines.
FOLDERS: dict[str, tuple[int, set[str], int, int]] = {
    "broken_files": (0, {"not_a_volume", "unreadable_file", "truncated_pixels", "single_slice"}, 0, 0),
    "cr_chest_monochrome1_j2k": (0, set(), 1, 0),
    "ct_chest_duplicates": (1, set(), 0, 0),
    "ct_chest_missing_slices": (1, set(), 0, 0),
    "ct_chest_overlapping": (1, set(), 0, 0),
    "ct_chest_reformats_two_vendors": (6, set(), 0, 0),
    "ct_chest_single_slice": (1, set(), 0, 0),
    "ct_chest_transfer_syntaxes": (0, {"different_pixels_at_one_position", "eight_bit_ct"}, 0, 0),
    "ct_enhanced_multiframe": (0, {"parametric_map"}, 0, 0),
    "ct_gap_ge": (0, {"missing_slices_wide_gap"}, 0, 0),
    "ct_j2k_sign_mismatch": (0, {"signedness_mismatch"}, 0, 0),
    "ct_legacy_converted_multiframe": (0, {"not_a_volume", "rescale_type_not_hu"}, 0, 0),
    "ct_localizer_kernels_dose_philips": (2, {"not_a_volume"}, 3, 0),
    "ct_reformat_sagittal_non_square": (1, set(), 0, 0),
    "ct_same_position": (0, {"different_pixels_at_one_position"}, 0, 0),
    "ct_tilt_philips_minus18": (1, {"not_a_volume"}, 0, 0),
    "ct_tilt_variable_spacing_ge": (0, {"variable_spacing_wide_gap"}, 0, 0),
    "ct_two_studies_one_folder": (2, set(), 0, 0),
    "ct_with_dicom_seg": (1, {"not_a_volume"}, 0, 0),
    "mr_enhanced_siemens": (4, set(), 0, 0),
    "mr_jpeg_lossless_fragments": (1, set(), 0, 0),
    "mr_two_orientations": (2, set(), 0, 0),
    "seg_stored_as_ct": (0, {"seg_stored_as_ct"}, 0, 0),
    "us_multiframe_ybr422": (0, set(), 0, 30),
    "us_palette_multiframe": (0, set(), 0, 2),
    "us_ybr422_uncompressed": (0, set(), 1, 0),
}


@pytest.mark.study
def test_every_robustness_folder_is_in_the_table() -> None:
    assert {path.name for path in ROBUSTNESS.iterdir() if path.is_dir()} == set(FOLDERS)


@pytest.mark.study
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_robustness_folder_gives_dcm2niixs_volume_or_the_expected_refusal(tmp_path: Path, name: str) -> None:
    expected, codes, images, frames = FOLDERS[name]
    assert run(ROBUSTNESS / name, tmp_path / "out") == (0 if expected or images or frames else 1)
    entries = summary(tmp_path / "out")["series"]
    assert len([*(tmp_path / "out").glob("image-*.png"), *(tmp_path / "out").glob("image-*.tif")]) == images
    assert len(list((tmp_path / "out").glob("cine-*/frame-*.png"))) == frames
    written = [entry for entry in entries if (entry["file"] or "").startswith("volume")]
    assert len(written) == expected == len(list((tmp_path / "out").glob("volume-*.nii.gz")))
    assert {item["code"] for entry in entries for item in entry["refusals"]} == codes
    assert all(entry["refusals"] for entry in entries if not entry["file"])
    exact = [entry for entry in written if not entry["repaired"]]
    if not exact:
        return
    judged = convert_with_dcm2niix(ROBUSTNESS / name, tmp_path / "judge")
    for entry in exact:
        ours = read_canonical(tmp_path / "out" / entry["file"])
        nearest = [judge for judge in judged if worst_distance_mm(ours, judge) < 1e-3]
        assert nearest, f"dcm2niix has no volume on the grid of {entry['file']}"
        padded = ours.values == AIR_HU
        assert any(
            np.array_equal(ours.values[~padded], judge.values[~padded]) and (judge.values[padded] <= AIR_HU).all()
            for judge in nearest
        )
        assert not padded.all()


@pytest.mark.study
@pytest.mark.parametrize("name", ["ct_gap_ge", "ct_tilt_variable_spacing_ge"])
def test_wide_gaps_are_mended_under_repair(tmp_path: Path, name: str) -> None:
    assert run(ROBUSTNESS / name, tmp_path / "out", "--repair") == 0
    (entry,) = summary(tmp_path / "out")["series"]
    assert entry["repaired"]
    geometry = Geometry(tuple(entry["shape"]), np.array(entry["affine_lps"]))
    assert geometry.is_orthogonal()
