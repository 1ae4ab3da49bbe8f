"""What a network says about a case: asked once of the whole image, or once at each place; and what that tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtnet.assembly import Transform
from mtnet.cases import Case, ReadOptions
from mtnet.decoded import Decoded
from mtnet.inference.input_check import check_lungs
from mtnet.inference.point_lesions import lesions_at
from mtnet.structures import Geometry, Image, InputDomain, OutputSpec, ReportLine

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torch import Tensor

    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.calibration import Calibration
    from mtnet.inference.plan import Outputs
    from mtnet.inference.region import RegionResult
    from mtnet.nets import MultiTaskNet
    from mtnet.transforms import NodulePatchd

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the network said about a case: merged outputs, the grid that it saw, where it looked, and what the image
    shows of the organ that the network is made for.

    Of a network of points ``at_places`` are its global outputs at each of the case's places, and ``outputs`` is empty.
    ``features`` are of ``FeatureTap``, ``(1, D)`` of the image or a row for each place, where they were asked for.
    """

    outputs: Outputs
    grid: Geometry
    region: RegionResult | None
    lines: tuple[ReportLine, ...] = ()
    at_places: tuple[Mapping[str, Tensor], ...] = ()
    features: NDArray[np.float64] | None = None


def patch_of(preprocessing: Transform) -> NodulePatchd | None:
    """The step that takes the field around a place, which makes a network one of points."""
    from monai.transforms import Compose

    from mtnet.transforms import NodulePatchd

    steps = preprocessing.transforms if isinstance(preprocessing, Compose) else (preprocessing,)
    return next((step for step in steps if isinstance(step, NodulePatchd)), None)


def prepared(case: Case, preprocessing: Transform) -> tuple[Tensor, Geometry]:
    """The image ``(C, *S)`` as the network sees it, and its grid."""
    from mtnet.inference.inferer import grid_from_ras

    image = preprocessing({"image": _loaded(case)})["image"]
    return image.as_tensor(), grid_from_ras(image.shape[1:], image.affine.numpy())


def answers_at_places(
    case: Case,
    preprocessing: Transform,
    network: MultiTaskNet,
    inferer: MultiTaskInferer,
    progress: Progress | None = None,
) -> Answers:
    """Ask a network of points at each of the case's places, as many at once as the inferer takes windows."""
    import torch

    from mtnet.inference.plan import Outputs
    from mtnet.transforms import AT

    with case.meter.stage("preprocess"):
        loaded = _loaded(case)
        patches = [preprocessing({"image": loaded, AT: place.lps_mm})["image"].as_tensor() for place in case.places]
        del loaded
    said: list[Outputs] = []
    with case.meter.stage("network"):
        for start in range(0, len(patches), inferer.plan.batch):
            images = torch.stack(patches[start : start + inferer.plan.batch])
            said.extend(inferer.outputs_of_batch(images, network))
            if progress is not None:
                progress(len(said), len(patches))
    lines = dict.fromkeys(line for outputs in said for line in outputs.lines)
    empty = Outputs({}, {}, {}, tuple(lines), len(said), len(said))
    return Answers(empty, case.volume.geometry, None, (), tuple(outputs.global_ for outputs in said))


def _loaded(case: Case) -> MetaTensor:
    """The image as a loader gives it to preprocessing."""
    import torch
    from monai.data import MetaTensor

    from mtnet.io.loader import as_loaded

    volume = case.volume
    if case.scale is not None:
        return as_loaded(Image(volume.array[..., 0], case.scale.spacing_mm, volume.modality))
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(volume.array[0], dtype=np.float32)),
        affine=torch.as_tensor(volume.geometry.affine_ras),
    )


def decoded_at_places(case: Case, answers: Answers, specs: Sequence[OutputSpec], uid_seed: str) -> Decoded:
    """What a network of points said, as lesions at the case's places."""
    found = lesions_at(case.places, answers.at_places, specs, case.volume.geometry, uid_seed)
    return Decoded(
        lesions=found.lesions,
        lesion_map=found.lesion_map,
        label_map=found.label_map,
        labels=found.labels,
        lines=found.lines,
    )


def told_options(
    case: Case,
    inferer: MultiTaskInferer,
    network: MultiTaskNet,
    patch: NodulePatchd | None,
    calibration: Calibration | None,
) -> dict[str, str]:
    """The options that change the answers, as text."""
    plan, region = inferer.plan, inferer.region
    return {
        "window": "whole" if inferer.roi_size is None else "x".join(str(n) for n in plan.window),
        "overlap": f"{plan.overlap:g}",
        "importance": plan.importance,
        "precision": plan.precision,
        "runtime": plan.runtime,
        "region": region.rule if region else "whole",
        "outputs": ",".join(spec.name for spec in network.outputs),
        "repaired": "yes" if any(line.severity == "repaired" for line in case.volume.report) else "no",
        **({"mirrored": inferer.mirror_axes} if inferer.mirror_axes else {}),
        **({} if patch is None else {"places": _kind_of_places(case.options)}),
        **({} if calibration is None else {"calibration": calibration.digest}),
    }


def seen_line(outputs: Outputs, patch: NodulePatchd | None) -> ReportLine:
    """How much of the image the network saw."""
    if patch is not None:
        field = " x ".join(f"{side:.4g}" for side in patch.field_mm)
        message = f"The network saw a field of {field} mm around each of {outputs.windows_run} place(s)."
        return ReportLine("places", "note", message, "network")
    message = (
        f"The network saw {outputs.windows_run} of {outputs.windows_total} windows; "
        f"{outputs.region_share:.1%} of the image lies in the region that was looked at."
    )
    return ReportLine("windows", "note", message, "network")


def _kind_of_places(options: ReadOptions) -> str:
    if options.points is None:
        return "middle of the crop"
    return "lesions of an earlier run" if options.points.of_lesions else "given"


def organ_lines(domain: InputDomain | None, case: Case, region: RegionResult | None) -> tuple[ReportLine, ...]:
    """What the image shows of the organ that the network is made for; nothing is measured twice."""
    from mtnet.inference.region import find_lungs

    if domain is None or domain.organ == "any":
        return ()
    lungs = region.lungs if region is not None else None
    if lungs is None:
        lungs = find_lungs(case.volume.array[0], case.volume.geometry)
    return tuple(check_lungs(domain, lungs, case.source))


def check_points(network: MultiTaskNet, spatial_dims: int) -> None:
    """Raise a ``ValueError`` where a network cannot be one of points."""
    other = [spec.name for spec in network.outputs if spec.kind != "global"]
    if other or spatial_dims != 3:
        told = f"its outputs {', '.join(other)} are not" if other else "its input domain is one of images"
        raise ValueError(f"The network is asked about places in a volume, and answers in global outputs, but {told}.")
