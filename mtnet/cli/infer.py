"""``mtnet infer``: a study, image or clip in, every answer out, as files."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mtnet.cli.results_table import print_outcome
from mtnet.cli.terminal import progress_bar

FAST_HELP = (
    "no overlap of windows and half precision where the device does it well; on drawn chests and a CPU with bfloat16 "
    "half of the network's time, Dice 0.88 in place of 0.90 (python -m benchmarks.fast_mode --count 2)"
)

WEIGHTS_HELP = (
    "state dict in place of the bundle's own weights: a file, or the name of one that `mtnet bundles` lists under other"
)

TTA_HELP = (
    "test-time augmentation: ask about the image mirrored along these axes too (i, ij, ijk: columns, rows, slices) and "
    "average; boxes are fused; twice the time for each axis. Ultrasound is never upside down: i"
)


def add_parser(commands: Any) -> None:
    """Add ``mtnet infer`` to the command line."""
    parser = commands.add_parser(
        "infer",
        help="find, segment, classify and measure in a study, image or clip",
        description="Answer every study under PATH in one pass of the network and write the results to OUT "
        "(several studies: OUT/1, OUT/2...): findings.json, NIfTI, DICOM SEG and SR, overlay.png and its capture. A "
        "bundle for 2D takes DICOM images (ultrasound, endoscopy, radiographs...), PNG, JPEG, TIFF and BMP, folders of "
        "them, cines and videos: masks are then PNG (of a clip TIFF, with frames.jsonl and overlay.mp4), and measures "
        "are in mm where the image tells the size of a pixel, else in pixels.",
        epilog="Example: mtnet infer STUDY OUT --bundle chest_ct_multitask, then "
        "mtnet infer STUDY OUT2 --bundle res_mtnet_nodule --lesions OUT/findings.json. "
        "Exit codes: 0 all answered, 1 some or all refused, 2 wrong usage, 3 failed unexpectedly.",
    )
    what = (
        "DICOM folder, zip or file; NIfTI, NRRD or MetaImage; picture, video, or a folder of these; or a study or "
        "series on a DICOMweb server, dicomweb+http://HOST/dicom-web/studies/UID[/series/UID], whose credentials are "
        "MTNET_DICOMWEB_USER and MTNET_DICOMWEB_PASSWORD, or MTNET_DICOMWEB_TOKEN, of the environment"
    )
    parser.add_argument("path", metavar="PATH", help=what)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the results, made where it is missing")
    parser.add_argument("--bundle", required=True, metavar="NAME|DIR", help="bundle, by name or folder")
    parser.add_argument("--weights", metavar="FILE", help=WEIGHTS_HELP)
    parser.add_argument("--series", metavar="UID", help="take this series, whatever the series rule says")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1... (default: auto)")
    parser.add_argument("--tasks", metavar="A,B", help="tasks to run, such as detection,segmentation (default: all)")
    parser.add_argument("--fast", action="store_true", help=FAST_HELP)
    parser.add_argument("--tta", default="", metavar="AXES", help=TTA_HELP)
    parser.add_argument(
        "--half", action="store_true", help="half precision where device and runtime do it well, with the usual overlap"
    )
    parser.add_argument(
        "--runtime",
        choices=("eager", "compile", "openvino"),
        default="eager",
        help="what passes windows through the network: torch as it is, torch.compile (needs a C++ compiler; minutes in "
        "the first run), or OpenVINO (CPU, the extra openvino; the fastest on a CPU) (default: eager)",
    )
    parser.add_argument(
        "--memory-limit",
        type=mebibytes,
        metavar="MIB",
        help="of the device's memory that inference may take beyond weights and image; batch and slabs follow it",
    )
    parser.add_argument(
        "--seg",
        choices=("binary", "labelmap"),
        default="binary",
        help="kind of DICOM SEG (default: binary; labelmap is newer than many viewers)",
    )
    parser.add_argument("--no-capture", action="store_true", help="leave out overlay.dcm, the overlay for the archive")
    parser.add_argument(
        "--page", action="store_true", help="also write report.html, a page to look at that needs no network"
    )
    parser.add_argument("--trust-bundle", action="store_true", help="let the bundle's config run code of its own")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--at",
        action="append",
        type=place,
        metavar="X,Y,Z",
        help="place in LPS mm (left, back, up) that a bundle for places is to look at, such as res_mtnet_nodule; "
        "repeatable. Without, it takes a crop and looks at its middle",
    )
    where.add_argument(
        "--lesions",
        type=Path,
        metavar="FINDINGS",
        help="look at the lesions of an earlier run's findings.json; they keep their tracking UIDs",
    )
    # A place may well start with a minus, which argparse takes for an option unless it looks like a number.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--strict", action="store_true", help="refuse what would be repaired or flagged")
    how.add_argument("--repair", action="store_true", help="mend what is refused by default and can be mended")
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="answer and flag what lies outside of the images that the bundle is made for, and would be refused",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer the studies and print a table of what was found."""
    from mtnet.hosts.dicomweb import SCHEMES, parse_study_url

    with ExitStack() as stack:
        path = Path(args.path)
        if args.path.startswith(SCHEMES):
            web, study, series = parse_study_url(args.path)
            args.series = args.series or series
            path = stack.enter_context(web.fetched(study, series))
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give a DICOM folder, zip or file, or an image file.")
        return _answer(path, args)


def _answer(path: Path, args: argparse.Namespace) -> int:
    from mtnet.bundle import find_bundle
    from mtnet.inference.input_check import DOMAIN_CODES
    from mtnet.points import asked
    from mtnet.predictor import Predictor, ReadOptions
    from mtnet.results import check_seg_kind
    from mtnet.study_folder import WriteOptions, answer_studies, check_out

    check_out(path, args.out)
    points = asked(args.at, args.lesions)
    write = WriteOptions(check_seg_kind(args.seg), capture=not args.no_capture, page=args.page)
    predictor = Predictor.from_bundle(
        find_bundle(args.bundle),
        weights=args.weights,
        device=args.device,
        tasks=args.tasks.split(",") if args.tasks else None,
        fast=args.fast,
        half=args.half,
        runtime=args.runtime,
        memory_limit_bytes=args.memory_limit,
        mirror=args.tta,
        trust_bundle=args.trust_bundle,
    )
    if args.strict and args.allow_outside:
        raise ValueError("--strict and --allow-outside are both given: one refuses what the other flags. Give one.")
    options = ReadOptions(
        series_uid=args.series,
        strict=args.strict,
        repair=args.repair,
        allow_outside=args.allow_outside,
        points=points,
    )
    refused = 0
    with progress_bar() as progress:
        for outcome in answer_studies(predictor, path, args.out, options, progress, write):
            refused += outcome.written is None
            print_outcome(outcome)
            if any(line.code in DOMAIN_CODES for line in outcome.refusal):
                print("The bundle is not made for it; --allow-outside answers it all the same.", file=sys.stderr)
    return 1 if refused else 0


def place(text: str) -> tuple[float, ...]:
    """``X,Y,Z`` as three numbers.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is no place; expected X,Y,Z in LPS mm, such as -62.5,110,-240")
    return numbers


def mebibytes(text: str) -> int:
    """Bytes of a number of MiB above 0, for argparse."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of MiB; give 1 or more")
    return count << 20
