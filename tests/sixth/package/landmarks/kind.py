"""The kind ``keypoints``: named points, each told by the cell of a coarse map in which it lies.

The network's tensor is ``(B, C + D, *S / stride)``: a logit a label, and the way from the cell's middle to the point in
strides. Merged, it is rows ``(N, D + 2)``: place in voxel index, label index, score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.decoded import Decoded, Seen
from mtnet.detection.coding import cell_centres
from mtnet.evaluation.bootstrap import Metric, mean_of
from mtnet.evaluation.tasks import Answered, Task
from mtnet.inference.mergers import Job
from mtnet.inference.ownership import Ownership
from mtnet.sources.manifest import Sample
from mtnet.structures import OutputSpec


class KeypointMerger:
    """Points of every window that belong to it; of those nearer to each other than a stride the best one counts."""

    def __init__(self, specs: tuple[OutputSpec, ...], job: Job) -> None:
        self.specs = specs
        self.job = job
        margin = {spec.name: spec.strides[0] / 2 for spec in specs}
        self.owners = {n: Ownership(job.layout.starts, job.layout.window, m) for n, m in margin.items()}
        self.found: dict[str, list[Tensor]] = {spec.name: [] for spec in specs}

    def prepare(self, windows: Sequence[int], tensors: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        return {
            spec.name: [self.points_of(spec, window, tensors[spec.name][item]) for item, window in enumerate(windows)]
            for spec in self.specs
        }

    def commit(self, windows: Sequence[int], prepared: dict[str, list[Tensor]]) -> None:
        for name, points in prepared.items():
            self.found[name].extend(points)

    def finish(self) -> dict[str, Tensor]:
        return {spec.name: best_apart(torch.cat(self.found[spec.name]), spec.strides[0]) for spec in self.specs}

    def points_of(self, spec: OutputSpec, window: int, answer: Tensor) -> Tensor:
        """``(N, D + 3)`` of one window: place in the image, label, score, 1 where it belongs to the window."""
        classes, stride, layout = len(spec.labels), spec.strides[0], self.job.layout
        heat = (answer[:classes].float() / spec.temperature).sigmoid()
        pool = F.max_pool2d if answer.ndim == 3 else F.max_pool3d
        peak = (pool(heat[None], 3, 1, 1)[0] == heat) & (heat >= self.job.plan.score_floor)
        label, *cell = peak.nonzero(as_tuple=True)
        centres = cell_centres(answer.shape[1:], stride).reshape(*answer.shape[1:], -1)
        start = torch.from_numpy(layout.starts[window])
        offset = answer[classes:].float().movedim(0, -1)[tuple(cell)].cpu() * stride
        place = centres[tuple(axis.cpu() for axis in cell)] + offset + start
        inside = ((place >= -0.5) & (place < torch.tensor(layout.valid_shape) - 0.5)).all(1)
        owned, near = self.owners[spec.name].judge(window, place.double().numpy())
        keep = inside & torch.from_numpy(near)
        score = heat[(label, *cell)].cpu()
        rows = torch.cat(
            [place, label.cpu()[:, None].float(), score[:, None], torch.from_numpy(owned)[:, None].float()], 1
        )
        return rows[keep]


def best_apart(rows: Tensor, distance: float) -> Tensor:
    """The best of every label that are at least ``distance`` apart, those that belong to their window first."""
    place, label, score, owned = rows[:, :-3], rows[:, -3], rows[:, -2], rows[:, -1]
    kept: list[int] = []
    for row in (score + owned).argsort(descending=True, stable=True).tolist():
        alike = [other for other in kept if label[other] == label[row]]
        if not alike or torch.cdist(place[row : row + 1], place[alike]).min() >= distance:
            kept.append(row)
    chosen = rows[kept, :-1]
    return chosen[chosen[:, -1].argsort(descending=True, stable=True)]


def decode_keypoints(made: Decoded, spec: OutputSpec, seen: Seen) -> None:
    """Points above the threshold, in voxels of the source."""
    told = []
    for *place, label, score in seen.outputs.extras[spec.name].double().tolist():
        if score >= spec.threshold:
            world = seen.grid.index_to_lps_mm([*place, 0.0][:3])
            centre = seen.case.volume.geometry.lps_mm_to_index(world)
            told.append(
                {"label": spec.labels[int(label)].name, "score": round(score, 6), "centre_index": centre.tolist()}
            )
    made.extras[spec.name] = told


class KeypointLoss(nn.Module):
    """Terms ``heat`` (BCE of every cell, points' cells weighted) and ``place`` (L1 of the offsets of these cells)."""

    def __init__(self, spec: OutputSpec, spatial_dims: int) -> None:
        super().__init__()
        self.spec = spec
        self.tensor_names = spec.tensor_names

    def forward(self, tensors: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Targets: for each item ``point_index`` ``(G, D)`` in voxels of the input, and ``label`` ``(G,)``."""
        answer, stride = tensors[self.spec.name].float(), self.spec.strides[0]
        classes = len(self.spec.labels)
        wanted = torch.zeros_like(answer[:, :classes])
        errors = [answer.sum() * 0]
        for item, target in enumerate(targets):
            for point, label in zip(target["point_index"].to(answer), target["label"], strict=True):
                cell = ((point + 0.5) / stride).long()
                offset = (point + 0.5) / stride - cell - 0.5
                wanted[(item, int(label), *cell.tolist())] = 1
                errors.append((answer[(item, slice(classes, None), *cell.tolist())] - offset).abs().mean())
        weight = 1 + 20 * wanted
        heat = F.binary_cross_entropy_with_logits(answer[:, :classes], wanted, weight)
        return {"heat": heat, "place": torch.stack(errors).sum() / max(len(errors) - 1, 1)}


def keypoint_task(spec: OutputSpec) -> Task:
    """Scores of samples whose values tell where each label is (``red_i``, ``red_j``): the mean distance in pixels of
    the best point of each label, and the share of labels within 5 pixels of it."""

    def wants(sample: Sample) -> bool:
        return all(f"{label.name}_{axis}" in sample.values for label in spec.labels for axis in "ij")

    def measure(answered: Answered) -> dict[str, Any] | None:
        if not wants(answered.sample):
            return None
        away = []
        for label in spec.labels:
            truth = np.array([answered.sample.values[f"{label.name}_{axis}"] for axis in "ij"])
            told = [point for point in answered.findings.extras[spec.name] if point["label"] == label.name]
            # The farthest that a point of this image can be where nothing was told.
            far = float(np.linalg.norm(answered.findings.geometry.shape[:2]))
            away.append(float(np.linalg.norm(np.array(told[0]["centre_index"][:2]) - truth)) if told else far)
        return {"mean": float(np.mean(away)), "found": float(np.mean([error <= 5.0 for error in away]))}

    def metrics(records: Sequence[Mapping[str, Any] | None]) -> dict[str, Metric]:
        rows = [row for row, record in enumerate(records) if record is not None]
        told = [record for record in records if record is not None]
        return {
            "mean_distance": mean_of([record["mean"] for record in told], rows, unit="px", better="lower"),
            "found_within_5_px": mean_of([record["found"] for record in told], rows),
        }

    return Task(f"keypoints.{spec.name}", wants, measure, metrics)


merger = KeypointMerger
decoder = decode_keypoints
loss = KeypointLoss
metric = keypoint_task
