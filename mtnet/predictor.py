"""The whole chain: a study is read, one pass of the network answers, and the answers become findings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mtnet.answers import (
    Answers,
    Progress,
    answers_at_places,
    check_points,
    decoded_at_places,
    organ_lines,
    patch_of,
    prepared,
    seen_line,
    told_options,
)
from mtnet.assembly import Transform, assemble, without_loader
from mtnet.cases import Case, Clip, Item, ReadOptions, items_of, read_image_item, read_volume_item
from mtnet.decoded import Seen, decode_all
from mtnet.inference.cost import CostMeter, NoMeter
from mtnet.inference.decode import hashed_uid
from mtnet.inference.input_check import check_image, distance_lines, settle
from mtnet.io.scan import scan
from mtnet.points import one_study, placed
from mtnet.structures import (
    Findings,
    Frame,
    InputDomain,
    ModelInfo,
    Plane,
    RefusedError,
    ReportLine,
    Study,
)

if TYPE_CHECKING:
    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.calibration import Calibration
    from mtnet.inference.runtimes import Runtime
    from mtnet.inference.training_distance import FeatureTap
    from mtnet.nets import MultiTaskNet
    from mtnet.transforms import NodulePatchd

__all__ = ["AnsweredFrame", "Answers", "Case", "Predictor", "Progress", "ReadOptions", "Transform"]


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredFrame:
    """One frame of a clip: its pixels, its findings, and the milliseconds from one to the other."""

    frame: Frame
    findings: Findings
    latency_ms: float


class Predictor:
    """Answers a study in three steps, ``read``, ``infer`` and ``finish``, which ``run`` composes.

    Args:
        network: with weights; it is set to ``eval`` and moved to ``device``.
        preprocessing: MONAI chain on ``{"image": ...}``; a loader in it is left out, since ``read`` loads.
        inferer: window, overlap, precision and region.
        model: what results say about the network.
        device: ``cpu``, ``cuda``, ``cuda:1``...
        domain: the images that the network is made for; without it none is refused, and the report says so.
        calibration: of the network's weights: temperatures, and from where on an image is unlike the training data.

    ``keeps_features`` asks for ``Answers.features``; a calibration that needs them sets it.
    """

    def __init__(
        self,
        network: MultiTaskNet,
        preprocessing: Transform,
        inferer: MultiTaskInferer,
        model: ModelInfo,
        device: str = "cpu",
        domain: InputDomain | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        from mtnet.inference.memory_layout import kernel_dims, lay_out

        self.preprocessing = without_loader(preprocessing)
        self.patch = patch_of(self.preprocessing)
        # The planes of a network of points are cut from a volume, so what is read may have more dimensions than it.
        self.spatial_dims = domain.spatial_dims if domain else 3 if self.patch else kernel_dims(network)
        if self.patch is not None:
            check_points(network, self.spatial_dims)
        lay_out(network.eval(), device)
        self.network = network
        self.inferer = inferer
        self.inferer.device = device
        # Without boxes the parts of the mask are the lesions of an image, and their probability is the score.
        self.masks_tell_lesions = self.spatial_dims == 2 and not any(spec.kind == "boxes" for spec in network.outputs)
        if self.masks_tell_lesions:
            self.inferer.plan = replace(self.inferer.plan, keep_probabilities=True)
        self.model = model
        self.device = device
        self.domain = domain
        self.calibration = calibration
        self.keeps_features = calibration is not None and calibration.features is not None
        if calibration is not None:
            calibration.apply(network)

    @classmethod
    def from_bundle(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        tasks: Sequence[str] | None = None,
        fast: bool = False,
        trust_bundle: bool = False,
        weights: str | Path | None = None,
        runtime: Runtime = "eager",
        half: bool = False,
        memory_limit_bytes: int | None = None,
        mirror: str = "",
    ) -> Predictor:
        """Build from a bundle folder, reading it as data (``mtnet.bundle``).

        Args:
            folder: the bundle.
            device: ``auto`` takes CUDA where there is some.
            tasks: branches to run; all by default.
            fast: no overlap and the half precision that the device does well.
            trust_bundle: hand the config to MONAI's parser, which runs whatever it says.
            weights: a state dict in place of the bundle's own: a file, or the name of one that the bundle offers.
            runtime: what passes windows through the network; see ``mtnet.inference.runtimes``.
            half: the half precision that device and runtime do well, float32 where they do none well.
            memory_limit_bytes: that the engine may take on the device beyond what is taken already.
            mirror: axes of the source, such as ``i`` or ``ij``, along which the image is asked about mirrored too.

        Raises:
            BundleError: the bundle is damaged, has no weights or not its own, or a task is unknown.
            ValueError: the weights do not fit the network, their calibration is damaged, or there is no such device.
        """
        parts = assemble(
            Path(folder),
            device=device,
            tasks=tasks,
            fast=fast,
            trust_bundle=trust_bundle,
            weights=weights,
            runtime=runtime,
            half=half,
            memory_limit_bytes=memory_limit_bytes,
            mirror=mirror,
        )
        return cls(
            parts.network,
            parts.preprocessing,
            parts.inferer,
            parts.model,
            parts.device,
            parts.domain,
            parts.calibration,
        )

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
        """What there is to answer in studies that were scanned: studies for volumes, else single images and clips.

        Raises:
            RefusedError: places are given, and there are several studies that they could lie in.
            ValueError: places are given, and the network is none of points.
        """
        options = options or ReadOptions()
        modalities = self.domain.modalities if self.domain else ()
        if options.points is not None:
            if self.patch is None:
                raise ValueError(
                    f"{self.model.name} looks at all of an image; places (--at, --lesions) are not for it."
                )
            studies = one_study(studies, options.points)
        return items_of(studies, self.spatial_dims, options, modalities)

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
            RefusedError: nothing in it suits, the series cannot be read right, its headers or values lie outside of
                the bundle's input domain, or a network of points is not told where to look in it.
        """
        options, meter = options or ReadOptions(), meter or CostMeter()
        with meter.stage("read"):
            case = read_volume_item(study, options, meter)
            case = self._checked(case)
            return case if self.patch is None else self._with_places(case, self.patch)

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
        """Preprocess the volume and pass the network over it once, or over the field around each of its places.

        Raises:
            RefusedError: the image does not show what the network is made for; it has not run.
        """
        if self.patch is not None:
            with self._tap() as seen:
                answers = answers_at_places(case, self.preprocessing, self.network, self.inferer, progress)
            return replace(answers, features=seen.rows)
        with case.meter.stage("preprocess"):
            image, grid = prepared(case, self.preprocessing)
        lines: list[ReportLine] = []
        with case.meter.stage("network"), self._tap() as seen:
            outputs, region = self.inferer.outputs_of(
                image[None],
                self.network,
                grid=grid,
                target=case.volume.geometry,
                progress=progress,
                on_region=lambda found: lines.extend(self._settled(organ_lines(self.domain, case, found), case)),
            )
        return Answers(outputs, grid, region, tuple(lines), features=seen.mean)

    def _tap(self) -> FeatureTap:
        """Notes the encoder's features where they are asked for and the encoder runs as it is."""
        from mtnet.inference.training_distance import FeatureTap

        return FeatureTap(self.network if self.keeps_features and self.inferer.plan.runtime == "eager" else None)

    def _infer_alike(self, cases: Sequence[Case]) -> list[Answers]:
        """``infer`` for frames of one clip: one pass of the network where each is seen as a whole."""
        import torch

        if len(cases) == 1:
            return [self.infer(cases[0])]
        images = [prepared(case, self.preprocessing) for case in cases]
        with self._tap() as seen:
            merged = self.inferer.outputs_of_batch(
                torch.stack([image for image, _ in images]),
                self.network,
                grids=[grid for _, grid in images],
                target=cases[0].volume.geometry,
            )
        rows = seen.rows
        # Where memory ran out, or there are windows, rows and frames are not one to one.
        per_frame = [None] * len(images) if rows is None or len(rows) != len(images) else [row[None] for row in rows]
        return [
            Answers(outputs, grid, None, features=row)
            for outputs, (_, grid), row in zip(merged, images, per_frame, strict=True)
        ]

    def finish(self, case: Case, answers: Answers) -> Findings:
        """Turn the merged outputs into findings on the grid of the source."""
        volume, outputs = case.volume, answers.outputs
        options = told_options(case, self.inferer, self.network, self.patch, self.calibration)
        source = case.source.sop_instance_uid or case.source.series_instance_uid or case.source.file_name
        seed = "|".join((source, self.model.weights_sha256, *options))
        uid_seed = hashed_uid(seed, *options.values())
        seen = Seen(
            case,
            outputs,
            answers.grid,
            uid_seed,
            region=answers.region.mask.numpy() if answers.region else None,
            values=self.inferer.region.hu_window if self.inferer.region else None,
            masks_tell_lesions=self.masks_tell_lesions,
        )
        with case.meter.stage("decode"):
            if self.patch is None:
                made = decode_all(self.network.outputs, seen)
            else:
                made = decoded_at_places(case, answers, self.network.outputs, uid_seed)
        regional = answers.region.lines if answers.region else ()
        distances = self.calibration.distances(answers.features, made.reconstruction_error) if self.calibration else ()
        return Findings(
            geometry=volume.geometry,
            source=case.source,
            model=self.model,
            lesions=made.lesions,
            image_classes=made.image_classes,
            labels=made.labels,
            label_map=made.label_map,
            lesion_map=made.lesion_map,
            reconstruction=made.reconstruction,
            reconstruction_error=made.reconstruction_error,
            measured=made.measured,
            extras=made.extras,
            report=volume.report.plus(
                (
                    seen_line(outputs, self.patch),
                    *answers.lines,
                    *regional,
                    *outputs.lines,
                    *made.lines,
                    *self._settled(distance_lines(distances), case),
                )
            ),
            costs=tuple(case.meter.costs),
            options=options,
            plane=None if case.scale is None else Plane(case.scale.spacing_mm),
            training_distance=distances,
        )

    def _with_places(self, case: Case, patch: NodulePatchd) -> Case:
        """The case with the places that the network is asked about, and what is to be said of them in its report."""
        from mtnet.transforms import LARGEST_CROP_MM

        volume = case.volume
        places, lines = placed(
            case.options.points, volume.geometry, case.source, patch.field_mm, largest_crop_mm=LARGEST_CROP_MM
        )
        report = volume.report.plus(self._settled(lines, case))
        return replace(case, places=places, volume=replace(volume, report=report))

    def _checked(self, case: Case) -> Case:
        """The case with what its headers and values say about it in its report."""
        if self.domain is None:
            message = "The bundle does not declare an input domain: whether it is made for this image is not checked."
            lines: tuple[ReportLine, ...] = (ReportLine("domain_not_declared", "note", message, "input domain"),)
        else:
            lines = self._settled(check_image(self.domain, case.volume, case.source), case)
        return replace(case, volume=replace(case.volume, report=case.volume.report.plus(lines)))

    def _settled(self, lines: tuple[ReportLine, ...], case: Case) -> tuple[ReportLine, ...]:
        return settle(lines, strict=case.options.strict, allow_outside=case.options.allow_outside)
