"""``mtnet demo``: the main job on a drawn chest CT study, with the truth beside the answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.phantoms.nodules import DrawnNodule
    from mtnet.structures import Lesion

SEED = 7
NODULES = 8
SPACING_MM = (1.2, 1.2, 2.0)


def add_parser(commands: Any) -> None:
    """Add ``mtnet demo`` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="the main job on a drawn study",
        description="Draw a chest CT study with nodules as DICOM (with a localizer and a secondary capture in it), run "
        "mtnet infer on it and show what was drawn beside what was found. A study that an earlier demo drew there is "
        "drawn anew.",
        epilog="Example: mtnet demo --output out/demo",
    )
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: out/demo)")
    parser.add_argument("--bundle", default="chest_ct_multitask", metavar="NAME|DIR", help="bundle to run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw, write, answer, compare.

    Raises:
        FileExistsError: the place for the study holds something that no demo has drawn.
        BundleError: there is no such bundle.
    """
    from mtnet.bundle import find_bundle
    from mtnet.cli.results_table import print_outcome
    from mtnet.cli.terminal import progress_bar
    from mtnet.phantoms import draw_chest
    from mtnet.phantoms.dicom import write_study
    from mtnet.predictor import Predictor
    from mtnet.study_folder import answer_studies

    predictor = Predictor.from_bundle(find_bundle(args.bundle))
    study, results = args.output / "study", args.output / "results"
    print(f"Drawing a chest CT with {NODULES} nodules and writing it as DICOM to {study} ...")
    phantom = draw_chest(SEED, family="held_out", spacing_mm=SPACING_MM, nodules=NODULES)
    _remove_drawn(study)
    write_study(phantom, study)
    with progress_bar() as progress:
        (outcome,) = answer_studies(predictor, study, results, progress=progress)
    print_outcome(outcome)
    if outcome.written is None:
        return 1
    print("\n".join(["", *_comparison(phantom.lesions, outcome.written.findings.lesions)]))
    print(f"\nLook at {results / 'overlay.png'}")
    return 0


def _remove_drawn(study: Path) -> None:
    """Remove a study that was drawn there; anything else stays, and writing will refuse the folder."""
    import shutil

    from mtnet.phantoms.dicom import NOTE, NOTE_NAME

    note = study / NOTE_NAME
    if note.is_file() and note.read_text(encoding="utf-8", errors="replace") == NOTE:
        shutil.rmtree(study)


def _comparison(drawn: Sequence[DrawnNodule], found: Sequence[Lesion]) -> Iterator[str]:
    """A line for each drawn nodule: what it is, where it is, and the best lesion whose centre lies in it."""
    yield f"{'drawn':53}found"
    for one in drawn:
        inside = [
            lesion.number
            for lesion in found
            if sum((a - b) ** 2 for a, b in zip(lesion.centre_lps_mm, one.centre_lps_mm, strict=True))
            <= (one.diameter_mm / 2) ** 2
        ]
        place = " ".join(f"{v:7.1f}" for v in one.centre_lps_mm)
        kind = f"{one.diameter_mm:5.1f} mm {one.texture.replace('_', ' ')}"
        yield f"{kind:22} at {place}    {f'lesion {inside[0]}' if inside else 'missed'}"
