"""The scan command: table, JSON, exit codes, and what it never prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mtnet.cli import scan
from mtnet.structures import RefusedError
from tests.builders import write_ct_series


def main(argv: Sequence[str]) -> int:
    """The command alone, as the program calls it."""
    parser = argparse.ArgumentParser()
    scan.add_parser(parser.add_subparsers())
    args = parser.parse_args(argv)
    code: int = args.run(args)
    return code


def test_the_table_names_each_series_with_its_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_ct_series(tmp_path / "a", series="one", series_number=4, drop=(3,))
    two = write_ct_series(tmp_path / "b", series="two", series_number=5, kernel="B70f")
    assert main(["scan", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert one.study_uid in out and one.series_uid in out and two.series_uid in out
    assert "4    volume  CT        B30f    12 x 10 x 7" in out
    assert "repaired: 1 slice(s) are missing" in out and "(missing_slices)" in out
    assert max(map(len, out.splitlines())) < 200


def test_json_holds_kind_shape_spacing_and_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ct_series(tmp_path, drop=(3,))
    (tmp_path / "readme.txt").write_text("foreign")
    assert main(["scan", str(tmp_path), "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    (series,) = study["series"]
    assert [item["code"] for item in study["findings"]] == ["foreign_files"]
    assert (series["kind"], series["shape"], series["files"]) == ("volume", [12, 10, 7], 7)
    assert series["spacing_mm"] == pytest.approx([0.8, 0.8, 2.0])
    (finding,) = series["findings"]
    assert set(finding) == {"code", "severity", "message", "where"}
    assert (finding["code"], finding["severity"], finding["where"]) == ("missing_slices", "repaired", "after 0002.dcm")
    assert series["stacks"][0]["findings"] == [finding]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_patient_data_and_no_description_are_printed_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    write_ct_series(tmp_path, edit=lambda dataset, k: setattr(dataset, "SeriesDescription", "for Mrs Nobody"))
    assert main(["scan", str(tmp_path), *options]) == 0
    out = capsys.readouterr().out
    for secret in ("Nobody", "SECRET-ID", "19000101", "20010203", str(tmp_path)):
        assert secret not in out
    assert main(["scan", str(tmp_path), "--descriptions", *options]) == 0
    assert "for Mrs Nobody" in capsys.readouterr().out


def test_nothing_readable_is_refused_with_code_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("no image")
    with pytest.raises(RefusedError, match="No readable image was found"):
        main(["scan", str(tmp_path)])
    assert main(["scan", str(tmp_path), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [item["code"] for item in findings] == ["nothing_found", "foreign_files"]


def test_wrong_usage_is_code_two() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["scan"])
    assert stopped.value.code == 2


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(tmp_path, drop=(3,), file_name="\x1b[31m{:04d}")
    assert main(["scan", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "?[31m0002" in out


def test_an_image_file_is_listed_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(b"not looked into")
    assert main(["scan", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == ["Study 1: image file ct.nii.gz (volume)"]
