"""The benchmark of the systems, on images that are small enough to be a test."""

from __future__ import annotations

import json

import pytest

from benchmarks import measure, systems, tables
from benchmarks.systems import Raced, Sharing, gmac
from mtnet.systems import res_mtnet


@pytest.mark.slow
def test_it_writes_ratios_and_rates_with_their_goals(tmp_path, monkeypatch, capsys):
    for module in (measure, tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(systems, "SHARED", {"chest CT, compact, 2D": Sharing("compact", (32, 32))})
    monkeypatch.setattr(systems, "RACED", {"Res-MTNet": Raced(res_mtnet.network, (3, 64, 64), "resnet18")})
    systems.main(["--rounds", "2"])
    (file,) = (tmp_path / "results").glob("systems--*.json")
    result = json.loads(file.read_text())
    told = {one["says"].rpartition(", ")[::2]: one for one in result["claims"]}
    assert len(told) == 4 and {one["limit"] for one in told.values()} == {1.75, 0.6}
    assert told["chest CT, compact, 2D: four tasks to four networks", "GMAC"]["reached"]
    race = result["contenders"]["Res-MTNet"]["facts"]
    assert race["a_second"] > 0 and "(" in race["time to smp's (rounds)"]
    assert race["GMAC"] == pytest.approx(gmac(res_mtnet.network, (3, 64, 64)))
    page = (tmp_path / "RESULTS.md").read_text()
    assert "smp U-Net of resnet18" in page and "to be reached" in page
    assert "four tasks to four networks, GMAC" in capsys.readouterr().out


def test_the_published_work_of_the_systems_is_what_their_papers_and_smp_take():
    work = {name: gmac(raced.make, raced.image) for name, raced in systems.RACED.items()}
    assert work["chest CT, compact, 3D"] == pytest.approx(10.291544)
    # The finest answer alone; with all four it is the 10.912667 of the authors' code.
    assert work["U-Net v2, published"] == pytest.approx(10.912586)
