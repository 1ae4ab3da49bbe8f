"""``RESULTS.md`` from the result files: numbers are never typed by hand."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

_METHOD = """\
# Measured results

Written by `make bench`, `make bench-cuda` and `make bench-reading` from `benchmarks/results/*.json`; do not edit.
`python -m benchmarks.done` prints what is to be reached beside what was measured.

## Window engine against MONAI's `SlidingWindowInferer`

- The network is the chest-CT system's `compact` one with random weights, in float32; the windows are the same, Gaussian
  importance. *One head*: the network with its segmentation output only. *Four heads*: the same full forward for both;
  for MONAI through a wrapper that drops what it cannot blend (boxes, image-level answers). Both end in a label map;
  mtnet with four heads also gives the reconstruction, the boxes and the image-level answers.
- Time: all contenders in one process, in turns, after one run each that does not count. The ratio is of medians. The
  range is of the ratios within single rounds: where it holds 1, the rounds do not agree on which is faster and **no
  claim** is made. On a machine that has other work, the processor's own seconds are the steadier measure; their ratio
  is given too.
- Memory: resident memory sampled every 5 ms, peak over what is resident before the run, each contender in a fresh
  process after one window, median of three. Image, accumulators, activations and results are in it, the weights not.
"""

_READING_METHOD = """\
## Reading DICOM

- *Loading*: from the path of a folder with one series to its pixels in memory, in HU (mtnet, SimpleITK, MONAI). mtnet:
  `scan` and `load`, with every check. SimpleITK: `GetGDCMSeriesIDs`, `GetGDCMSeriesFileNames` and `ReadImage`; without
  its scan: `ReadImage` of files that are in order already. MONAI: `LoadImage` with that reader. dcm2niix: its program,
  to an uncompressed file. pydicom: `dcmread` and `pixel_array` of each file, neither in order nor in HU. Number types
  are each reader's own: mtnet keeps whole HU as 16-bit integers, MONAI's readers give 32-bit floats.
- *Scanning*: which series a folder of small files holds. mtnet: `scan`; SimpleITK: `GetGDCMSeriesIDs`; pydicom:
  `dcmread` of each file, stopped before the pixels.
- All contenders in turns, after one run each that does not count; files are in the system's cache. Medians; ratios are
  mtnet's time to the other's, with the range within single rounds. Processor seconds count child processes.
"""


_METHODS = {
    "boxes": """\
## Suppression and fusion of ten thousand boxes

- Boxes of 5 to 15 voxels whose low corners are drawn evenly from a square or cube: *dense* of edge 30, *crowded* 100,
  *sparse* 1000. Scores are drawn evenly. One thread; the processor's seconds.
- `suppress` gives the indices of the plain greedy loop, and `fuse` (four sources) the members of the paper's loop;
  `tests/detection` proves both. MONAI's `non_max_suppression` is measured with 2,000 boxes at the same density, since
  it takes the IoU of all pairs at once.
""",
    "steps": """\
## Layers of mtnet's own

- The chest-CT network with random weights, channels last. *Folded*: the convolutions of upsampled levels run as
  transposed ones. *Group norm*: its gradient. A step goes forwards and backwards, in bfloat16 where nothing else is
  said, a pass forwards in float32. *Keeps freed memory*: glibc is told to; two processes of their own, each with all
  layers of mtnet's.
""",
    "runtimes": """\
## Runtimes and half precision

- The shipped chest network with its weights on the middle of a drawn chest, the same windows for all, none left out.
  MONAI: `SlidingWindowInferer` in eager float32 on the full forward, less what it cannot blend, to labels; the network
  as its users load it, neither with channels last nor with folded upsampling. mtnet: all four answers merged.
- Half precision is the one that the CPU says it has instructions for. Dice is of labels, to mtnet's in eager float32.
  *Boxes shared*: share of the boxes told in either answer that have a partner of IoU 0.5 in the other. *First pass*:
  making ready, and one window; what was compiled before comes from the cache.
""",
    "study": """\
## A whole study

- `answer_studies`, which `mtnet infer` calls: from the path of a folder to all result files, eager float32, in a warm
  process (one run before that does not count). The forward's seconds are taken by hooks about the network.
- The region's windows against MONAI's inferer over the whole volume: the shipped window and overlap; mtnet gives all
  four answers, dense ones on the source's grid, finding the region included; MONAI gives labels on the image's grid.
""",
    "batch": """\
## Many studies

- Drawn chests of 1.2 x 1.2 x 2 mm in the shipped chest bundle, each to all its files. The loop reads, answers, writes
  one after the other in one process; the batch overlaps these. Both are timed from the start of their process to its
  end, in turns. *Finished before*: the same command once more.
""",
    "batch_cuda": """\
## Many studies on a CUDA device

- The same (`python -m benchmarks.batch --device cuda`).
""",
    "memory": """\
## Memory of eight dense channels

- From an image of 1.5 mm in memory to labels on the source's grid; the network is one convolution. MONAI: its inferer,
  softmax, `SpatialResample` (what `Invertd` of `Spacingd` calls), argmax. Resident memory sampled every 5 ms, peak over
  what is resident before the run, each in a fresh process after a small run.
""",
    "systems": """\
## One encoder for all tasks, and every system beside a plain U-Net

- Networks with random weights; one pass over random images, without pre- and postprocessing, in eager float32.
- *Four tasks*: the chest-CT network, against the same network with segmentation alone, and against the sum of four
  networks of one task each. GMAC count attention and are exact.
- *smp U-Net*: `segmentation_models_pytorch.Unet` with the same encoder, of its full width beside a `compact` network
  too, on the same image. It gives one mask; a system gives all of its outputs. smp has no 3D, so the windows of the 3D
  network stand alone. Where rounds do not agree on which is faster, **no claim** is made.
""",
    "training": """\
## Training beside a plain loop

- One network, data, batch; what deterministic transforms give is in memory before. *monai*: `CacheDataset`, the same
  random transforms, a shuffling `DataLoader`, forward, loss, backward, step of `torch.optim.AdamW`, float32. *mtnet*:
  the trainer of `train.json` with all handlers, float32. *mtnet as configured*: the same with `precision` as it stands
  there, which a trial of the first step settles. From the end of that step on (`python -m benchmarks.training`).
""",
    "systems_cuda": """\
## The systems on a CUDA device

- The same, compiled and in half precision (`python -m benchmarks.systems --device cuda`).
""",
    "receiving": """\
## Receiving by a DICOM node

- From `storescu` with TCP_NODELAY=1, a study of its own over each association, all at the same time. *mtnet*: `mtnet
  serve` with its worker ready; every instance is synced, and its row committed, before it is acknowledged. *storescp*:
  DCMTK's, with TCP_NODELAY=1 and a process an association; it leaves the disk to the system. *Synced files*: as much
  written by a thread an association, each file synced, with no network and no queue: what the disk gives just then.
""",
    "cuda": """\
## On a CUDA device

- *Bare network*: the full forward on batches that lie on the device, at the batch that gives the most windows a second.
  *Engine*: the same windows of a drawn chest of 400 slices from an image on the host to all merged answers on the
  source's grid. Peak device memory is what torch's allocator tells.
""",
}


def write_tables() -> None:
    """Rewrite ``RESULTS.md`` from all result files."""
    parts = [_METHOD]
    for file in sorted(RESULTS.glob("engine--*.json")):
        parts.append(_engine_table(json.loads(file.read_text())))
    for name, method in _METHODS.items():
        results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"{name}--*.json"))]
        if results:
            parts += [method, *map(_table, results)]
    readings = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("reading--*.json"))]
    if readings:
        parts += [_READING_METHOD, *map(_reading_table, readings)]
    (FOLDER / "RESULTS.md").write_text("\n".join(parts))


def _engine_table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    size, window = (" × ".join(map(str, result[name])) for name in ("size", "window"))
    lines = [
        f"### {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "",
        f"torch {machine['torch']} with {machine['threads']} threads, MONAI {machine['monai']}, Python "
        f"{machine['python']}, {machine['system']}; {machine['date']}, load before {machine['load_before']}. Image "
        f"{size}, window {window}, overlap {result['overlap']}, batch {result['batch']}, "
        f"{len(result['seconds']['mtnet_one'])} rounds.",
        "",
        "| | MONAI, s | mtnet, s | ratio (rounds) | ratio of CPU seconds (rounds) | MONAI, MiB | mtnet, MiB | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, key, suffix in (("one head", "one_head", "one"), ("four heads", "four_heads", "four")):
        monai, ours = (statistics.median(result["seconds"][f"{who}_{suffix}"]) for who in ("monai", "mtnet"))
        peaks = result["peak_over_base_bytes"]
        taken, our_taken = (statistics.median(peaks[f"{who}_{suffix}"]) / 2**20 for who in ("monai", "mtnet"))
        lines.append(
            f"| {title} | {monai:.2f} | {ours:.2f} | {_ratio(result[key])} | {_ratio(result[f'{key}_cpu'])} "
            f"| {taken:.0f} | {our_taken:.0f} | {our_taken / taken:.2f} |"
        )
    return "\n".join([*lines, ""])


def _table(result: dict[str, Any]) -> str:
    """Setting, contenders and claims of a result that ``write_result`` wrote."""
    machine = result["machine"]
    setting = ", ".join(f"{name} {_short(value)}" for name, value in result["setting"].items())
    lines = [
        f"### {machine.get('gpu') or machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "",
        f"torch {machine['torch']} with {machine['threads']} threads, MONAI {machine['monai']}, Python "
        f"{machine['python']}, {machine['system']}; {machine['date']}, load before {machine['load_before']}. "
        f"{setting}.",
        "",
    ]
    names = list(dict.fromkeys(name for one in result["contenders"].values() for name in one.get("facts", {})))
    kinds = {"seconds": ("s", 1.0), "cpu_seconds": ("CPU s", 1.0), "peak_over_base_bytes": ("MiB", 2**20)}
    kept = [kind for kind in kinds if any(one.get(kind) for one in result["contenders"].values())]
    heads = [kinds[kind][0] for kind in kept] + [name.replace("_", " ") for name in names]
    lines += [f"| {' | '.join(['', *heads])} |", f"| {' | '.join(['---'] * (len(heads) + 1))} |"]
    for name, one in result["contenders"].items():
        cells = [_short(statistics.median(one[kind]) / kinds[kind][1]) if one.get(kind) else "" for kind in kept]
        cells += [_short(one.get("facts", {}).get(fact, "")) for fact in names]
        lines.append(f"| {' | '.join([name, *cells])} |")
    lines += ["", "| to be reached | measured (rounds) | limit | |", "| --- | --- | --- | --- |"]
    for one in result["claims"]:
        noise = f" ({_short(one['rounds'][0])} to {_short(one['rounds'][1])})" if one["rounds"] else ""
        sign, mark = ("≥" if one["at_least"] else "≤"), ("reached" if one["reached"] else "**missed**")
        measured = f"{_short(one['value'])} {one['unit']}".rstrip()
        lines.append(f"| {one['says']} | {measured}{noise} | {sign} {one['limit']:g} {one['unit']} | {mark} |")
    return "\n".join([*lines, ""])


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _reading_table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"### {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "",
        f"{versions}, Python {machine['python']}, {machine['system']}; {machine['date']}, load before "
        f"{machine['load_before']}, {result['rounds']} rounds. {result['remark']}".rstrip(),
        "",
    ]
    for title, loading in (
        ("The real study", result["loading"]["real"]),
        ("A drawn study", result["loading"]["drawn"]),
    ):
        lines += [
            f"{title}: {loading['files']} files, {loading['mib']} MiB.",
            "",
            "| loading | s | CPU s | mtnet's ratio (rounds) | ratio of CPU seconds (rounds) |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, seconds in loading["seconds"].items():
            cpu = statistics.median(loading["cpu_seconds"][name])
            ratios = [_ratio(loading[kind][name]) if name != "mtnet" else "" for kind in ("ratios", "ratios_cpu")]
            lines.append(f"| {name} | {statistics.median(seconds):.2f} | {cpu:.2f} | {ratios[0]} | {ratios[1]} |")
        lines.append("")
    scanning = result["scanning"]
    lines += [
        f"A folder of {scanning['files']} small files.",
        "",
        "| scanning | files/s | CPU s |",
        "| --- | --- | --- |",
    ]
    for name, rate in scanning["files_per_second"].items():
        lines.append(f"| {name} | {rate:.0f} | {statistics.median(scanning['cpu_seconds'][name]):.2f} |")
    return "\n".join([*lines, ""])


def _ratio(compared: dict[str, float]) -> str:
    low, high = compared["lowest_round"], compared["highest_round"]
    text = f"{compared['ratio_of_medians']:.3f} ({low:.3f} to {high:.3f})"
    return f"{text}, no claim" if low <= 1.0 <= high else text
