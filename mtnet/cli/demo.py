"""``mtnet demo``: the main job on a drawn chest CT study, with the truth beside the answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SEED = 7
NODULES = 8
SPACING_MM = (1.2, 1.2, 2.0)


def add_parser(commands: Any) -> None:
    """Add ``mtnet demo`` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="the main job on a drawn study",
        description="Draw a chest CT study with nodules as DICOM (with a localizer and a secondary capture in it), run "
        "mtnet infer on it and show what was drawn beside what was found.",
        epilog="Example: mtnet demo --output out/demo",
    )
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: out/demo)")
    parser.add_argument("--bundle", default="chest_ct_multitask", metavar="NAME|DIR", help="bundle to run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw, write, answer, compare."""
    from mtnet.bundle import find_bundle
    from mtnet.cli.infer import progress_bar
    from mtnet.cli.results_table import print_outcome
    from mtnet.phantoms import draw_chest
    from mtnet.phantoms.dicom import write_study
    from mtnet.predictor import Predictor
    from mtnet.study_folder import answer_studies

    bundle = find_bundle(args.bundle)
    study = args.output / "study"
    print(f"Drawing a chest CT with {NODULES} nodules and writing it as DICOM to {study} ...")
    phantom = draw_chest(SEED, family="held_out", spacing_mm=SPACING_MM, nodules=NODULES)
    write_study(phantom, study)
    predictor = Predictor.from_bundle(bundle)
    with progress_bar() as progress:
        outcomes = list(answer_studies(predictor, study, args.output / "results", progress=progress))
    for outcome in outcomes:
        print_outcome(outcome)

    found = [lesion for outcome in outcomes if outcome.written for lesion in outcome.written.findings.lesions]
    print("\ndrawn                                             found")
    for drawn in phantom.lesions:
        inside = [
            lesion.number
            for lesion in found
            if all(
                abs(a - b) <= drawn.diameter_mm / 2
                for a, b in zip(lesion.centre_lps_mm, drawn.centre_lps_mm, strict=True)
            )
        ]
        place = " ".join(f"{v:7.1f}" for v in drawn.centre_lps_mm)
        kind = f"{drawn.diameter_mm:5.1f} mm {drawn.texture.replace('_', ' ')}"
        print(f"{kind:22} at {place}   {'lesion ' + str(inside[0]) if inside else 'missed'}")
    print(f"\nLook at {args.output / 'results' / 'overlay.png'}")
    return 0 if any(outcome.written for outcome in outcomes) else 1
