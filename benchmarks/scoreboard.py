"""What mtnet and other readers make of irregular studies, right or wrong by the world position of every voxel.

``python -m benchmarks.scoreboard`` runs every case through every reader and writes ``docs/scoreboard.md``. It ends with
status 1 where mtnet is wrong in silence.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from mtnet.io.dicom_images import IMAGE_KINDS, DicomFrames
from mtnet.io.image_studies import open_dicom_image
from mtnet.io.read import load_from_study
from mtnet.io.scan import scan
from mtnet.io.values import AIR_HU
from mtnet.structures import Image, RefusedError, ReportLine, Volume
from mtnet.structures.study import Series, Stack, Study
from tests.verdict_cases import CASES, Case, outcome, over_ramp

Values = NDArray[Any]
Affine = NDArray[np.float64]

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "scoreboard.md"
DATA = Path(os.environ.get("MTNET_DATA", REPOSITORY.parent / "shared" / "data"))
WRONG = "**wrong in silence**"
MODES = ("default", "repair")

_NO_IMAGE_CODES = {"rescale_type_not_hu", "seg_stored_as_ct", "parametric_map", "not_a_volume"}
_UNKNOWABLE_CODES = {
    "rescale_missing",
    "rescale_invalid",
    "missing_geometry",
    "no_slice_spacing",
    "signedness_mismatch",
}
_LARGEST_FILLED_SHARE = 0.4
_AFFINE_ROUNDING_HU = 0.02
_INTEGER_ROUNDING_HU = 0.5
_MOST_SHOWN = 4

_METHOD = """\
# What becomes of irregular studies

Written by `make scoreboard` ({command}); do not edit.

{versions}

## Synthetic studies

Each case is a small CT study (`tests/verdict_cases.py`) in which a voxel's value tells its world position. A reader is
*right* where every voxel of every volume that it returns holds the value of the place at which the returned affine puts
it, {wrong} where it returns a volume in which one does not, whatever it prints. Values agree within rounding: 0.53 HU,
or 1.1 HU where slices were resampled; 1 mm is 5 HU and more. What a resampling fills outside the scan, and the voxels
beside that, are not judged. Where files claim one position or have no numbers, the answers of other readers can change
with the order of the files on the disk.

- mtnet: `scan` and `load`, as they are and with `--repair`. *repaired* names what was mended, *refused* why nothing is
  returned: the codes of its report. What is repaired is resampled at the true positions, so that it is right as well.
- MONAI's readers: `LoadImage` on the folder with the reader named and no other. SimpleITK: each series of
  `GetGDCMSeriesIDs`, read by `ReadImage`. dcm2niix: every file that it writes. It can write a right file beside
  a wrong one; nothing tells a program which, so that it counts as wrong, with the number of right ones.
- *n of m*: so many of the study's volumes are returned. *padding kept*: only the voxels that the header calls padding
  are off. *guessed right*: the header leaves out or contradicts what the answer needs, and the reader's guess happens
  to fit this case. *taken for CT*: values and places are those in the file, but the header says that they are no image
  in HU.
"""

_REAL = """\
## Real studies

Public folders that trip readers. Their voxels do not tell where they are from, so this table says only what is
returned, in voxels and mm. Some folders are nested; MONAI's readers and SimpleITK look into one folder only.
"""


def rule(case: Case, volumes: Sequence[tuple[Values, Affine]]) -> str:
    """The verdict on the volumes ``(values, affine to LPS)`` that a reader makes of a case."""
    if not volumes:
        return "nothing"
    wanted = case.default or case.repair
    told = [_one_volume(case, values, affine) for values, affine in volumes]
    right = [shift for shift, _ in told if shift in (wanted or (0.0, 100.0))]
    if len(right) < len(told):
        return f"{WRONG} ({len(right)} of {len(told)} right)" if right else WRONG
    if any(kept for _, kept in told):
        return "padding kept"
    if case.codes & _NO_IMAGE_CODES:
        return "taken for CT"
    if case.codes & _UNKNOWABLE_CODES:
        return "guessed right"
    missing = (Counter(wanted or ()) - Counter(right)).total()
    return f"right, {len(wanted) - missing} of {len(wanted)}" if wanted and missing else "right"


def _one_volume(case: Case, values: Values, affine: Affine) -> tuple[float | None, bool]:
    """By how much a volume exceeds the ramp (``None``: it is not the ramp), and whether padding is left in it."""
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3:
        return None, False
    resampled = case.air is None
    off = over_ramp(values, affine)
    shift = float(np.round(np.median(off)))
    bad = np.abs(off - shift) > case.tolerance + _AFFINE_ROUNDING_HU + (_INTEGER_ROUNDING_HU if resampled else 0)
    outside = np.isin(values, (AIR_HU, values.min()) if resampled else AIR_HU)
    if resampled:
        outside = binary_dilation(outside)
    allowed = _LARGEST_FILLED_SHARE * values.size if case.air is None else case.air
    if bad.sum() > allowed:
        return None, False
    if not (bad & ~outside).any():
        return shift, False
    return (None, False) if resampled else (shift, True)


def mtnet_verdict(case: Case, folder: Path, mode: str) -> str:
    """What mtnet makes of a case that is written in ``folder``: right, repaired, refused, or wrong in silence."""
    volumes, lines = outcome(folder, mode)
    refused = _codes(lines, "refused")
    if not volumes:
        return f"refused: {refused}"
    verdict = rule(case, [(volume.array[0], volume.geometry.affine_lps) for volume in volumes])
    repaired = _codes((item for volume in volumes for item in volume.report), "repaired")
    if verdict in ("right", "guessed right") and repaired:
        verdict = f"repaired: {repaired}"
    return f"{verdict}; refused: {refused}" if refused else verdict


def other_verdict(case: Case, folder: Path, reader: Callable[[Path], Sequence[Any]]) -> str:
    """What another reader makes of a case that is written in ``folder``."""
    try:
        told = reader(folder)
    except Exception:
        return "error"
    return rule(case, [(one.values, one.affine_lps) for one in told])


def _codes(lines: Iterable[ReportLine], severity: str) -> str:
    return ", ".join(sorted({item.code for item in lines if item.severity == severity}))


def mtnet_on_real(folder: Path) -> str:
    """What mtnet makes of a real folder: what it returns, and the codes of its report by severity."""
    try:
        studies = scan(folder)
    except RefusedError as error:
        return f"refused: {_codes(error.lines, 'refused')}"
    shown, lines = [], [item for study in studies for item in study.report]
    for study in studies:
        for series in study.series:
            for stack in series.stacks:
                try:
                    for found in _everything_of(study, series, stack):
                        shown.append(_shown(found))
                        lines += found.report
                except RefusedError as error:
                    lines += error.lines
    said = [
        f"{severity}: {codes}" for severity in ("repaired", "refused", "note") if (codes := _codes(lines, severity))
    ]
    return "; ".join([*_shortened(shown), *said])


def _everything_of(study: Study, series: Series, stack: Stack) -> Iterator[Volume | Image | DicomFrames]:
    if stack.kind in IMAGE_KINDS:
        for instance in stack.instances:
            yield open_dicom_image(study, series, stack, instance)
    else:
        yield load_from_study(study, series, stack)


def other_on_real(folder: Path, reader: Callable[[Path], Sequence[Any]]) -> str:
    """What another reader makes of a real folder: shapes and spacings, or the kind of its error."""
    try:
        told = reader(folder)
    except Exception as error:
        return f"error ({type(error).__name__})"
    shown = [_size(one.values.shape, np.linalg.norm(one.affine_lps[:3, :3], axis=0)) for one in told]
    return "; ".join(_shortened(shown)) or "nothing"


def _shown(found: Volume | Image | DicomFrames) -> str:
    if isinstance(found, Volume):
        return _size(found.geometry.shape, found.geometry.spacing_mm)
    frames = (len(found),) if isinstance(found, DicomFrames) else ()
    return _size((*found.shape, *frames), found.spacing_mm or ())


def _size(shape: Iterable[int], spacing_mm: Iterable[float]) -> str:
    size, steps = " × ".join(map(str, shape)), " × ".join(f"{step:.4g}" for step in spacing_mm)
    return f"{size} at {steps}" if steps else size


def _shortened(shown: Sequence[str]) -> list[str]:
    counted = [f"{count} of {what}" if count > 1 else what for what, count in Counter(shown).items()]
    rest = len(counted) - _MOST_SHOWN
    return [*counted[:_MOST_SHOWN], f"and {rest} more"] if rest > 0 else counted


def synthetic_table() -> list[list[str]]:
    """A row of verdicts for every case: mtnet by default and with repair, then every other reader."""
    from benchmarks.readers import READERS

    rows = [["case", "mtnet", "mtnet --repair", *READERS]]
    for case in CASES:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            case.write(folder)
            ours = [mtnet_verdict(case, folder, mode) for mode in MODES]
            rows.append([case.name, *ours, *(other_verdict(case, folder, reader) for reader in READERS.values())])
        print(" | ".join(rows[-1]), file=sys.stderr)
    counts = [sum(row[column].startswith(WRONG) for row in rows[1:]) for column in range(1, len(rows[0]))]
    return [*rows, [f"wrong in silence, of {len(CASES)}", *map(str, counts)]]


def real_table(data: Path) -> list[list[str]]:
    """A row for every folder: what mtnet returns and reports, then what every other reader returns."""
    from benchmarks.readers import READERS

    rows = [["folder", "mtnet", *READERS]]
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        others = (other_on_real(folder, reader) for reader in READERS.values())
        rows.append([folder.name, mtnet_on_real(folder), *others])
        print(" | ".join(rows[-1]), file=sys.stderr)
    return rows


def read_table(page: str) -> list[list[str]]:
    """The synthetic table of a written page, heading first, counts last."""
    text = page.partition("## Synthetic studies")[2].partition("## Real studies")[0]
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines() if row.startswith("|")]
    return [row for row in rows if not row[0].startswith("---")]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "| " + " | ".join(["---"] * len(rows[0])) + " |", *rest, ""])


def main(arguments: list[str] | None = None) -> int:
    """Run all cases, write the page, and say with the status whether mtnet was wrong in silence anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "dicom_robustness", help="folder of real folders")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"There is no folder {options.data.name} of real studies; set MTNET_DATA or give --data.")
    from benchmarks.readers import be_quiet, reader_versions

    be_quiet()
    versions = ", ".join(f"{name} {version}" for name, version in reader_versions().items())
    method = _METHOD.format(command="`python -m benchmarks.scoreboard`", versions=f"{versions}.", wrong=WRONG)
    rows = synthetic_table()
    PAGE.write_text("\n".join([method, _markdown(rows), _REAL, _markdown(real_table(options.data))]))
    wrong = [row[0] for row in rows[1:-1] if WRONG in row[1] or WRONG in row[2]]
    if wrong:
        print(f"mtnet is wrong in silence: {', '.join(wrong)}.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
