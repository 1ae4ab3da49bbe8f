"""``mtnet batch``: many studies through one network, overnight."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.cli.infer import FAST_HELP, WEIGHTS_HELP, mebibytes
from mtnet.cli.terminal import plain, progress_bar

if TYPE_CHECKING:
    from mtnet.hosts.batch.run import Batch, Engine
    from mtnet.hosts.batch.tasks import Outcome, Task
    from mtnet.hosts.batch.worker import Start

_MEMORY_SHARE = 0.8
_MOST_REASONS = 20


def add_parser(commands: Any) -> None:
    """Add ``mtnet batch`` to the command line."""
    parser = commands.add_parser(
        "batch",
        help="answer an archive of studies, going on where an earlier run ended",
        description="Answer every input of SOURCE into OUT/studies/ID. Reading, the network and writing overlap; a "
        "ledger makes the batch resumable; a bad study never stops it. In the end OUT has summary.parquet, summary.csv "
        "and summary.html, and inputs.csv, which says what each ID stands for.",
        epilog="Example: mtnet batch ARCHIVE OUT --bundle chest_ct_multitask --shard 1/2. "
        "Exit codes: 0 all answered, 1 some or all not, 2 wrong usage, 3 failed unexpectedly.",
    )
    what = (
        "folder of studies (a folder, zip or image file each); .csv with a column path; manifest of mtnet prepare; "
        "text file with a path a line, or a UID a line with --server; or a query to a server, "
        "'dicomweb+http://HOST/dicom-web/studies?ModalitiesInStudy=CT&StudyDate=20260101-20261231'"
    )
    parser.add_argument("source", metavar="SOURCE", help=what)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the results, made where it is missing")
    parser.add_argument("--bundle", required=True, metavar="NAME|DIR", help="bundle, by name or folder")
    parser.add_argument("--weights", metavar="FILE", help=WEIGHTS_HELP)
    parser.add_argument("--server", metavar="URL", help="dicomweb+http://HOST/dicom-web that holds a list's UIDs")
    parser.add_argument("--depth", type=_count, default=1, metavar="N", help="folders down to a study (default: 1)")
    store = "also store the DICOM results on a server, dicomweb+http://HOST/dicom-web"
    parser.add_argument("--store", metavar="URL", help=store)
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="do the I-th of N parts only")
    parser.add_argument(
        "--time-limit", type=_count, default=1800, metavar="S", help="seconds that a study may take (default: 1800)"
    )
    parser.add_argument(
        "--study-memory",
        type=mebibytes,
        metavar="MIB",
        help="memory that a worker may take with one study, the model included (default: four fifths of the machine's, "
        "shared by its workers)",
    )
    parser.add_argument("--retry", action="store_true", help="try again what was refused or set aside before")
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes with a model each (default: 1; on Ray one a GPU or machine)",
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster (default: local)"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster (default: RAY_ADDRESS, or this machine)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1... (default: auto)")
    parser.add_argument("--tasks", metavar="A,B", help="tasks to run, such as detection,segmentation (default: all)")
    parser.add_argument("--fast", action="store_true", help=FAST_HELP)
    parser.add_argument("--half", action="store_true", help="half precision where device and runtime do it well")
    parser.add_argument(
        "--runtime", choices=("eager", "compile", "openvino"), default="eager", help="as in mtnet infer"
    )
    parser.add_argument("--memory-limit", type=mebibytes, metavar="MIB", help="of the device, as in mtnet infer")
    parser.add_argument("--seg", choices=("binary", "labelmap"), default="binary", help="kind of DICOM SEG")
    parser.add_argument("--no-capture", action="store_true", help="leave out overlay.dcm")
    parser.add_argument("--page", action="store_true", help="also write report.html for every study")
    parser.add_argument("--trust-bundle", action="store_true", help="let the bundle's config run code of its own")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--strict", action="store_true", help="refuse what would be repaired or flagged")
    how.add_argument("--repair", action="store_true", help="mend what is refused by default and can be mended")
    parser.add_argument("--allow-outside", action="store_true", help="answer and flag what lies outside of the domain")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer the inputs, write the summary, and print what became of them."""
    from mtnet.bundle import Bundle, find_bundle
    from mtnet.hosts.batch import summary
    from mtnet.hosts.batch.run import check_out, run_batch
    from mtnet.hosts.batch.sources import find_inputs
    from mtnet.hosts.batch.summary_page import write_page
    from mtnet.hosts.batch.tasks import Settings
    from mtnet.hosts.dicomweb import SCHEMES, DicomWeb

    if args.strict and args.allow_outside:
        raise ValueError("--strict and --allow-outside are both given: one refuses what the other flags. Give one.")
    if args.address is not None and args.engine != "ray":
        raise ValueError("--address is for --engine ray.")
    if args.store is not None and not args.store.startswith(SCHEMES):
        raise ValueError("--store is no DICOMweb server; expected dicomweb+http://HOST/dicom-web.")
    summary.check_extra()
    check_out(args.source, args.out)
    bundle = find_bundle(args.bundle)
    settings = Settings(
        bundle=str(bundle.resolve()),
        weights=str(Path(args.weights).resolve()) if args.weights and Path(args.weights).is_file() else args.weights,
        device=args.device,
        tasks=tuple(args.tasks.split(",")) if args.tasks else None,
        fast=args.fast,
        half=args.half,
        runtime=args.runtime,
        memory_limit_bytes=args.memory_limit,
        trust_bundle=args.trust_bundle,
        strict=args.strict,
        repair=args.repair,
        allow_outside=args.allow_outside,
        seg=args.seg,
        capture=not args.no_capture,
        page=args.page,
    )
    inputs = find_inputs(args.source, server=args.server, depth=args.depth)
    store = None if args.store is None else DicomWeb(args.store.removeprefix("dicomweb+"))
    with progress_bar("study") as progress:
        batch = run_batch(
            inputs,
            args.out,
            settings,
            _engine(args),
            shard=args.shard,
            retry=args.retry,
            store=store,
            progress=progress,
        )
    name = "summary" if args.shard == (1, 1) else f"summary-{args.shard[0]}-of-{args.shard[1]}"
    files = [args.out / f"{name}{Path(one).suffix}" for one in (summary.PARQUET, summary.TABLE, summary.PAGE)]
    if batch.done or not all(file.is_file() for file in files):
        table = summary.rows(batch.entries.values(), args.out)
        summary.write_parquet(table, files[0])
        summary.write_csv(table, files[1])
        write_page(table, files[2], model=str(Bundle.read(bundle).metadata.get("name", bundle.name)))
    return _tell(batch, files, as_json=args.json)


def _engine(args: argparse.Namespace) -> Engine:
    from mtnet.hosts.batch.lane import Limits
    from mtnet.hosts.batch.local import local
    from mtnet.hosts.batch.ray_cluster import on_ray

    workers = args.workers or 1
    limits = Limits(args.time_limit, args.study_memory or _memory(1 if args.engine == "ray" else workers))

    def engine(tasks: Iterable[Task], start: Start) -> Iterator[Outcome]:
        if args.engine == "ray":
            return on_ray(tasks, start, limits, address=args.address, workers=args.workers)
        return local(tasks, start, limits, workers)

    return engine


def _memory(workers: int) -> int:
    import psutil

    return int(_MEMORY_SHARE * psutil.virtual_memory().total / workers)


def _tell(batch: Batch, files: list[Path], *, as_json: bool) -> int:
    items = [item for entry in batch.entries.values() for item in entry.outcome.items]
    states = Counter(item.state for item in items)
    reasons = Counter((item.state, item.code) for item in items if item.state != "answered")
    if as_json:
        told = {
            "inputs": len(batch.entries),
            "done_now": batch.done,
            "states": dict(states),
            "reasons": {f"{state}.{code}": count for (state, code), count in reasons.items()},
            "unsent": dict(batch.unsent),
            "files": [str(file) for file in files],
        }
        print(json.dumps(told, indent=2))
    else:
        before = len(batch.entries) - batch.done
        print(f"{len(batch.entries)} inputs: {batch.done} done now, {before} done before")
        for state in ("answered", "refused", "set_aside", "failed"):
            if states[state]:
                print(f"{state.replace('_', ' ')}: {states[state]}")
        for (state, code), count in reasons.most_common(_MOST_REASONS):
            print(f"  {state.replace('_', ' ')}: {code} ({count})")
        print(f"written to {files[0].parent}: {', '.join(file.name for file in files)}")
    for name, why in batch.unsent.items():
        print(plain(f"not stored: {name}: {why}"), file=sys.stderr)
    return 1 if batch.unsent or states.keys() - {"answered"} else 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N such as 1/4, with I from 1 to N")
    return int(number), int(count)
