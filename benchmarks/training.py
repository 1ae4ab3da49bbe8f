"""Training throughput against a plain loop as MONAI's tutorials have it: ``python -m benchmarks.training MANIFEST``.

The same network, data, steps, batch and precision; both sides keep what deterministic transforms give in memory before
the clock starts, which is when the first step ends: loaders have then filled up, and nothing is built any more. MONAI's
side is ``CacheDataset`` with the same random transforms in a ``DataLoader`` that shuffles, and a loop of forward, loss,
backward and step; each side gets the best of several numbers of workers. Ours is the trainer that ``train.json``
builds, with all its handlers: averaged weights, clipped gradients, seeds of steps, schedule and log.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose
from monai.utils import set_determinism

from benchmarks.machine import describe_machine
from benchmarks.measure import compare

BUNDLE = Path("bundles/unet_v2_polyp")
WORKERS = (0, 1, 2)


def main(arguments: list[str] | None = None) -> int:
    """Measure both sides in turns and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path, help="that mtnet prepare wrote")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--size", type=int, default=160, help="rows and columns")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of workers to try")
    parser.add_argument("--out", type=Path, help="also write the result here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Callable[[], float]] = {}
        for workers in options.workers:
            sides[f"monai, {workers} workers"] = monai_side(config_of(options, Path(folder), workers), options.steps)
            sides[f"mtnet, {workers} workers"] = our_side(options, Path(folder), workers)
        seconds = in_turns(sides, options.rounds)
    best = {side: best_of(seconds, side) for side in ("monai", "mtnet")}
    result = {
        "machine": describe_machine(),
        "bundle": options.bundle.name,
        **{name: getattr(options, name) for name in ("size", "batch", "steps", "rounds")},
        "best": best,
        "images_a_second": {
            name: options.steps * options.batch / statistics.median(rounds) for name, rounds in seconds.items()
        },
        # Throughput is steps over seconds: MONAI's time over ours.
        "throughput_ours_over_monai": compare(seconds[best["monai"]], seconds[best["mtnet"]]),
        "seconds": seconds,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="ascii")
    return 0


def in_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every side says it took in every round; each round begins with another side."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            taken[name].append(sides[name]())
            print(f"round {number + 1}/{rounds} {name}: {taken[name][-1]:.2f} s", file=sys.stderr)
    return taken


def best_of(seconds: dict[str, list[float]], side: str) -> str:
    """The number of workers with which a side is fastest."""
    return min((name for name in seconds if name.startswith(side)), key=lambda name: statistics.median(seconds[name]))


def config_of(options: argparse.Namespace, folder: Path, workers: int) -> ConfigParser:
    """The bundle's ``train.json`` for one run of so many steps, in float32, without validation."""
    parser = ConfigParser()
    parser.read_config(str(options.bundle / "configs" / "train.json"))
    size: Any = options.size if isinstance(parser["size"], int) else [options.size, options.size]
    changes = {
        "manifest": str(options.manifest),
        "size": size,
        "batch_size": options.batch,
        "workers": workers,
        "precision": "float32",
        "max_epochs": 1,
        "val_interval": 2,
        "work_dir": str(folder),
        "weights": str(folder / "model.pt"),
        "train#trainer#epoch_length": options.steps + 1,
        "validate#dataset#data": [],
    }
    for name, value in changes.items():
        parser[name] = value
    return parser


def our_side(options: argparse.Namespace, folder: Path, workers: int) -> Callable[[], float]:
    """One run of the bundle's trainer; the samples are kept over runs as they are over epochs."""
    kept = config_of(options, folder, workers).get_parsed_content("train#dataset")
    # Enough epochs for the steps of a run, however few samples there are.
    kept.epochs = -(-(options.steps + 1) // kept.steps)

    def run() -> float:
        set_determinism(0)
        parser = config_of(options, folder, workers)
        parser["train#dataset"] = kept
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        trainer, ends = parser.get_parsed_content("train#trainer"), []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(perf_counter()))
        trainer.run()
        return ends[-1] - ends[0]

    return run


def monai_side(parser: ConfigParser, steps: int) -> Callable[[], float]:
    """The loop of MONAI's tutorials on the same parts."""
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

    def run() -> float:
        set_determinism(0)
        network.train()
        ends = []
        for _, batch in zip(range(steps + 1), batches(), strict=False):
            inputs, targets = trainer.prepare_batch(batch, "cpu")
            optimizer.zero_grad()
            loss(network(inputs.as_tensor()), targets).backward()
            optimizer.step()
            ends.append(perf_counter())
        return ends[-1] - ends[0]

    return run


if __name__ == "__main__":
    sys.exit(main())
