from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtnet.results import SegOutcome, findings_to_dict, read_findings_json, write_findings_json
from mtnet.results.findings_json import NO_DICOM, schema
from mtnet.structures import Findings, Geometry, ImageClass, Measured, ModelInfo
from tests.results.samples import LABELS, ball, findings_on, lesion_of, measured_at_given_places


@pytest.fixture
def findings() -> Findings:
    geometry = Geometry.from_parts((20, 18, 12), (0.8417968751, 0.8417968751, 2.5), (-7.123456789, 3.0, -100.0))
    middle = geometry.index_to_lps_mm([8, 9, 6])
    return findings_on(geometry, [ball(geometry, middle, 4.0), ball(geometry, np.add(middle, [6, 3, 8]), 2.5)])


def _plain(findings: Findings) -> dict[str, Any]:
    """The findings as comparable values: without volumes and headers, the geometry as numbers."""
    fields = {f.name: getattr(findings, f.name) for f in dataclasses.fields(findings)}
    fields["geometry"] = (findings.geometry.shape, findings.geometry.affine_lps.tolist())
    fields["source"] = dataclasses.replace(findings.source, series=None, stack=None)
    for name in ("label_map", "lesion_map", "reconstruction"):
        del fields[name]
    return fields


def test_reading_back_what_was_read_once_gives_the_same_findings_and_the_same_bytes(
    findings: Findings, tmp_path: Path
) -> None:
    write_findings_json(findings, tmp_path / "a.json")
    once = read_findings_json(tmp_path / "a.json")
    write_findings_json(once, tmp_path / "b.json")
    assert _plain(read_findings_json(tmp_path / "b.json")) == _plain(once)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_everything_but_volumes_and_headers_comes_back(findings: Findings, tmp_path: Path) -> None:
    write_findings_json(findings, tmp_path / "findings.json")
    back = read_findings_json(tmp_path / "findings.json")
    assert back.label_map is None and back.lesion_map is None and back.reconstruction is None
    assert back.source.series is None and back.source.stack is None
    wanted, got = _plain(findings), _plain(back)
    lesions, lesions_back = wanted.pop("lesions"), got.pop("lesions")
    assert got == wanted
    for lesion, other in zip(lesions, lesions_back, strict=True):
        for field in dataclasses.fields(lesion):
            value, read = getattr(lesion, field.name), getattr(other, field.name)
            if isinstance(value, (float, tuple)):
                np.testing.assert_allclose(read, value, rtol=0, atol=5.01e-5)
            elif isinstance(value, dict) and field.name == "measures":
                assert read == pytest.approx(value, abs=1e-6)
            else:
                assert read == value


def test_places_in_the_document_are_true_to_a_ten_thousandth(findings: Findings) -> None:
    document = findings_to_dict(findings)
    grid = Geometry(tuple(document["grid"]["shape_ijk"]), document["grid"]["affine_lps_mm"])
    assert np.array_equal(grid.affine_lps, findings.geometry.affine_lps)
    for lesion in document["lesions"]:
        moved = grid.box_index_to_lps_mm(lesion["box_index"])
        np.testing.assert_allclose(moved, lesion["box_lps_mm"], rtol=0, atol=5e-4)


def test_rounding_never_moves_a_class_over_its_threshold(findings: Findings, tmp_path: Path) -> None:
    close = ImageClass("findings", "nodule", math.nextafter(0.5, 0.0), 0.5)
    write_findings_json(dataclasses.replace(findings, image_classes=(close,)), tmp_path / "findings.json")
    assert not read_findings_json(tmp_path / "findings.json").image_classes[0].present


def test_a_lesion_without_mask_says_so_with_null(findings: Findings) -> None:
    bare = dataclasses.replace(
        findings.lesions[0],
        mask_voxels=0,
        volume_mm3=None,
        longest_axial_diameter_mm=None,
        short_axial_diameter_mm=None,
    )
    written = findings_to_dict(dataclasses.replace(findings, lesions=(bare,)))["lesions"][0]
    assert written["mask_component"] is None and written["volume_mm3"] is None
    assert findings_to_dict(findings)["lesions"][1]["mask_component"] == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_key_and_nothing_is_written(
    findings: Findings, tmp_path: Path, bad: float
) -> None:
    broken = dataclasses.replace(
        findings, lesions=(findings.lesions[0], dataclasses.replace(findings.lesions[1], volume_mm3=bad))
    )
    with pytest.raises(ValueError, match=r"lesions\[1\]\.volume_mm3"):
        write_findings_json(broken, tmp_path / "findings.json")
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_the_schema_is_refused_by_its_key(findings: Findings, tmp_path: Path) -> None:
    broken = dataclasses.replace(findings, model=ModelInfo("a", "1", "not a hash", "drawn data"))
    with pytest.raises(ValueError, match=r"model\.weights_sha256"):
        write_findings_json(broken, tmp_path / "findings.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version="9.9"), "schema_version '9.9'"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d["lesions"][0].update(score=1.5), r"lesions\[0\]\.score"),
        (lambda d: d["lesions"][0].pop("box_index"), "box_index"),
        (lambda d: d["grid"]["affine_lps_mm"].pop(), r"grid\.affine_lps_mm"),
    ],
)
def test_a_document_of_another_form_is_not_read(findings: Findings, tmp_path: Path, change: Any, message: str) -> None:
    document = findings_to_dict(findings)
    change(document)
    (tmp_path / "findings.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        read_findings_json(tmp_path / "findings.json")


def test_a_file_that_is_no_json_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"findings\.json is not JSON"):
        read_findings_json(tmp_path / "findings.json")


def test_the_schema_is_draft_07_and_describes_every_key() -> None:
    from jsonschema import Draft7Validator

    document = schema()
    assert document["$schema"] == "http://json-schema.org/draft-07/schema#"
    Draft7Validator.check_schema(document)
    checked = 0

    def walk(node: dict[str, Any], key: str) -> None:
        nonlocal checked
        if "properties" in node:
            assert node["additionalProperties"] is False, key
            for name, inner in node["properties"].items():
                checked += 1
                assert inner.get("description"), f"{key}.{name} has no description"
                walk(inner, f"{key}.{name}")
        for part in ("items", "additionalProperties"):
            if isinstance(node.get(part), dict):
                walk(node[part], f"{key}.{part}")

    walk(document, "findings")
    assert checked > 60


def test_a_dimensional_key_carries_its_unit(findings: Findings) -> None:
    text = json.dumps(findings_to_dict(findings))
    for bare in ('"volume":', '"diameter":', '"spacing":', '"box":', '"centre":', '"peak_memory":'):
        assert bare not in text


def test_the_seg_outcome_and_the_files_stand_in_the_document(findings: Findings, tmp_path: Path) -> None:
    write_findings_json(
        findings,
        tmp_path / "findings.json",
        dicom=dataclasses.replace(NO_DICOM, seg=SegOutcome(True, "", (2, 1))),
        files={"segmentation.dcm": "0" * 64, "overlay.png": ""},
    )
    document = json.loads((tmp_path / "findings.json").read_text())
    assert document["dicom_seg"]["segments"] == [
        {"segment_number": 1, "lesion_number": 2},
        {"segment_number": 2, "lesion_number": 1},
    ]
    assert document["files"] == [{"name": "segmentation.dcm", "sha256": "0" * 64}, {"name": "overlay.png"}]
    assert document["notice"] == "Research use only. Trained on drawn data. Not a medical device."
    assert document["labels"][1]["code"]["value"] == LABELS[1].code.value


def test_findings_are_read_without_torch(findings: Findings, tmp_path: Path) -> None:
    write_findings_json(findings, tmp_path / "findings.json")
    code = (
        "import sys; from mtnet.results import read_findings_json; from pathlib import Path;"
        "assert len(read_findings_json(Path(sys.argv[1])).lesions) == 2;"
        "print([m for m in ('torch', 'monai', 'pydicom', 'highdicom', 'nibabel', 'itk') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "findings.json")], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_lesion_of_one_voxel_survives(tmp_path: Path) -> None:
    geometry = Geometry.from_parts((5, 5, 5), (1, 1, 1))
    mask = np.zeros(geometry.shape, bool)
    mask[2, 3, 4] = True
    findings = dataclasses.replace(findings_on(geometry, [mask]), lesions=(lesion_of(1, mask, geometry, 1.0),))
    write_findings_json(findings, tmp_path / "findings.json")
    assert read_findings_json(tmp_path / "findings.json").lesions[0].centre_lps_mm == (2.0, 3.0, 4.0)


def test_what_an_outside_kind_decodes_to_comes_back_and_alone_needs_the_newest_schema(
    findings: Findings, tmp_path: Path
) -> None:
    told = dataclasses.replace(findings, extras={"marks": [{"label": "carina", "centre_index": [3.5, 4.0, 5.0]}]})
    write_findings_json(told, tmp_path / "findings.json")
    assert read_findings_json(tmp_path / "findings.json").extras == told.extras
    assert json.loads((tmp_path / "findings.json").read_text())["schema_version"] == "1.3"
    assert "extras" not in findings_to_dict(findings) and findings_to_dict(findings)["schema_version"] == "1.1"


def test_measured_values_and_given_places_come_back_from_a_document_of_their_own_version(
    findings: Findings, tmp_path: Path
) -> None:
    assert findings_to_dict(findings)["schema_version"] == "1.1"
    write_findings_json(measured_at_given_places(findings), tmp_path / "findings.json")
    document = json.loads((tmp_path / "findings.json").read_text())
    assert document["schema_version"] == "1.3"
    assert document["measured"] == {"mean_hu": {"value": -80.5, "units": "HU", "sd": None}}
    for lesion in document["lesions"]:
        assert lesion["score"] is None and lesion["place_given"] is lesion["mask_drawn"] is True
        assert lesion["volume_mm3"] is None and lesion["longest_axial_diameter_mm"] is None
        assert lesion["measured"]["diameter_mm"] == {"value": 8.25, "units": "mm", "sd": 1.5}
    back = read_findings_json(tmp_path / "findings.json")
    assert back.measured == {"mean_hu": Measured(-80.5, "HU")}
    assert [lesion.measured for lesion in back.lesions] == [
        lesion.measured for lesion in measured_at_given_places(findings).lesions
    ]
    assert all(lesion.place_given and lesion.mask_drawn and lesion.score == 1.0 for lesion in back.lesions)


def test_nobody_passes_off_the_size_of_a_drawn_mask_as_measured(findings: Findings) -> None:
    drawn = measured_at_given_places(findings).lesions[0]
    for size in ("volume_mm3", "longest_axial_diameter_mm"):
        with pytest.raises(ValueError, match="drawn mask"):
            dataclasses.replace(drawn, **{size: 12.0})
