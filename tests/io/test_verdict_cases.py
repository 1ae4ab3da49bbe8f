"""Every row of the verdict table has a case: the right volume at every voxel, or a refusal with the right code.

In each series a voxel's value tells its world position, so a slice that is out of place, swapped or rescaled wrongly
shows. Where nothing was repaired, dcm2niix judges too.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtnet.io.nifti_out import write_nifti
from mtnet.io.verdicts import VERDICTS
from tests.dcm2niix_judge import convert_with_dcm2niix, read_canonical, worst_distance_mm
from tests.verdict_cases import CASES, MODES, Case, Right, excess, outcome


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_the_volume_is_right_at_every_voxel_or_refused_with_its_code(tmp_path: Path, one: Case, mode: str) -> None:
    one.write(tmp_path)
    volumes, lines = outcome(tmp_path, mode)
    found = {item.code for item in lines}
    assert one.codes <= found
    unexpected = {code for code in found if code in VERDICTS and getattr(VERDICTS[code], mode) == "refused"}
    expected: Right | None = getattr(one, mode)
    if expected is None:
        assert not volumes and unexpected
        return
    told = [excess(volume, one.tolerance) for volume in volumes]
    assert sorted(shift for shift, _ in told) == list(expected)
    air = sum(count for _, count in told)
    assert air == one.air if one.air is not None else air < 0.4 * sum(volume.array.size for volume in volumes)


@pytest.mark.parametrize(
    "one", [one for one in CASES if one.judge and one.strict is not None], ids=lambda one: one.name
)
def test_dcm2niix_gives_the_same_volume_where_nothing_was_repaired(tmp_path: Path, one: Case) -> None:
    one.write(tmp_path / "in")
    judged = convert_with_dcm2niix(tmp_path / "in", tmp_path / "judge")
    volumes, _ = outcome(tmp_path / "in", "strict")
    for number, volume in enumerate(volumes):
        write_nifti(volume, tmp_path / f"{number}.nii")
        ours = read_canonical(tmp_path / f"{number}.nii")
        nearest = [judge for judge in judged if worst_distance_mm(ours, judge) < 1e-3]
        assert any(np.array_equal(ours.values, judge.values) for judge in nearest)


def test_every_row_of_the_table_has_a_case_here_or_a_test_elsewhere() -> None:
    covered = Counter(code for one in CASES for code in one.codes)
    here = Path(__file__)
    others = "".join(path.read_text() for path in here.parents[1].rglob("test_*.py") if path != here)
    assert [code for code in VERDICTS if not covered[code] and f'"{code}"' not in others] == []
