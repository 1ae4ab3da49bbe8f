"""From a bundle's folder to what a predictor runs: network with weights, preprocessing, inferer, declarations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.bundle import Bundle, BundleError
from mtnet.structures import InputDomain, ModelInfo, OutputSpec

if TYPE_CHECKING:
    from mtnet.inference import MultiTaskInferer
    from mtnet.inference.calibration import Calibration
    from mtnet.inference.runtimes import Runtime
    from mtnet.nets import MultiTaskNet

Transform = Callable[[Mapping[str, Any]], Mapping[str, Any]]

FAST_OVERLAP = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a bundle gives a ``Predictor``, in its words."""

    network: MultiTaskNet
    preprocessing: Transform
    inferer: MultiTaskInferer
    model: ModelInfo
    device: str
    domain: InputDomain | None
    calibration: Calibration | None = None


def assemble(
    folder: Path,
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
) -> Parts:
    """Build the parts of a bundle; see ``Predictor.from_bundle``.

    Raises:
        BundleError: the bundle is damaged, has no weights or not its own, or a task is unknown.
        ValueError: the weights do not fit the network, their calibration is damaged, or there is no such device.
    """
    from mtnet.inference.calibration import read_calibration
    from mtnet.inference.precision import fast_precision
    from mtnet.nets import load_state

    where = _device(device)
    bundle = Bundle.read(folder).with_weights(weights)
    model, domain = bundle.model_info(), bundle.input_domain()
    build = _trusted_builder(bundle) if trust_bundle else bundle.build
    network = build("network_def")
    if tasks is not None:
        bundle.config["network_def"] = {**bundle.config["network_def"], "outputs": _outputs_of(network, tasks)}
        network = build("network_def")
    load_state(network, bundle.weights)
    inferer = build("inferer")
    inferer.plan = replace(inferer.plan, runtime=runtime, memory_limit_bytes=memory_limit_bytes)
    if fast or half:
        inferer.plan = replace(inferer.plan, precision=fast_precision(where, runtime))
    if mirror:
        from mtnet.inference.mirrored import MirroredInferer

        inferer = MirroredInferer(inferer, mirror)
    if fast:
        inferer.plan = replace(inferer.plan, overlap=FAST_OVERLAP)
    calibration = read_calibration(bundle.weights, model.weights_sha256)
    return Parts(network, build("preprocessing"), inferer, model, where, domain, calibration)


def _outputs_of(network: MultiTaskNet, tasks: Sequence[str]) -> list[str]:
    unknown = [task for task in tasks if task not in network.branches]
    if unknown or not tasks:
        raise BundleError(f"tasks is {', '.join(tasks) or 'empty'}; this bundle has {', '.join(network.branches)}.")
    return [spec.name for task in tasks for spec in _specs(network.branches[task])]


def _specs(branch: Any) -> tuple[OutputSpec, ...]:
    specs: tuple[OutputSpec, ...] = branch.outputs
    return specs


def without_loader(preprocessing: Transform) -> Transform:
    """A chain without the steps that load."""
    from monai.transforms import Compose

    if not isinstance(preprocessing, Compose):
        return preprocessing
    rest: Transform = Compose([step for step in preprocessing.transforms if "LoadImage" not in type(step).__name__])
    return rest


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
