"""``mtnet evaluate``: how right a bundle is on the samples of a manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.cli.infer import TTA_HELP, WEIGHTS_HELP
from mtnet.cli.terminal import plain, progress_bar

if TYPE_CHECKING:
    from mtnet.evaluation.records import Evaluated
    from mtnet.evaluation.summary import Scores, Summary
    from mtnet.predictor import Predictor

REPORT_FILE = "report.html"


def add_parser(commands: Any) -> None:
    """Add ``mtnet evaluate`` to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="score a bundle on the samples of a manifest",
        description="Answer every sample of a split as mtnet infer would, and score the answers: metrics.json, "
        "samples.csv, records.json, operating_points.json and report.html.",
        epilog="Example: mtnet evaluate unet_v2_polyp manifest.json OUT --split test. Exit codes: 0 done, 1 refused "
        "with a reason, or done and some samples were refused, 2 wrong usage. Every score's rule: docs/evaluation.md.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle, by name or folder")
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="manifest.json of mtnet prepare")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the results, made where it is missing")
    parser.add_argument("--weights", metavar="FILE", help=WEIGHTS_HELP)
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), default="test", help="samples to score (default: test)"
    )
    parser.add_argument(
        "--compare",
        metavar="OTHER",
        help="another bundle, or the OUT of an earlier run on the same manifest: differences with paired intervals",
    )
    parser.add_argument(
        "--join",
        action="append",
        default=[],
        type=Path,
        metavar="OUT",
        help="count the samples of an earlier run too, one of the folds of a cross-validation; may be repeated",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1... (default: auto)")
    parser.add_argument("--tasks", metavar="A,B", help="tasks to run, such as detection,segmentation (default: all)")
    parser.add_argument("--tta", default="", metavar="AXES", help=TTA_HELP)
    parser.add_argument(
        "--foreign",
        metavar="SOURCE,...",
        default="",
        help="sources of images of another kind: how well the error of the redrawn image tells them",
    )
    parser.add_argument(
        "--allow-outside", action="store_true", help="score also images that the bundle is not made for"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="show the worst masks in the report; they may hold burned-in text"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="with --split val: fit temperatures, and from where on an image is unlike the training data, and store "
        "them with the operating points beside the weights, where every later run applies them",
    )
    parser.add_argument("--trust-bundle", action="store_true", help="let the bundle's config run code of its own")
    parser.add_argument("--json", action="store_true", help="print metrics.json in place of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the files and print the scores."""
    import json

    from mtnet.bundle import Bundle, find_bundle
    from mtnet.evaluation import files
    from mtnet.evaluation.crop_baselines import crop_baselines
    from mtnet.evaluation.pictures import WorstMasks
    from mtnet.evaluation.records import RECORDS_FILE, joined, read_records
    from mtnet.evaluation.run import evaluate, tasks_for
    from mtnet.evaluation.summary import summarise
    from mtnet.predictor import Predictor, ReadOptions
    from mtnet.sources.manifest import read_manifest

    if args.store and (args.split != "val" or args.join or args.tasks or args.tta):
        raise ValueError(
            "--store fits on split val, one run, all tasks and no mirrored images: give --split val, and neither "
            "--join nor --tasks nor --tta."
        )
    manifest = read_manifest(args.manifest)
    folder = find_bundle(args.bundle)
    how: dict[str, Any] = {"device": args.device, "trust_bundle": args.trust_bundle, "mirror": args.tta}
    tasks = args.tasks.split(",") if args.tasks else None
    earlier, rival = None, None
    folds = [read_records(earlier_out / RECORDS_FILE) for earlier_out in args.join]
    if args.compare is not None:
        # Whatever is wrong with it is said before the long part.
        if (Path(args.compare) / RECORDS_FILE).is_file():
            earlier = read_records(Path(args.compare) / RECORDS_FILE)
        else:
            rival = Predictor.from_bundle(find_bundle(args.compare), **how)
    predictor = Predictor.from_bundle(folder, tasks=tasks, weights=args.weights, **how)
    if args.out.exists() and not args.out.is_dir():
        raise NotADirectoryError(f"{args.out} is a file; give a folder for the results.")
    kept = WorstMasks() if args.pictures else None
    features: dict[str, Any] | None = {} if args.store else None
    asked: dict[str, Any] = {
        "foreign": [name for name in args.foreign.split(",") if name],
        "options": ReadOptions(allow_outside=args.allow_outside),
    }
    with progress_bar("sample") as progress:
        evaluated = evaluate(predictor, manifest, args.split, progress=progress, worst=kept, features=features, **asked)
        if rival is not None:
            earlier = evaluate(rival, manifest, args.split, progress=progress, **asked)
    evaluated = joined(evaluated, folds) if folds else evaluated
    baselines = crop_baselines(evaluated, manifest)
    summary = summarise(evaluated, tasks_for(predictor), earlier, baselines)
    document = files.metrics_document(evaluated, summary, manifest)
    written = _write(evaluated, summary, document, args.out, kept.pictures() if kept else {})
    if args.json:
        print(json.dumps(document, indent=1))
    else:
        _print(evaluated, summary)
        print(f"\nwritten to {args.out}: {', '.join(written)}")
    if args.store:
        _store(evaluated, predictor, features, Bundle.read(folder).with_weights(args.weights).weights)
    if REPORT_FILE not in written:
        print("no report.html: its plots need matplotlib; pip install 'mtnet[report]'.", file=sys.stderr)
    for one in evaluated.refused:
        print(plain(f"refused: {one.id}: {one.reason}"), file=sys.stderr)
    return 1 if evaluated.refused else 0


def _write(
    evaluated: Evaluated, summary: Summary, document: dict[str, Any], out: Path, pictures: dict[str, bytes]
) -> list[str]:
    """The names of what was written; without matplotlib there is no report."""
    from importlib.util import find_spec

    from mtnet.evaluation import files
    from mtnet.evaluation.plots import plots_of
    from mtnet.evaluation.records import RECORDS_FILE, write_records
    from mtnet.evaluation.report import write_report
    from mtnet.evaluation.summary import main_samples

    out.mkdir(parents=True, exist_ok=True)
    written = [RECORDS_FILE, files.SAMPLES_FILE, files.POINTS_FILE, files.METRICS_FILE]
    write_records(evaluated, out / RECORDS_FILE)
    files.write_samples(evaluated, out / files.SAMPLES_FILE)
    files.write_operating_points(evaluated, out / files.POINTS_FILE)
    if find_spec("matplotlib") is not None:
        write_report(evaluated, summary, out / REPORT_FILE, plots_of(main_samples(evaluated)), pictures)
        written.append(REPORT_FILE)
    files.write_metrics(document, out / files.METRICS_FILE)
    return written


def _store(evaluated: Evaluated, predictor: Predictor, features: dict[str, Any] | None, weights: Path) -> None:
    from mtnet.evaluation.calibrate import calibration_of
    from mtnet.inference.calibration import write_calibration

    found = calibration_of(evaluated, predictor.network.outputs, features)
    path = write_calibration(found, weights)
    print(f"\nstored beside the weights: {path.name}", file=sys.stderr)
    for name, value in found.temperatures.items():
        told = ", ".join(f"{key} {number:g}" for key, number in found.fitted_on["temperatures"][name].items())
        print(f"temperature of {name}: {value:.3f} ({told})", file=sys.stderr)
    for name, reason in found.fitted_on["without_temperature"].items():
        print(f"no temperature of {name}: {reason}", file=sys.stderr)
    for name, value in found.thresholds.items():
        print(f"unlike the training data by its {name}: above {value:.4g}", file=sys.stderr)


def _print(evaluated: Evaluated, summary: Summary) -> None:
    from mtnet.evaluation.summary import main_samples

    model, main = evaluated.model, main_samples(evaluated)
    print(f"{model.name} {model.version} on {len(main)} samples, split {evaluated.split}")
    for note in evaluated.notes:
        print(plain(note))
    print()
    _print_scores(summary.scores)
    for name, scores in summary.by_source.items():
        print(f"\n{plain(name)} alone")
        _print_scores(scores)
    if summary.with_conflicts:
        aside = len(evaluated.samples) - len(main)
        print(f"\nwith the {aside} image(s) that stand in two classes, which train only")
        _print_scores(summary.with_conflicts)
    for name, baseline in summary.baselines.items():
        print(f"\n{name}: what could be told without looking into the crops")
        _print_scores({metric: one.other for metric, one in baseline.differences.items()})
    for other in (*summary.baselines.values(), *([summary.comparison] if summary.comparison else [])):
        print(
            f"\nless {plain(f'{other.model.name} {other.model.version}'.strip())}, on {other.samples} samples of both"
        )
        _print_scores({name: one.difference for name, one in other.differences.items()})
    refused = len(evaluated.refused)
    if refused:
        print(f"\n{refused} sample(s) were refused and count in no score; see below and metrics.json.")
    print(f"\nIntervals: 95 %, by drawing groups. {model.intended_use}")


def _print_scores(scores: Scores) -> None:
    from mtnet.evaluation.report import score_text

    rows = [("metric", "value (95 % interval)", "n", "groups")]
    rows += [(name, score_text(score), str(score.n), str(score.groups)) for name, score in scores.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
