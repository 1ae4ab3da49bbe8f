"""The benchmark of training, on pictures that are small enough to be a test."""

from __future__ import annotations

import json

import pytest

from benchmarks import measure, tables, training
from tests.training.made import write_pictures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_writes_how_many_images_a_second_each_side_learns_from(tmp_path, monkeypatch, capsys):
    for module in (measure, tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    manifest = write_pictures(tmp_path / "pictures", 6)
    asked = [str(manifest), "--size", "32", "--batch", "2", "--steps", "2", "--rounds", "2"]
    training.main([*asked, "--workers", "0", "--decoder", "unet_v2"])
    assert "without workers" in capsys.readouterr().out and not (tmp_path / "results").exists()
    training.main([*asked, "--workers", "0", "1"])
    (file,) = (tmp_path / "results").glob("training--*.json")
    result = json.loads(file.read_text())
    sides = ("monai", "mtnet", "mtnet as configured")
    assert set(result["contenders"]) == {f"{side}, {workers} workers" for side in sides for workers in (0, 1)}
    for name, one in result["contenders"].items():
        assert len(one["seconds"]) == 2 and one["facts"]["images a second"] > 0
        assert len(one.get("cpu_seconds", [])) == (2 if name.endswith("0 workers") else 0)
    assert [(one["limit"], one["at_least"]) for one in result["claims"]] == [(1.0, True)] * 3
    assert "## Training beside a plain loop" in (tmp_path / "RESULTS.md").read_text()
    assert "without workers" in capsys.readouterr().out


def test_each_side_counts_with_its_best_number_of_workers():
    seconds = {"monai, 0 workers": [4.0, 6.0], "monai, 1 workers": [3.0, 5.0], "mtnet, 0 workers": [2.0, 2.5]}
    best, configured = training.claims_of({**seconds, "mtnet as configured, 1 workers": [5.0, 5.0]}, {})
    assert best["value"] == pytest.approx(4.0 / 2.25) and best["reached"]
    assert best["rounds"] == pytest.approx([1.5, 2.0])
    assert configured["value"] == pytest.approx(4.0 / 5.0) and not configured["reached"]
