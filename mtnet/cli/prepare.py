"""``mtnet prepare``: a public set, or a folder of one's own, to one manifest."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.cli.terminal import plain

if TYPE_CHECKING:
    from mtnet.sources.manifest import Manifest
    from mtnet.sources.prepare import Prepared

SOURCES = (
    "busi",
    "kvasir_seg",
    "endotect",
    "polyp_folder",
    "isic2018",
    "lidc_voi",
    "luna16",
    "lung_pet_ct_dx",
    "chest_ct_nifti",
    "composed_ct",
    "phantom",
    "folder",
)
_TERMS = ("free", "non_commercial", "research_only", "unknown")


def add_parser(commands: Any) -> None:
    """Add ``mtnet prepare`` to the command line."""
    parser = commands.add_parser(
        "prepare",
        help="turn a set of images into one manifest for training and evaluation",
        description="Look at every file of a set in its official layout and write one manifest: samples with patient "
        "or group, targets, split, source and licence. A group goes to the fold that the SHA-256 of <source>:<group> "
        "modulo 5 tells; fold 0 tests, fold 1 validates. Groups are those of groups.csv where there is one, patients "
        "where they are known, else images that look alike. docs/data.md has every layout.",
        epilog="Example: mtnet prepare busi $MTNET_DATA/BUSI --out out/busi.json. Exit codes: 0 written, 1 the set is "
        "broken (nothing is written; every file is named) or refused, 2 wrong usage.",
    )
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help=", ".join(SOURCES))
    parser.add_argument(
        "root",
        type=Path,
        metavar="ROOT",
        help="folder of the set (composed_ct: of lidc_voi; phantom: folder to draw into)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the manifest to write (.json)")
    parser.add_argument("--skip-broken", action="store_true", help="go on without broken files, listing them")
    parser.add_argument(
        "--join", type=Path, action="append", default=[], metavar="FILE", help="put another manifest's samples first"
    )
    parser.add_argument(
        "--split-by",
        default="groups",
        metavar="NAME|CSV",
        help="groups (default); an official split: 880_120 (kvasir_seg), benchmark (polyp_folder), official (isic2018, "
        "luna16), labels (folder); or a CSV file with the columns id and split",
    )
    parser.add_argument("--splits", type=Path, metavar="CSV", help="also write id, group, fold, split and flags")
    parser.add_argument(
        "--find-groups",
        action="store_true",
        help="group images that look alike even where groups.csv tells groups",
    )
    parser.add_argument(
        "--name",
        help="name of the source, first part of ids and groups (default: SOURCE; of "
        "polyp_folder, chest_ct_nifti and folder the name of ROOT)",
    )
    parser.add_argument("--title", help="title of the source, for people")
    parser.add_argument("--licence", metavar="SPDX", help="licence of the images, where yours differs or is not known")
    parser.add_argument("--terms", choices=_TERMS, help="what may be done with weights that the images touched")
    parser.add_argument("--count", type=int, default=20, help="phantom, composed_ct: how many (default: 20)")
    parser.add_argument("--first-seed", type=int, default=0, help="phantom, composed_ct: the first (default: 0)")
    parser.add_argument("--family", choices=("train", "held_out"), default="train", help="phantom: family of chests")
    parser.add_argument(
        "--spacing-mm",
        type=float,
        nargs=3,
        default=(1.5, 1.5, 1.5),
        metavar=("I", "J", "K"),
        help="size of a voxel of drawn chests (default: 1.5 1.5 1.5)",
    )
    parser.add_argument(
        "--background",
        type=Path,
        metavar="FOLDER",
        help="composed_ct: studies (layout of lung_pet_ct_dx) whose lung takes the nodules (default: drawn chests)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare a set and write its manifest.

    Raises:
        FileNotFoundError: the set, a manifest to join or the folder of ``--out`` is not there.
        ValueError: the set or an option makes no sense.
    """
    from mtnet.sources.folds import write_split_list
    from mtnet.sources.manifest import joined, read_manifest, write_manifest
    from mtnet.sources.prepare import Request, prepare

    others = [read_manifest(path) for path in args.join]
    request = Request(
        layout=args.source,
        root=args.root,
        out=args.out,
        name=args.name,
        split_by=args.split_by,
        find_groups=args.find_groups,
        title=args.title,
        licence=args.licence,
        terms=args.terms,
        count=args.count,
        first_seed=args.first_seed,
        family=args.family,
        spacing_mm=tuple(args.spacing_mm),
        background=args.background,
        skip_broken=args.skip_broken,
    )
    with _progress() as looked:
        prepared = prepare(request, looked)
    stopped = bool(prepared.problems) and not args.skip_broken
    for item in prepared.manifest.left_out:
        print(f"{plain(item.file)}: {plain(item.reason)}", file=sys.stderr)
    if stopped:
        if args.json:
            print(json.dumps({"samples": 0, "left_out": _left_out(prepared)}, indent=2))
        print(
            f"mtnet prepare: {len(prepared.problems)} files of the set are broken; nothing was written. Mend them, or "
            "go on without them with --skip-broken.",
            file=sys.stderr,
        )
        return 1
    if not prepared.manifest.samples:
        raise ValueError(f"No image of {args.root} can be used.")
    manifest = joined(*others, prepared.manifest)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    prepared.write()
    write_manifest(manifest, args.out)
    if args.splits is not None:
        write_split_list(prepared.manifest, args.splits)
    if args.json:
        print(json.dumps(_summary(manifest, prepared), indent=2))
    else:
        print("\n".join(_told(manifest, prepared, args.out)))
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """Count images on standard error, when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(unit="image", leave=False, file=sys.stderr) as bar:

        def looked() -> None:
            bar.update()

        yield looked


def _summary(manifest: Manifest, prepared: Prepared) -> dict[str, Any]:
    agreement = prepared.agreement
    return {
        "samples": len(manifest.samples),
        "left_out": _left_out(prepared),
        "divided_groups": len(prepared.divided),
        "sources": {source.name: _counts(manifest, source.name) for source in manifest.sources},
        "agreement": None
        if agreement is None
        else {
            "recall": agreement.recall,
            "precision": agreement.precision,
            "given_pairs": agreement.given_pairs,
            "found_pairs": agreement.found_pairs,
            "given_groups": agreement.given_groups,
            "found_groups": agreement.found_groups,
            "largest_found": agreement.largest_found,
        },
    }


def _left_out(prepared: Prepared) -> list[dict[str, str]]:
    return [{"file": item.file, "reason": item.reason} for item in prepared.manifest.left_out]


def _counts(manifest: Manifest, name: str) -> dict[str, Any]:
    samples = [sample for sample in manifest.samples if sample.source == name]
    return {
        "samples": len(samples),
        "groups": len({sample.group for sample in samples}),
        "grouped_by": manifest.source(name).grouped_by,
        "splits": dict(sorted(Counter(sample.split for sample in samples).items())),
        "classes": dict(sorted(Counter(sample.image_class for sample in samples if sample.image_class).items())),
        "masks": sum(bool(sample.masks) for sample in samples),
        "known_empty": sum(sample.masks == () for sample in samples),
        "boxes": sum(len(sample.boxes or ()) for sample in samples),
        "flags": dict(sorted(Counter(flag for sample in samples for flag in sample.flags).items())),
        "licence": manifest.source(name).licence,
    }


def _told(manifest: Manifest, prepared: Prepared, out: Path) -> Iterator[str]:
    for source in manifest.sources:
        counts = _counts(manifest, source.name)
        yield f"{source.name}: {counts['samples']} images in {counts['groups']} groups ({counts['grouped_by']})"
        for key in ("splits", "classes", "flags"):
            if counts[key]:
                yield f"  {key}: " + ", ".join(f"{name} {number}" for name, number in counts[key].items())
        yield f"  with masks {counts['masks']}, known to be empty {counts['known_empty']}, boxes {counts['boxes']}"
        yield f"  licence: {plain(counts['licence'])}"
    if prepared.agreement is not None:
        found = prepared.agreement
        yield (
            f"look-alikes against groups.csv: {found.shared_pairs} of {found.given_pairs} pairs found "
            f"(recall {found.recall:.3f}), {found.found_pairs} pairs in all (precision {found.precision:.3f}), "
            f"{found.found_groups} groups for {found.given_groups}, the largest of {found.largest_found}"
        )
    if prepared.divided:
        yield f"{len(prepared.divided)} groups lie on two sides of this split: look-alikes are in training and test."
    if prepared.problems:
        yield f"left out as broken: {len(prepared.problems)} (named above, and in the manifest)"
    yield f"{out}: {len(manifest.samples)} images"
