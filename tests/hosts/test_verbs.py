"""Every verb of MONAI's command on every bundle, from another folder (``make verbs`` makes the table).

The verbs of one process share one here, each with its own command line, so that torch and MONAI load once a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.verbs import PAGE, SMALL, cells_of, commands, failure, prepared, run_verb, with_cells

TWO = "train, two processes"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SMALL])
def test_every_verb_works_on_the_bundle_from_another_folder(name: str, tmp_path: Path) -> None:
    place = prepared(name, tmp_path)
    asked = commands(place)
    together = {verb: arguments for verb, arguments in asked.items() if verb != TWO}
    (tmp_path / "commands.json").write_text(json.dumps(together), encoding="utf-8")
    session = ["-m", "tests.hosts.verb_session", str(tmp_path / "commands.json"), str(tmp_path / "results.json")]
    status, said = run_verb(place, session)
    assert status == 0, said
    told = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    told[TWO] = run_verb(place, asked[TWO])
    assert {verb: failure(place, verb, *told[verb]) for verb in asked} == dict.fromkeys(asked, "")


def test_the_page_s_table_is_whole_and_green(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    cells = cells_of(page)
    assert list(cells) == list(SMALL)
    verbs = list(commands(prepared("unet_v2_polyp", tmp_path)))
    assert [list(column) for column in cells.values()] == [verbs] * len(SMALL)
    assert {cell for column in cells.values() for cell in column.values()} == {"yes", "up to the missing GPU"}
    assert with_cells(page, cells) == page, "a column that is made anew leaves the others as they are"
