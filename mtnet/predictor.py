"""The whole chain: a study is read, one pass of the network answers, and the answers become findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtnet.bundle import Bundle, BundleError
from mtnet.cases import Case, Clip, Item, ReadOptions, items_of, read_image_item, read_volume_item
from mtnet.decoded import Decoded, Seen, decode, drawn_labels
from mtnet.inference.cost import CostMeter, NoMeter
from mtnet.inference.decode import hashed_uid
from mtnet.inference.input_check import check_image, check_lungs, settle
from mtnet.io.scan import scan
from mtnet.structures import (
    Findings,
    Frame,
    Geometry,
    Image,
    InputDomain,
    InputReport,
    ModelInfo,
    OutputSpec,
    Plane,
    RefusedError,
    ReportLine,
    Study,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.plan import Outputs
    from mtnet.inference.region import RegionResult
    from mtnet.nets import MultiTaskNet

Progress = Callable[[int, int], None]
Transform = Callable[[Mapping[str, Any]], Mapping[str, Any]]

__all__ = ["AnsweredFrame", "Answers", "Case", "Predictor", "Progress", "ReadOptions", "Transform"]

FAST_OVERLAP = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredFrame:
    """One frame of a clip: its pixels, its findings, and the milliseconds from one to the other."""

    frame: Frame
    findings: Findings
    latency_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the network said about a case: merged outputs, the grid that it saw, where it looked, and what the image
    shows of the organ that the network is made for."""

    outputs: Outputs
    grid: Geometry
    region: RegionResult | None
    lines: tuple[ReportLine, ...] = ()


class Predictor:
    """Answers a study in three steps, ``read``, ``infer`` and ``finish``, which ``run`` composes.

    Args:
        network: with weights; it is set to ``eval`` and moved to ``device``.
        preprocessing: MONAI chain on ``{"image": ...}``; a loader in it is left out, since ``read`` loads.
        inferer: window, overlap, precision and region.
        model: what results say about the network.
        device: ``cpu``, ``cuda``, ``cuda:1``...
        domain: the images that the network is made for; without it none is refused, and the report says so.
    """

    def __init__(
        self,
        network: MultiTaskNet,
        preprocessing: Transform,
        inferer: MultiTaskInferer,
        model: ModelInfo,
        device: str = "cpu",
        domain: InputDomain | None = None,
    ) -> None:
        import torch

        self.spatial_dims = _spatial_dims(network, domain)
        # Channels last is faster for convolutions on a CPU; on CUDA it has not been measured.
        last = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        layout = last if device == "cpu" else torch.contiguous_format
        network.eval().to(device=device)
        self.network: MultiTaskNet = network.to(memory_format=layout)  # type: ignore[call-overload]
        self.preprocessing = _without_loader(preprocessing)
        self.inferer = inferer
        self.inferer.device = device
        # Without boxes the parts of the mask are the lesions of an image, and their probability is the score.
        self.masks_tell_lesions = self.spatial_dims == 2 and not any(spec.kind == "boxes" for spec in network.outputs)
        if self.masks_tell_lesions:
            self.inferer.plan = replace(self.inferer.plan, keep_probabilities=True)
        self.model = model
        self.device = device
        self.domain = domain

    @classmethod
    def from_bundle(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        tasks: Sequence[str] | None = None,
        fast: bool = False,
        trust_bundle: bool = False,
    ) -> Predictor:
        """Build from a bundle folder, reading it as data (``mtnet.bundle``).

        Args:
            folder: the bundle.
            device: ``auto`` takes CUDA where there is some.
            tasks: branches to run; all by default.
            fast: no overlap and the half precision that the device does well.
            trust_bundle: hand the config to MONAI's parser, which runs whatever it says.

        Raises:
            BundleError: the bundle is damaged, has no weights or not its own, or a task is unknown.
            ValueError: the weights do not fit the network, or there is no such device.
        """
        from mtnet.inference.precision import fast_precision
        from mtnet.nets import load_state

        where = _device(device)
        bundle = Bundle.read(Path(folder))
        model, domain = bundle.model_info(), bundle.input_domain()
        build = _trusted_builder(bundle) if trust_bundle else bundle.build
        network = build("network_def")
        if tasks is not None:
            bundle.config["network_def"] = {**bundle.config["network_def"], "outputs": _outputs_of(network, tasks)}
            network = build("network_def")
        load_state(network, bundle.weights)
        inferer = build("inferer")
        if fast:
            inferer.plan = replace(inferer.plan, overlap=FAST_OVERLAP, precision=fast_precision(where))
        return cls(network, build("preprocessing"), inferer, model, where, domain)

    def run(self, path: str | Path, options: ReadOptions | None = None) -> Findings:
        """Everything about the one study at ``path``.

        Raises:
            RefusedError: the study cannot be read right, the network is not made for it, or there are several (use
                ``stream``).
        """
        case = self.read(path, options)
        return self.finish(case, self.infer(case))

    def stream(self, source: str | Path, options: ReadOptions | None = None) -> Iterator[Findings]:
        """The findings of every study, image or frame of a clip under ``source``, one after the other.

        Raises:
            RefusedError: an item cannot be read right.
        """
        options = options or ReadOptions()
        for item in self.items(scan(Path(source), options.limits), options):
            case = self.read_item(item, options)
            if isinstance(case, Clip):
                yield from (answered.findings for answered in self.frames(case))
            else:
                yield self.finish(case, self.infer(case))

    def items(self, studies: Sequence[Study], options: ReadOptions | None = None) -> list[Item]:
        """What there is to answer in studies that were scanned: studies for volumes, else single images and clips."""
        modalities = self.domain.modalities if self.domain else ()
        return items_of(studies, self.spatial_dims, options or ReadOptions(), modalities)

    def read(self, path: str | Path, options: ReadOptions | None = None) -> Case:
        """Scan, select and load the one study, or for a network of images the one image, at ``path``.

        Raises:
            RefusedError: nothing there can be read right, or there are several studies, images or frames.
        """
        options = options or ReadOptions()
        meter = CostMeter()
        with meter.stage("scan"):
            studies = scan(Path(path), options.limits)
        items = self.items(studies, options)
        if len(items) > 1:
            what = "studies" if self.spatial_dims == 3 else "images"
            message = f"The input holds {len(items)} {what}; give one of them, or stream them."
            raise RefusedError([ReportLine(f"several_{what}", "refused", message, Path(path).name)])
        case = self.read_item(items[0], options, meter)
        if isinstance(case, Clip):
            message = "The input is a clip of several frames; stream it."
            raise RefusedError([ReportLine("several_frames", "refused", message, Path(path).name)])
        return case

    def read_study(self, study: Study, options: ReadOptions | None = None, meter: CostMeter | None = None) -> Case:
        """Select a series of a study that was scanned, and load it; an image file is loaded as it is.

        Raises:
            RefusedError: nothing in it suits, the series cannot be read right, or its headers or values lie outside of
                the bundle's input domain.
        """
        options, meter = options or ReadOptions(), meter or CostMeter()
        with meter.stage("read"):
            return self._checked(read_volume_item(study, options, meter))

    def read_item(self, item: Item, options: ReadOptions | None = None, meter: CostMeter | None = None) -> Case | Clip:
        """Read one of ``items``; a clip is opened, and its first frame stands for it in the check of the input domain.

        Raises:
            RefusedError: as ``read_study``, or the item is of the other dimension than the network.
        """
        options, meter = options or ReadOptions(), meter or CostMeter()
        if self.spatial_dims == 3:
            return self.read_study(item.study, options, meter)
        with meter.stage("read"):
            case = read_image_item(item, options, meter)
            if isinstance(case, Case):
                return self._checked(case)
            first = self._checked(case.case_of(next(iter(case.frames)), NoMeter()))
            return replace(case, report=first.volume.report)

    def frames(self, clip: Clip) -> Iterator[AnsweredFrame]:
        """Answer a clip frame by frame, as many at once as the inferer takes windows; no more are held.

        Raises:
            RefusedError: a frame cannot be decoded right.
        """
        frames = iter(clip.frames)
        while batch := list(islice(frames, self.inferer.plan.batch)):
            start = time.perf_counter()
            cases = [clip.case_of(frame, NoMeter()) for frame in batch]
            findings = [self.finish(c, a) for c, a in zip(cases, self._infer_alike(cases), strict=True)]
            latency_ms = (time.perf_counter() - start) * 1000
            del cases
            for frame, found in zip(batch, findings, strict=True):
                yield AnsweredFrame(frame, found, latency_ms)

    def infer(self, case: Case, progress: Progress | None = None) -> Answers:
        """Preprocess the volume and pass the network over it once.

        Raises:
            RefusedError: the image does not show what the network is made for; it has not run.
        """
        with case.meter.stage("preprocess"):
            prepared, grid = self._prepared(case)
        lines: list[ReportLine] = []
        with case.meter.stage("network"):
            outputs, region = self.inferer.outputs_of(
                prepared[None],
                self.network,
                grid=grid,
                target=case.volume.geometry,
                progress=progress,
                on_region=lambda found: lines.extend(self._organ_lines(case, found)),
            )
        return Answers(outputs, grid, region, tuple(lines))

    def _infer_alike(self, cases: Sequence[Case]) -> list[Answers]:
        """``infer`` for frames of one clip: one pass of the network where each is seen as a whole."""
        import torch

        if len(cases) == 1:
            return [self.infer(cases[0])]
        prepared = [self._prepared(case) for case in cases]
        merged = self.inferer.outputs_of_batch(
            torch.stack([image for image, _ in prepared]),
            self.network,
            grids=[grid for _, grid in prepared],
            target=cases[0].volume.geometry,
        )
        return [Answers(outputs, grid, None) for outputs, (_, grid) in zip(merged, prepared, strict=True)]

    def _prepared(self, case: Case) -> tuple[Tensor, Geometry]:
        """The image ``(C, *S)`` as the network sees it, and its grid."""
        import torch
        from monai.data import MetaTensor

        from mtnet.inference.inferer import grid_from_ras
        from mtnet.io.loader import as_loaded

        volume = case.volume
        if case.scale is None:
            image = MetaTensor(
                torch.from_numpy(np.ascontiguousarray(volume.array[0], dtype=np.float32)),
                affine=torch.as_tensor(volume.geometry.affine_ras),
            )
        else:
            image = as_loaded(Image(volume.array[..., 0], case.scale.spacing_mm, volume.modality))
        prepared = self.preprocessing({"image": image})["image"]
        del image
        return prepared.as_tensor(), grid_from_ras(prepared.shape[1:], prepared.affine.numpy())

    def finish(self, case: Case, answers: Answers) -> Findings:
        """Turn the merged outputs into findings on the grid of the source."""
        volume, outputs = case.volume, answers.outputs
        options = self._options(case)
        source = case.source.sop_instance_uid or case.source.series_instance_uid or case.source.file_name
        seed = "|".join((source, self.model.weights_sha256, *options))
        made = Decoded()
        seen = Seen(
            case,
            outputs,
            answers.grid,
            hashed_uid(seed, *options.values()),
            region=answers.region.mask.numpy() if answers.region else None,
            values=self.inferer.region.hu_window if self.inferer.region else None,
            masks_tell_lesions=self.masks_tell_lesions,
        )
        with case.meter.stage("decode"):
            for spec in self.network.outputs:
                decode(made, spec, seen)
        regional = answers.region.lines if answers.region else ()
        return Findings(
            geometry=volume.geometry,
            source=case.source,
            model=self.model,
            lesions=made.lesions,
            image_classes=made.image_classes,
            labels=tuple(label for spec in self.network.outputs if spec.name == "pred" for label in drawn_labels(spec)),
            label_map=made.label_map,
            lesion_map=made.lesion_map,
            reconstruction=made.reconstruction,
            reconstruction_error=made.reconstruction_error,
            measured=made.measured,
            extras=made.extras,
            report=_windows_line(volume.report, outputs).plus((*answers.lines, *regional, *outputs.lines, *made.lines)),
            costs=tuple(case.meter.costs),
            options=options,
            plane=None if case.scale is None else Plane(case.scale.spacing_mm),
        )

    def _checked(self, case: Case) -> Case:
        """The case with what its headers and values say about it in its report."""
        if self.domain is None:
            message = "The bundle does not declare an input domain: whether it is made for this image is not checked."
            lines: tuple[ReportLine, ...] = (ReportLine("domain_not_declared", "note", message, "input domain"),)
        else:
            lines = self._settled(check_image(self.domain, case.volume, case.source), case)
        return replace(case, volume=replace(case.volume, report=case.volume.report.plus(lines)))

    def _organ_lines(self, case: Case, region: RegionResult | None) -> tuple[ReportLine, ...]:
        """What the image shows of the organ that the network is made for; nothing is measured twice."""
        from mtnet.inference.region import find_lungs

        if self.domain is None or self.domain.organ == "any":
            return ()
        lungs = region.lungs if region is not None else None
        if lungs is None:
            lungs = find_lungs(case.volume.array[0], case.volume.geometry)
        return self._settled(check_lungs(self.domain, lungs, case.source), case)

    def _settled(self, lines: tuple[ReportLine, ...], case: Case) -> tuple[ReportLine, ...]:
        return settle(lines, strict=case.options.strict, allow_outside=case.options.allow_outside)

    def _options(self, case: Case) -> dict[str, str]:
        plan, region = self.inferer.plan, self.inferer.region
        return {
            "window": "whole" if self.inferer.roi_size is None else "x".join(str(n) for n in plan.window),
            "overlap": f"{plan.overlap:g}",
            "importance": plan.importance,
            "precision": plan.precision,
            "region": region.rule if region else "whole",
            "outputs": ",".join(spec.name for spec in self.network.outputs),
            "repaired": "yes" if any(line.severity == "repaired" for line in case.volume.report) else "no",
        }


def _windows_line(report: InputReport, outputs: Outputs) -> InputReport:
    message = (
        f"The network saw {outputs.windows_run} of {outputs.windows_total} windows; "
        f"{outputs.region_share:.1%} of the image lies in the region that was looked at."
    )
    return report.plus([ReportLine("windows", "note", message, "network")])


def _without_loader(preprocessing: Transform) -> Transform:
    from monai.transforms import Compose

    if not isinstance(preprocessing, Compose):
        return preprocessing
    rest: Transform = Compose([step for step in preprocessing.transforms if "LoadImage" not in type(step).__name__])
    return rest


def _outputs_of(network: MultiTaskNet, tasks: Sequence[str]) -> list[str]:
    unknown = [task for task in tasks if task not in network.branches]
    if unknown or not tasks:
        raise BundleError(f"tasks is {', '.join(tasks) or 'empty'}; this bundle has {', '.join(network.branches)}.")
    return [spec.name for task in tasks for spec in _specs(network.branches[task])]


def _specs(branch: Any) -> tuple[OutputSpec, ...]:
    specs: tuple[OutputSpec, ...] = branch.outputs
    return specs


def _spatial_dims(network: MultiTaskNet, domain: InputDomain | None) -> int:
    """What the bundle declares; else what the first kernel of the network tells, and 3 where there is none."""
    if domain is not None:
        return domain.spatial_dims
    return next((weight.ndim - 2 for weight in network.parameters() if weight.ndim in (4, 5)), 3)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda, cuda:1...") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        there = f"{count} CUDA device(s)" if count else "no CUDA device"
        raise ValueError(f"device is {name!r}, but torch sees {there} here; use --device cpu.")
    return name


def _trusted_builder(bundle: Bundle) -> Callable[[str], Any]:
    from monai.bundle import ConfigParser

    def build(part: str) -> Any:
        parser = ConfigParser({**bundle.config, "bundle_root": str(bundle.folder)})
        return parser.get_parsed_content(part)

    return build
