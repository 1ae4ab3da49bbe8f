"""``python -m mtnet.evaluation.phantom_score``: a bundle on drawn chests, beside a plain intensity threshold."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtnet.bundle import find_bundle
from mtnet.evaluation.detection_counts import FloatArray, ScanCounts, best_sensitivity, match_scan, sensitivity_at
from mtnet.inference.cost import CostMeter
from mtnet.inference.plan import Detections
from mtnet.phantoms import Phantom, draw_chest
from mtnet.phantoms.baseline import threshold_baseline
from mtnet.phantoms.families import Family
from mtnet.predictor import Case, Predictor
from mtnet.structures import Geometry, OutputSpec, Source

FIRST_HELD_OUT_SEED = 700_000
SMALLEST_MM = 8.0
FALSE_A_SCAN = 1.0
TEXTURE = "texture"
GRIDS_MM = ((0.8, 0.8, 1.25), (1.0, 1.0, 2.5), (0.8, 0.8, 5.0))


@dataclass(frozen=True, slots=True)
class PhantomScore:
    """What one command prints; see ``score_bundle``."""

    phantoms: int
    nodules: int
    threshold: float
    sensitivity: float
    false_boxes_a_scan: float
    best_sensitivity: float
    best_threshold: float
    baseline_sensitivity: float
    centre_error_mm_median: float
    textures: Mapping[str, Mapping[str, int]]


def score_bundle(
    bundle: Path,
    count: int,
    *,
    family: Family = "held_out",
    first_seed: int = FIRST_HELD_OUT_SEED,
    progress: Callable[[int, ScanCounts], None] | None = None,
) -> PhantomScore:
    """Run a bundle on drawn chests that it has not been trained on.

    Args:
        bundle: its folder.
        count: how many chests, on the voxel sizes of ``GRIDS_MM`` in turn.
        family: of the drawings.
        first_seed: of the drawings.
        progress: called after each chest with its number and counts.

    Returns:
        Sensitivity for nodules of at least 8 mm and false boxes a scan at the bundle's own threshold; the best
        sensitivity of any threshold with at most one false box a scan, for the bundle and for a plain intensity
        threshold; the median distance between found and drawn centres; of each texture how many nodules were
        ``found`` and of how many it was told ``right``, by the box with the highest score.
    """
    predictor = Predictor.from_bundle(bundle)
    spec = next(spec for spec in predictor.network.outputs if spec.kind == "boxes")
    network: list[ScanCounts] = []
    plain: list[ScanCounts] = []
    errors: list[float] = []
    textures: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for number in range(count):
        phantom = draw_chest(first_seed + number, family=family, spacing_mm=GRIDS_MM[number % len(GRIDS_MM)])
        answers = predictor.infer(Case(phantom.volume, Source(), CostMeter()))
        found = answers.outputs.boxes[spec.name]
        centres = _centres(answers.grid, found.box_index.double().numpy())
        scores = found.score.double().numpy()
        network.append(_match(phantom, centres, scores))
        errors.extend(_centre_errors(phantom, centres[scores >= spec.threshold]))
        for drawn, called in _textures(phantom, centres, found, spec):
            textures[drawn] += 1
            right[drawn] += drawn == called
        boxes, plain_scores = threshold_baseline(phantom.volume)
        plain.append(_match(phantom, _centres(phantom.volume.geometry, boxes), plain_scores))
        if progress is not None:
            progress(number + 1, network[-1])
    sensitivity, false = sensitivity_at(network, spec.threshold)
    best, at = best_sensitivity(network, FALSE_A_SCAN)
    return PhantomScore(
        phantoms=count,
        nodules=sum(scan.hit_scores.size for scan in network),
        threshold=spec.threshold,
        sensitivity=sensitivity,
        false_boxes_a_scan=false,
        best_sensitivity=best,
        best_threshold=at,
        baseline_sensitivity=best_sensitivity(plain, FALSE_A_SCAN)[0],
        centre_error_mm_median=float(np.median(errors)) if errors else float("nan"),
        textures={name: {"found": count, "right": right[name]} for name, count in sorted(textures.items())},
    )


def _centres(grid: Geometry, box_index: FloatArray) -> FloatArray:
    return grid.index_to_lps_mm((box_index[:, :3] + box_index[:, 3:]) / 2)


def _match(phantom: Phantom, centres_lps_mm: FloatArray, scores: FloatArray) -> ScanCounts:
    diameters = np.array([lesion.diameter_mm for lesion in phantom.lesions])
    lesions = [lesion.centre_lps_mm for lesion in phantom.lesions]
    return match_scan(centres_lps_mm, scores, lesions, diameters, diameters >= SMALLEST_MM)


def _centre_errors(phantom: Phantom, centres_lps_mm: FloatArray) -> list[float]:
    """Distance in mm from each wanted nodule that is hit to the nearest box's centre."""
    wanted = [lesion for lesion in phantom.lesions if lesion.diameter_mm >= SMALLEST_MM]
    errors = []
    for lesion in wanted:
        away = np.linalg.norm(centres_lps_mm - np.asarray(lesion.centre_lps_mm), axis=1)
        if away.size and away.min() < lesion.diameter_mm / 2:
            errors.append(float(away.min()))
    return errors


def _textures(
    phantom: Phantom, centres_lps_mm: FloatArray, found: Detections, spec: OutputSpec
) -> Iterator[tuple[str, str]]:
    """Of each wanted nodule that is hit at the output's threshold, the texture it was drawn with and the one told."""
    channel = next((channel for channel in spec.lesion_channels if channel.name == TEXTURE), None)
    if channel is None:
        return
    scores = found.score.double().numpy()
    told = found.lesion[TEXTURE].argmax(dim=1)
    for lesion in phantom.lesions:
        away = np.linalg.norm(centres_lps_mm - np.asarray(lesion.centre_lps_mm), axis=1)
        hits = (away < lesion.diameter_mm / 2) & (scores >= spec.threshold)
        if lesion.diameter_mm >= SMALLEST_MM and hits.any():
            best = int(np.where(hits, scores, -np.inf).argmax())
            yield lesion.texture, channel.labels[int(told[best])].name


def main(argv: Sequence[str] | None = None) -> int:
    """Print the score as a table or JSON."""
    parser = argparse.ArgumentParser(prog="phantom_score", description=__doc__)
    parser.add_argument("--bundle", default="chest_ct_multitask", metavar="NAME|DIR")
    parser.add_argument("--count", type=int, default=20, help="held-out chests (default: 20)")
    parser.add_argument("--family", choices=("held_out", "train"), default="held_out")
    parser.add_argument("--first-seed", type=int, default=FIRST_HELD_OUT_SEED)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    def tell(number: int, scan: ScanCounts) -> None:
        hits, false = np.sort(scan.hit_scores)[::-1].round(2), np.sort(scan.false_scores)[::-1][:5].round(2)
        print(f"chest {number}: scores of nodules {hits.tolist()}, highest false {false.tolist()}", file=sys.stderr)

    score = score_bundle(
        find_bundle(args.bundle), args.count, family=args.family, first_seed=args.first_seed, progress=tell
    )
    if args.json:
        print(json.dumps(asdict(score), indent=2))
        return 0
    print(f"{score.phantoms} {args.family} chests, {score.nodules} nodules of {SMALLEST_MM:g} mm and more")
    print(
        f"at the bundle's threshold {score.threshold:.2f}: sensitivity {score.sensitivity:.3f} at "
        f"{score.false_boxes_a_scan:.2f} false boxes a scan"
    )
    print(
        f"best with at most 1 false box a scan: {score.best_sensitivity:.3f} (threshold {score.best_threshold:.2f}); "
        f"plain intensity threshold: {score.baseline_sensitivity:.3f}"
    )
    print(f"median distance of found centres: {score.centre_error_mm_median:.2f} mm")
    if score.textures:
        found, right = (sum(counts[key] for counts in score.textures.values()) for key in ("found", "right"))
        told = ", ".join(f"{name} {counts['right']} of {counts['found']}" for name, counts in score.textures.items())
        print(f"texture of found nodules right: {right} of {found} ({told})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
