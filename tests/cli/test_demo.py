from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from mtnet import phantoms
from mtnet.cli import demo, main
from mtnet.structures import Lesion
from tests.bundles import write_tiny_bundle

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.mark.slow
def test_the_demo_draws_a_study_answers_it_and_shows_both_again_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SPACING_MM", (4.0, 4.0, 5.0))
    monkeypatch.setattr(phantoms, "draw_chest", functools.cache(phantoms.draw_chest))
    bundle = write_tiny_bundle(tmp_path / "tiny", spacing_mm=[12.0, 12.0, 12.0])
    out = tmp_path / "demo"
    for _ in range(2):
        assert main.main(["demo", "--output", str(out), "--bundle", str(bundle)]) == 0
        told = capsys.readouterr().out
        assert "trained on drawn data" in told
        table = told[told.index("drawn      ") :].splitlines()
        assert len([line for line in table[1:] if line.endswith("missed") or "lesion" in line]) == demo.NODULES
        assert f"Look at {out / 'results' / 'overlay.png'}" in told
    document = json.loads((out / "results" / "findings.json").read_text())
    reasons = {choice["reason"] for choice in document["source"]["series_choices"]}
    assert len(document["source"]["series_choices"]) == 3 and len(reasons) > 1, (
        "a localizer and a capture are passed over"
    )
    assert {file["name"] for file in document["files"]} >= {"segmentation.nii.gz", "overlay.png"}


def test_what_no_demo_has_drawn_is_not_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "notes.txt").write_text("mine")
    demo._remove_drawn(study)
    assert (study / "notes.txt").read_text() == "mine"
    (study / "notes.txt").write_text("Drawn by mtnet. No patient.\n")
    demo._remove_drawn(study)
    assert not study.exists()
    demo._remove_drawn(study)


def test_a_bundle_that_is_not_there_is_told_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["demo", "--output", str(tmp_path / "out"), "--bundle", "no-such-bundle"]) == 1
    assert "no-such-bundle" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_lesion_counts_for_the_nodule_in_which_its_centre_lies() -> None:
    class Nodule:
        def __init__(self, centre: tuple[float, float, float]) -> None:
            self.centre_lps_mm, self.diameter_mm, self.texture = centre, 10.0, "part_solid"

    def lesion(number: int, centre: tuple[float, float, float]) -> Lesion:
        return Lesion(number, "nodule", 0.9, (0, 0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 1), centre, "2.25.1")

    drawn = [Nodule((0.0, 0.0, 0.0)), Nodule((50.0, 0.0, 0.0))]
    # The second is within the radius along each axis, but not within the ball.
    found = [lesion(1, (3.0, 0.0, -3.9)), lesion(2, (54.0, 4.0, 4.0))]
    head, first, second = demo._comparison(drawn, found)  # type: ignore[arg-type]
    assert first.endswith("lesion 1") and second.endswith("missed") and "part solid" in first
    assert first.index("lesion") == second.index("missed") == head.index("found")
