from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from mtnet.hosts.batch.summary import check_extra, columns, write_csv, write_parquet
from mtnet.hosts.batch.summary_page import write_page


def row(number: int, state: str = "answered", **more: Any) -> dict[str, Any]:
    return {"id": f"{number:016x}", "item": 1, "state": state, "code": "", "message": "", **more}


TABLE = [
    row(1, lesions=2, best_score=0.5, seconds=3.0, **{"seconds.read": 1.0, "probability.a.b": 0.25}),
    row(2, lesions=0, seconds=30.0, **{"seconds.read": 29.0, "probability.a.b": 0.75}),
    row(3, "refused", code="too_few_slices", message="<script>alert(1)</script>", seconds=0.1),
    row(4, "set_aside", code="time_limit", message="It took more than 5 s."),
]


def test_parquet_and_csv_hold_every_row_with_what_it_lacks_empty(tmp_path: Path) -> None:
    write_parquet(TABLE, tmp_path / "t.parquet")
    write_csv(TABLE, tmp_path / "t.csv")
    read = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert read.column_names == columns(TABLE)
    for wanted, got in zip(TABLE, read.to_pylist(), strict=True):
        assert {key: value for key, value in got.items() if value is not None} == wanted
    with (tmp_path / "t.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["best_score"] for line in lines] == ["0.5", "", "", ""]
    write_parquet([], tmp_path / "none.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_the_page_tells_counts_reasons_distributions_and_the_slowest_and_holds_no_code(tmp_path: Path) -> None:
    write_page(TABLE, tmp_path / "page.html", model="a & b")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "4 studies through a &amp; b" in page and "Research use only" in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "<td>answered</td><td class='number'>2</td>" in page
    assert "<td>set aside</td><td>time_limit</td>" in page
    assert "2 studies, 0 to 2, median 1" in page and "probability.a.b" in page
    slowest = page[page.index("Slowest studies") :]
    assert re.findall(r"0{15}\d", slowest) == [f"{n:016x}" for n in (2, 1, 3)]
    assert "http" not in page and "src=" not in page


def test_a_missing_extra_is_named_before_the_night(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'mtnet\[batch\]'"):
        check_extra()
