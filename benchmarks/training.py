"""Training throughput against a plain loop as MONAI's tutorials have it: ``python -m benchmarks.training MANIFEST``.

The same network, data, steps and batch; all sides keep what deterministic transforms give in memory before the clock
starts, which is when the first step ends: loaders have then filled up, and nothing is built any more. MONAI's side is
``CacheDataset`` with the same random transforms in a ``DataLoader`` that shuffles, and a loop of forward, loss,
backward and step of ``torch.optim.AdamW`` in float32; each side gets the best of several numbers of workers. Ours is
the trainer that ``train.json`` builds, with all its handlers: averaged weights, clipped gradients, seeds of steps,
schedule and log; once in float32 as well, once in the precision that it chooses itself. MONAI's side and ours run in
a process each, since ours tells its own what to do with freed memory. Without workers all of a side's work is in that
process, so its own seconds are compared too: the steadier measure on a busy machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose
from monai.utils import set_determinism

from benchmarks.machine import describe_machine
from benchmarks.measure import claim, compare, tell, write_result
from benchmarks.tables import write_tables

BUNDLE = Path("bundles/unet_v2_polyp")
WORKERS = (0, 1, 2)
OURS = {"mtnet": "float32", "mtnet as configured": "auto"}

Side = Callable[[], tuple[float, float]]
"""One run; seconds, and seconds of the process, from the first step's end to the last one's."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all sides have in common; ``folder`` takes the weights that are written."""

    manifest: Path
    decoder: str | None
    size: int
    batch: int
    steps: int
    folder: Path


def main(arguments: list[str] | None = None) -> None:
    """Measure both sides in turns, write the result and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path, help="that mtnet prepare wrote")
    parser.add_argument("--decoder", help="another than train.json's; told, not kept as a result")
    parser.add_argument("--size", type=int, default=160, help="rows and columns")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of workers to try")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    begin = start_workers_by, (multiprocessing.get_start_method(),)
    processes = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, processes, *begin) as theirs,
        ProcessPoolExecutor(1, processes, *begin) as ours,
    ):
        common = Setting(
            options.manifest, options.decoder, options.size, options.batch, options.steps, folder=Path(folder)
        )
        sides: dict[str, Side] = {}
        for workers in options.workers:
            for name in ("monai", *OURS):
                process = theirs if name == "monai" else ours
                sides[f"{name}, {workers} workers"] = partial(in_process, process, name, common, workers)
        taken = in_turns(sides, options.rounds)
    images = options.steps * options.batch
    contenders = {}
    for name, rounds in taken.items():
        seconds = [wall for wall, _ in rounds]
        contenders[name] = {
            "seconds": seconds,
            "facts": {"images a second": round(images / statistics.median(seconds), 2)},
            # A process does not count the work of its workers.
            **({"cpu_seconds": [cpu for _, cpu in rounds]} if name.endswith(" 0 workers") else {}),
        }
    setting = {"bundle": BUNDLE.name, **{n: getattr(options, n) for n in ("size", "batch", "steps", "rounds")}}
    claims = claims_of({name: one["seconds"] for name, one in contenders.items()}, taken)
    if options.decoder is None:
        write_result("training", setting, contenders, claims, machine)
        write_tables()
    print(tell(claims))


def claims_of(seconds: dict[str, list[float]], taken: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Throughput is steps over seconds, so ours over MONAI's is MONAI's seconds over ours."""
    best = {side: seconds[best_of(seconds, side)] for side in ("monai", *OURS)}
    pairs = {"float32: images a second to MONAI's loop, each with its best workers": (best["monai"], best["mtnet"])}
    if "monai, 0 workers" in taken:
        theirs, ours = ([cpu for _, cpu in taken[f"{side}, 0 workers"]] for side in ("monai", "mtnet"))
        pairs["float32: images a CPU second to MONAI's loop, without workers"] = theirs, ours
    says = "as configured, in the precision that train.json chooses: images a second to MONAI's loop in float32"
    pairs[says] = best["monai"], best["mtnet as configured"]
    claims = []
    for says, (theirs, ours) in pairs.items():
        found = compare(theirs, ours)
        rounds = found["lowest_round"], found["highest_round"]
        claims.append(claim(says, found["ratio_of_medians"], 1.0, at_least=True, rounds=rounds))
    return claims


def in_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """What every side says it took in every round; each round begins with another side."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            taken[name].append(sides[name]())
            print(f"round {number + 1}/{rounds} {name}: {taken[name][-1][0]:.2f} s", file=sys.stderr)
    return taken


def start_workers_by(method: str) -> None:
    """Have loaders start their workers as in a process that a user began, not as this one was started."""
    multiprocessing.set_start_method(method, force=True)


def in_process(process: ProcessPoolExecutor, name: str, setting: Setting, workers: int) -> tuple[float, float]:
    """One run of a side in a process of its library."""
    return process.submit(run_of, name, setting, workers).result()


def run_of(name: str, setting: Setting, workers: int) -> tuple[float, float]:
    """One run of a side in this process."""
    return side_of(name, setting, workers)()


@cache
def side_of(name: str, setting: Setting, workers: int) -> Side:
    """A side, made once in a process."""
    if name == "monai":
        return monai_side(setting, workers)
    return our_side(setting, workers, OURS[name])


def best_of(seconds: dict[str, list[float]], side: str) -> str:
    """The number of workers with which a side is fastest."""
    names = [name for name in seconds if name.startswith(f"{side},")]
    return min(names, key=lambda name: statistics.median(seconds[name]))


def now() -> tuple[float, float]:
    """Clock and processor."""
    return perf_counter(), process_time()


def between(ends: list[tuple[float, float]]) -> tuple[float, float]:
    """From the first to the last."""
    (wall, cpu), (wall_end, cpu_end) = ends[0], ends[-1]
    return wall_end - wall, cpu_end - cpu


def config_of(setting: Setting, workers: int, precision: str = "float32") -> ConfigParser:
    """The bundle's ``train.json`` for one run of so many steps, without validation."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    changes = {
        "manifest": str(setting.manifest),
        "size": [setting.size, setting.size],
        "batch_size": setting.batch,
        "workers": workers,
        "decoder": setting.decoder,
        "precision": precision,
        "max_epochs": 1,
        "val_interval": 2,
        "work_dir": str(setting.folder),
        "weights": str(setting.folder / "model.pt"),
        "train#trainer#epoch_length": setting.steps + 1,
        "validate#dataset#data": [],
    }
    for name, value in changes.items():
        parser[name] = value
    return parser


def our_side(setting: Setting, workers: int, precision: str) -> Side:
    """One run of the bundle's trainer; the samples are kept over runs as they are over epochs."""
    kept = config_of(setting, workers, precision).get_parsed_content("train#dataset")
    # Enough epochs for the steps of a run, however few samples there are.
    kept.epochs = -(-(setting.steps + 1) // kept.steps)

    def run() -> tuple[float, float]:
        set_determinism(0)
        parser = config_of(setting, workers, precision)
        parser["train#dataset"] = kept
        (setting.folder / "checkpoint.pt").unlink(missing_ok=True)
        trainer = parser.get_parsed_content("train#trainer")
        ends: list[tuple[float, float]] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(now()))
        trainer.run()
        return between(ends)

    return run


def monai_side(setting: Setting, workers: int) -> Side:
    """The loop of MONAI's tutorials on the same parts, with torch's own AdamW."""
    parser = config_of(setting, workers)
    parser["optimizer"]["_target_"] = "torch.optim.AdamW"
    data = parser.get_parsed_content("train#dataset#data")
    before = parser.get_parsed_content("train#deterministic_transforms")
    after = parser.get_parsed_content("train#random_transforms")
    made, trainer = parser.get_parsed_content("train#dataloader"), parser.get_parsed_content("train#trainer")
    dataset = CacheDataset(data, Compose([before, after]).flatten(), progress=False)
    loader = DataLoader(
        dataset,
        batch_size=made.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=made.num_workers,
        collate_fn=made.collate_fn,
    )
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    def run() -> tuple[float, float]:
        set_determinism(0)
        network.train()
        ends: list[tuple[float, float]] = []
        for _, batch in zip(range(setting.steps + 1), batches(), strict=False):
            inputs, targets = trainer.prepare_batch(batch, "cpu")
            optimizer.zero_grad()
            loss(network(inputs.as_tensor()), targets).backward()
            optimizer.step()
            ends.append(now())
        return between(ends)

    return run


if __name__ == "__main__":
    main()
