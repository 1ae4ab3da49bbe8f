from __future__ import annotations

import json

import jsonschema
import pytest

from benchmarks import done, measure, tables
from benchmarks.measure import claim, compare, in_turns, ratio_claim, tell, write_result

MACHINE = {
    "cpu": "Drawn CPU",
    "cores": 2,
    "threads": 2,
    "memory_gib": 8.0,
    "load_before": 0.1,
    "system": "Linux",
    "python": "3.12",
    "torch": "2.13",
    "monai": "1.6",
    "mtnet": "0.1",
    "date": "2026-01-01",
}


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    for module in (measure, tables, done):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    return tmp_path


def test_a_ratio_is_of_medians_and_its_noise_that_of_single_rounds():
    assert compare([1.0, 2.0, 9.0], [2.0, 4.0, 3.0]) == {
        "ratio_of_medians": pytest.approx(2 / 3),
        "lowest_round": 0.5,
        "highest_round": 3.0,
    }


def test_contenders_take_turns_after_one_run_that_does_not_count():
    order = []
    taken = in_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert "".join(order) == "abc" + "abc" + "bca"
    assert {name: len(times["seconds"]) for name, times in taken.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_claim_says_whether_it_is_reached():
    missed = ratio_claim("slower", [3.0, 3.0], [2.0, 1.0], limit=1.0)
    assert (missed["reached"], missed["rounds"]) == (False, [1.5, 3.0])
    enough = claim("alike", 0.996, 0.995, at_least=True)
    assert tell([missed, enough]).splitlines() == [
        "MISSED   2.000 <= 1 (rounds 1.500 to 3.000)  slower",
        "reached  0.996 >= 0.995  alike",
    ]


def test_a_result_file_fits_the_schema_and_becomes_a_table_and_lines(own_results, capsys):
    claims = [claim("ten boxes", 0.2, 0.5, unit="s"), claim("as good", 0.9, 1.0, at_least=True)]
    contenders = {
        "mtnet": {"seconds": [1.0, 3.0, 2.0], "facts": {"dice": 0.99}},
        "peer": {"seconds": [4.0], "peak_over_base_bytes": [2**20]},
    }
    file = write_result("boxes", {"boxes": 10}, contenders, claims, MACHINE)
    assert file.name == "boxes--drawn-cpu--2-cores--cpu.json"
    tables.write_tables()
    page = (own_results / "RESULTS.md").read_text()
    assert "| mtnet | 2 |  | 0.99 |" in page
    assert "| peer | 4 | 1 |  |" in page
    assert "| ten boxes | 0.2 s | ≤ 0.5 s | reached |" in page
    assert done.main([]) == 1
    told = capsys.readouterr().out
    assert "MISSED   0.900 >= 1  as good" in told
    assert "measured on no GPU yet" in told


def test_a_result_without_what_it_needs_is_not_written(own_results):
    with pytest.raises(jsonschema.ValidationError):
        write_result("boxes", {}, {}, [], {"cpu": "only this"} | {"cores": 1})
    assert not list(own_results.rglob("*.json"))


def test_results_that_are_kept_fit_the_schema():
    schema = json.loads(measure.SCHEMA.read_text())
    for file in (measure.FOLDER / "results").glob("*.json"):
        result = json.loads(file.read_text())
        if "schema" in result:
            jsonschema.validate(result, schema)
