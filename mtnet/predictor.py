"""The whole chain: a study is read, one pass of the network answers, and the answers become findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtnet.bundle import Bundle, BundleError
from mtnet.inference.cost import CostMeter
from mtnet.inference.decode import decode_global, decode_lesions, hashed_uid, reconstruction_error
from mtnet.inference.input_check import check_image, check_lungs, settle
from mtnet.io.image_files import load_image_file
from mtnet.io.limits import Limits
from mtnet.io.read import load_from_study
from mtnet.io.scan import scan
from mtnet.io.select import CHEST_CT_RULE, SeriesRule, select
from mtnet.io.verdicts import mode_of
from mtnet.structures import (
    Findings,
    Geometry,
    ImageClass,
    InputDomain,
    InputReport,
    Lesion,
    ModelInfo,
    OutputSpec,
    RefusedError,
    ReportLine,
    Source,
    Study,
    Volume,
)

if TYPE_CHECKING:
    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.plan import Outputs
    from mtnet.inference.region import RegionResult
    from mtnet.nets import MultiTaskNet

Progress = Callable[[int, int], None]
Transform = Callable[[Mapping[str, Any]], Mapping[str, Any]]

FAST_OVERLAP = 0.0


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a path is read: the series wanted, what to do with irregular ones, and what an input may cost.

    ``allow_outside`` answers what lies outside of the bundle's input domain, and flags it; ``strict`` refuses also what
    would only be flagged.
    """

    series_uid: str | None = None
    strict: bool = False
    repair: bool = False
    allow_outside: bool = False
    limits: Limits = field(default_factory=Limits)
    rule: SeriesRule = CHEST_CT_RULE


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One image that was read: the volume on its source grid, where it came from, what reading cost, and how it was
    asked to be read."""

    volume: Volume
    source: Source
    meter: CostMeter
    options: ReadOptions = field(default_factory=ReadOptions)


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

        # Channels last is faster for convolutions on a CPU; on CUDA it has not been measured.
        layout = torch.channels_last_3d if device == "cpu" else torch.contiguous_format
        network.eval().to(device=device)
        self.network: MultiTaskNet = network.to(memory_format=layout)  # type: ignore[call-overload]
        self.preprocessing = _without_loader(preprocessing)
        self.inferer = inferer
        self.inferer.device = device
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
        """The findings of every study or image under ``source``, one after the other.

        Raises:
            RefusedError: an item cannot be read right.
        """
        options = options or ReadOptions()
        for study in scan(Path(source), options.limits):
            case = self.read_study(study, options)
            yield self.finish(case, self.infer(case))

    def read(self, path: str | Path, options: ReadOptions | None = None) -> Case:
        """Scan, select and load the one study at ``path``.

        Raises:
            RefusedError: nothing there can be read right, or there are several studies.
        """
        options = options or ReadOptions()
        meter = CostMeter()
        with meter.stage("scan"):
            studies = scan(Path(path), options.limits)
        if len(studies) > 1:
            message = f"The input holds {len(studies)} studies; give one of them, or stream them."
            raise RefusedError([ReportLine("several_studies", "refused", message, Path(path).name)])
        return self.read_study(studies[0], options, meter)

    def read_study(self, study: Study, options: ReadOptions | None = None, meter: CostMeter | None = None) -> Case:
        """Select a series of a study that was scanned, and load it; an image file is loaded as it is.

        Raises:
            RefusedError: nothing in it suits, the series cannot be read right, or its headers or values lie outside of
                the bundle's input domain.
        """
        options = options or ReadOptions()
        meter = meter or CostMeter()
        how: dict[str, Any] = {"strict": options.strict, "repair": options.repair, "limits": options.limits}
        with meter.stage("read"):
            if study.image_path is not None:
                volume = load_image_file(study.image_path, **how)
                return self._checked(Case(volume, Source(file_name=study.image_path.name), meter, options))
            mode = mode_of(strict=options.strict, repair=options.repair)
            chosen = select(study, options.rule, options.series_uid, mode)
            volume = load_from_study(study, chosen.series, chosen.stack, **how)
            source = Source(
                study_instance_uid=study.study_instance_uid,
                series_instance_uid=chosen.series.series_instance_uid,
                choices=chosen.choices,
                series=chosen.series,
                stack=chosen.stack,
            )
            return self._checked(Case(volume, source, meter, options))

    def infer(self, case: Case, progress: Progress | None = None) -> Answers:
        """Preprocess the volume and pass the network over it once.

        Raises:
            RefusedError: the image does not show what the network is made for; it has not run.
        """
        import torch
        from monai.data import MetaTensor

        volume = case.volume
        with case.meter.stage("preprocess"):
            image = MetaTensor(
                torch.from_numpy(np.ascontiguousarray(volume.array[0], dtype=np.float32)),
                affine=torch.as_tensor(volume.geometry.affine_ras),
            )
            prepared = self.preprocessing({"image": image})["image"]
            del image
            grid = Geometry.from_ras(prepared.shape[1:], prepared.affine.numpy())
        lines: list[ReportLine] = []
        with case.meter.stage("network"):
            outputs, region = self.inferer.outputs_of(
                prepared.as_tensor()[None],
                self.network,
                grid=grid,
                target=volume.geometry,
                progress=progress,
                on_region=lambda found: lines.extend(self._organ_lines(case, found)),
            )
        return Answers(outputs, grid, region, tuple(lines))

    def finish(self, case: Case, answers: Answers) -> Findings:
        """Turn the merged outputs into findings on the grid of the source."""
        volume, outputs = case.volume, answers.outputs
        options = self._options(case)
        seed = "|".join((case.source.series_instance_uid or case.source.file_name, self.model.weights_sha256, *options))
        made = _Parts()
        with case.meter.stage("decode"):
            for spec in self.network.outputs:
                self._decode(spec, case, answers, hashed_uid(seed, *options.values()), made)
        regional = answers.region.lines if answers.region else ()
        return Findings(
            geometry=volume.geometry,
            source=case.source,
            model=self.model,
            lesions=made.lesions,
            image_classes=made.image_classes,
            labels=tuple(label for spec in self.network.outputs if spec.name == "pred" for label in spec.labels[1:]),
            label_map=made.label_map,
            lesion_map=made.lesion_map,
            reconstruction=made.reconstruction,
            reconstruction_error=made.reconstruction_error,
            report=_windows_line(volume.report, outputs).plus((*answers.lines, *regional, *outputs.lines, *made.lines)),
            costs=tuple(case.meter.costs),
            options=options,
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

    def _decode(self, spec: OutputSpec, case: Case, answers: Answers, seed: str, made: _Parts) -> None:
        """Add what one output says to ``made``."""
        volume, outputs = case.volume, answers.outputs
        if spec.kind == "dense" and spec.labels:
            made.label_map = Volume(outputs.dense[spec.name].array, volume.geometry, "SEG")
        elif spec.kind == "dense":
            redrawn = Volume(outputs.dense[spec.name].array, volume.geometry, volume.modality)
            made.reconstruction = redrawn
            made.reconstruction_error = reconstruction_error(
                volume,
                redrawn,
                region=answers.region.mask.numpy() if answers.region else None,
                region_geometry=answers.grid,
                limits=self.inferer.region.hu_window if self.inferer.region else None,
                units=spec.units,
            )
        elif spec.kind == "boxes":
            # Dense outputs come before boxes in every network, so the label map is there.
            made.lesions, made.lesion_map, made.lines = decode_lesions(
                outputs.boxes[spec.name],
                spec,
                image_geometry=answers.grid,
                geometry=volume.geometry,
                uid_seed=seed,
                label_map=None if made.label_map is None else made.label_map.array,
            )
        elif spec.kind == "global":
            made.image_classes = (*made.image_classes, *decode_global(outputs.global_[spec.name], spec))

    def _options(self, case: Case) -> dict[str, str]:
        plan, region = self.inferer.plan, self.inferer.region
        return {
            "window": "x".join(str(n) for n in plan.window),
            "overlap": f"{plan.overlap:g}",
            "importance": plan.importance,
            "precision": plan.precision,
            "region": region.rule if region else "whole",
            "outputs": ",".join(spec.name for spec in self.network.outputs),
            "repaired": "yes" if any(line.severity == "repaired" for line in case.volume.report) else "no",
        }


@dataclass(slots=True)
class _Parts:
    """What has been decoded so far."""

    lesions: tuple[Lesion, ...] = ()
    lesion_map: Volume | None = None
    label_map: Volume | None = None
    reconstruction: Volume | None = None
    reconstruction_error: Mapping[str, float] = field(default_factory=dict)
    image_classes: tuple[ImageClass, ...] = ()
    lines: tuple[ReportLine, ...] = ()


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
